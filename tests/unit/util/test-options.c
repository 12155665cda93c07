/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct target {
    struct option_bool force_share;
    struct option_number l2_cache_size;
    struct option_number entry_size;
    struct option_number threads;
    struct option_number any;
    struct option_number only;
    struct option_number mode;
    char *data_file;
    char *passed;
};

#define FIELD(name) offsetof(struct target, name)

static const struct option_spec table[] = {
    {.name = "noatime", .aliases = "relatime z-*", .type = OPTION_IGNORE},
    {.name = "x-*", .aliases = "comment y-*", .type = OPTION_IGNORE},
    {.name = "force-share",
     .aliases = "U share",
     .type = OPTION_BOOL,
     .field = FIELD(force_share),
     .help = "open the image although another program may write to it"},
    {.name = "l2-cache-size",
     .type = OPTION_SIZE,
     .field = FIELD(l2_cache_size),
     .min = 16384,
     .max = UINT64_C(3) << 29,
     .value_name = "SIZE",
     .default_text = "what maps the disk, at most 32M",
     .help = "memory for the L2 slices of all images of the chain, shared by every thread"},
    {.name = "l2-cache-entry-size",
     .type = OPTION_SIZE,
     .field = FIELD(entry_size),
     .min = 1025,
     .max = INT64_MAX,
     .value_name = "SIZE",
     .default_text = "4K",
     .help = "size of one slice"},
    {.name = "threads",
     .type = OPTION_UINT,
     .field = FIELD(threads),
     .min = 1,
     .max = 256,
     .value_name = "N",
     .default_text = "10",
     .help = "worker threads"},
    {.name = "any", .type = OPTION_UINT, .field = FIELD(any), .max = UINT64_MAX},
    {.name = "only", .type = OPTION_UINT, .field = FIELD(only), .min = 3, .max = 3},
    {.name = "mode",
     .type = OPTION_OCTAL,
     .field = FIELD(mode),
     .max = 0777,
     .value_name = "MODE",
     .help = ".qcow2's mode isn't `x', but C:\\~^"},
    {.name = "data-file", .type = OPTION_STRING, .field = FIELD(data_file), .help = "a name"},
    {.name = "x-known", .type = OPTION_STRING, .field = FIELD(data_file)},
    {.name = "allow_other", .type = OPTION_PASS, .field = FIELD(passed), .help = "all users"},
    {.name = "fsname",
     .type = OPTION_PASS,
     .field = FIELD(passed),
     .value_name = "NAME",
     .help = "name in the table of mounts"},
    {.name = "label", .type = OPTION_KERNEL, .field = FIELD(passed), .value_name = "LABEL"},
    {.name = "snapshot", .type = OPTION_REFUSE, .default_text = "look into the directory"},
    {0},
};

static struct target target;
static struct error error;

static void setup(void)
{
    memset(&target, 0, sizeof(target));
    memset(&error, 0, sizeof(error));
}

static void teardown(void)
{
    options_release(table, &target);
}

static void accept(const char *list)
{
    ck_assert_msg(options_parse(table, &target, list, &error) == 0, "%s: %s", list, error.text);
}

/* --- parsing ---------------------------------------------------------------- */

START_TEST(an_empty_list_and_empty_items_change_nothing)
{
    struct target untouched = {0};

    accept("");
    accept(",");
    accept(",,,");
    ck_assert_mem_eq(&target, &untouched, sizeof(target));
    accept(",,threads=3,,mode=7,");
    ck_assert_uint_eq(target.threads.value, 3);
    ck_assert_uint_eq(target.mode.value, 7);
}
END_TEST

static const struct {
    const char *list;
    bool value;
} switches[] = {
    {"force-share", true},     {"force-share=on", true},
    {"force-share=yes", true}, {"force-share=true", true},
    {"force-share=1", true},   {"force-share=off", false},
    {"force-share=no", false}, {"force-share=false", false},
    {"force-share=0", false},  {"force-share,force-share=off", false},
};

START_TEST(a_switch_is_on_when_bare_and_takes_the_usual_words)
{
    target.force_share.value = !switches[_i].value;
    accept(switches[_i].list);
    ck_assert(target.force_share.set);
    ck_assert(target.force_share.value == switches[_i].value);
}
END_TEST

START_TEST(numbers_are_read_by_their_type)
{
    accept("l2-cache-size=1.5G,threads=010,mode=0640,any=18446744073709551615");
    ck_assert(target.l2_cache_size.set && target.threads.set && target.mode.set && target.any.set);
    ck_assert_uint_eq(target.l2_cache_size.value, UINT64_C(3) << 29);
    ck_assert_uint_eq(target.threads.value, 10);
    ck_assert_uint_eq(target.mode.value, 0640);
    ck_assert_uint_eq(target.any.value, UINT64_MAX);
    ck_assert(!target.entry_size.set);
}
END_TEST

START_TEST(both_ends_of_a_range_are_allowed)
{
    accept("threads=1,l2-cache-size=16K,any=0,mode=0");
    ck_assert_uint_eq(target.threads.value, 1);
    ck_assert_uint_eq(target.l2_cache_size.value, 16384);
    accept("threads=256,l2-cache-size=1.5G,mode=777");
    ck_assert_uint_eq(target.threads.value, 256);
    ck_assert_uint_eq(target.mode.value, 0777);
}
END_TEST

START_TEST(dashes_and_underscores_are_one_letter)
{
    accept("l2_cache_size=64K,l2-cache_entry-size=4K,allow-other");
    ck_assert_uint_eq(target.l2_cache_size.value, 65536);
    ck_assert_uint_eq(target.entry_size.value, 4096);
    ck_assert_str_eq(target.passed, "allow-other");
}
END_TEST

START_TEST(an_alias_sets_the_same_field)
{
    accept("U");
    ck_assert(target.force_share.value);
    accept("share=off");
    ck_assert(!target.force_share.value);
}
END_TEST

START_TEST(part_of_a_name_is_not_the_name)
{
    ck_assert_int_eq(options_parse(table, &target, "thread=1", &error), -EINVAL);
    ck_assert_int_eq(options_parse(table, &target, "threadss=1", &error), -EINVAL);
    ck_assert_int_eq(options_parse(table, &target, "U share", &error), -EINVAL);
}
END_TEST

START_TEST(a_later_item_overrides_an_earlier_one)
{
    accept("threads=1,data-file=one,threads=2,data-file=two");
    ck_assert_uint_eq(target.threads.value, 2);
    ck_assert_str_eq(target.data_file, "two");
    accept("threads=3,data-file=three");
    ck_assert_uint_eq(target.threads.value, 3);
    ck_assert_str_eq(target.data_file, "three");
}
END_TEST

static const struct {
    const char *list;
    const char *value;
} escapes[] = {
    {"data-file=a\\,b,threads=7", "a,b"},       {"data-file=a\\\\,threads=7", "a\\"},
    {"data-file=a\\\\\\,b,threads=7", "a\\,b"}, {"data-file=a\\nb\\=c,threads=7", "a\\nb\\=c"},
    {"threads=7,data-file=a\\", "a\\"},         {"threads=7,data-file=a\\,", "a,"},
    {"data-file==a=b=,threads=7", "=a=b="},     {"data-file=,threads=7", ""},
    {"data-file=\\,,threads=7", ","},
};

START_TEST(a_backslash_takes_the_meaning_of_comma_and_backslash_only)
{
    accept(escapes[_i].list);
    ck_assert_str_eq(target.data_file, escapes[_i].value);
    ck_assert_uint_eq(target.threads.value, 7);
}
END_TEST

START_TEST(passed_items_are_collected_as_they_came)
{
    accept("allow_other,threads=2,fsname=a\\,b\\\\");
    ck_assert_str_eq(target.passed, "allow_other,fsname=a\\,b\\\\");
    accept("fsname=c");
    ck_assert_str_eq(target.passed, "allow_other,fsname=a\\,b\\\\,fsname=c");
}
END_TEST

START_TEST(a_label_may_be_quoted_for_its_commas_and_is_passed_on_so)
{
    accept("label=\"a:s0:c1,c2\",threads=2,label=b\\,c,label=d\\\\");
    ck_assert_str_eq(target.passed, "label=\"a:s0:c1\\,c2\",label=\"b\\,c\",label=\"d\\\\\"");
    ck_assert_uint_eq(target.threads.value, 2);
    ck_assert_int_eq(options_parse(table, &target, "label=\"a\"b\"", &error), -EINVAL);
    ck_assert_int_eq(options_parse(table, &target, "label", &error), -EINVAL);
    /* Of others a quote is a letter like any. */
    accept("data-file=\"x,threads=3");
    ck_assert_str_eq(target.data_file, "\"x");
    ck_assert_uint_eq(target.threads.value, 3);
}
END_TEST

START_TEST(what_others_call_it_is_refused_with_what_is_meant)
{
    ck_assert_int_eq(options_parse(table, &target, "snapshot=1", &error), -EINVAL);
    ck_assert_msg(strstr(error.text, "look into the directory") != NULL, "%s", error.text);
    ck_assert_ptr_null(options_nearest(table, "snapshots"));
}
END_TEST

START_TEST(ignored_names_and_prefixes_are_accepted_with_and_without_value)
{
    struct target untouched = {0};

    accept("comment,comment=a\\,b,x-,x-systemd.automount,x_gvfs=1,y-z=2");
    ck_assert_mem_eq(&target, &untouched, sizeof(target));
    ck_assert_int_eq(options_parse(table, &target, "x", &error), -EINVAL);
    ck_assert_int_eq(options_parse(table, &target, "ax-b", &error), -EINVAL);
    ck_assert_int_eq(options_parse(table, &target, "comments", &error), -EINVAL);
}
END_TEST

START_TEST(a_whole_name_goes_before_a_prefix_that_stands_earlier)
{
    accept("x-known=here");
    ck_assert_str_eq(target.data_file, "here");
}
END_TEST

START_TEST(strings_are_freed_and_forgotten)
{
    accept("data-file=a,allow_other");
    options_release(table, &target);
    ck_assert_ptr_null(target.data_file);
    ck_assert_ptr_null(target.passed);
    options_release(table, &target);
}
END_TEST

START_TEST(a_failure_leaves_strings_that_can_be_freed)
{
    ck_assert_int_eq(options_parse(table, &target, "data-file=a,allow_other,nothing", &error),
                     -EINVAL);
    ck_assert_str_eq(target.data_file, "a");
    ck_assert_str_eq(target.passed, "allow_other");
}
END_TEST

/* --- sentences -------------------------------------------------------------- */

static const struct {
    const char *list;
    const char *sentence;
} refused[] = {
    {"l2-cache-size=12X",
     "option l2-cache-size=12X: '12X' is not a size; write bytes or a number with a suffix, as in "
     "64K, 10G"},
    {"l2-cache-size=",
     "option l2-cache-size=: '' is not a size; write bytes or a number with a suffix, as in 64K, "
     "10G"},
    {"l2_cache_size=16383",
     "option l2_cache_size=16383: 16383 is out of range; it must be from 16 KiB to 1.5 GiB"},
    {"l2-cache-size=2G",
     "option l2-cache-size=2G: 2G is out of range; it must be from 16 KiB to 1.5 GiB"},
    {"l2-cache-size=99E",
     "option l2-cache-size=99E: 99E is out of range; it must be from 16 KiB to 1.5 GiB"},
    /* Rounded, 1 KiB and 8 EiB, these would be lies. */
    {"l2-cache-entry-size=8E",
     "option l2-cache-entry-size=8E: 8E is out of range; it must be from 1025 B to "
     "9223372036854775807 B"},
    {"threads=0", "option threads=0: 0 is out of range; it must be from 1 to 256"},
    {"threads=257", "option threads=257: 257 is out of range; it must be from 1 to 256"},
    {"threads=18446744073709551617",
     "option threads=18446744073709551617: 18446744073709551617 is out of range; it must be from "
     "1 to 256"},
    {"only=4", "option only=4: 4 is out of range; it must be 3"},
    {"threads=4K",
     "option threads=4K: '4K' is not a number; write it in decimal digits, without a sign"},
    {"threads=-1",
     "option threads=-1: '-1' is not a number; write it in decimal digits, without a sign"},
    {"threads=", "option threads=: '' is not a number; write it in decimal digits, without a sign"},
    {"mode=8", "option mode=8: '8' is not a file mode; write it in octal digits, as in 0640"},
    {"mode=1000", "option mode=1000: 1000 is out of range; it must be from 0 to 0777"},
    {"l2-cache-size", "option l2-cache-size: its value is missing; write l2-cache-size=SIZE"},
    {"threads,mode=1", "option threads: its value is missing; write threads=N"},
    {"data_file", "option data_file: its value is missing; write data_file=VALUE"},
    {"force-share=maybe",
     "option force-share=maybe: 'maybe' is neither on nor off; write force-share, or "
     "force-share=off"},
    {"force-share=",
     "option force-share=: '' is neither on nor off; write force-share, or force-share=off"},
    {"l2-cache-sise=1", "unknown option 'l2-cache-sise'; did you mean l2-cache-size?"},
    {"compression", "unknown option 'compression'; --help lists the known ones"},
    {"=1", "option =1: there is no name before the ="},
    {"threads=a\\,b",
     "option threads=a\\,b: 'a,b' is not a number; write it in decimal digits, without a sign"},
    {"threads=\x1b[2J",
     "option threads=?[2J: '?[2J' is not a number; write it in decimal digits, without a sign"},
};

START_TEST(a_refusal_names_the_item_the_value_and_the_way_out)
{
    ck_assert_int_eq(options_parse(table, &target, refused[_i].list, &error), -EINVAL);
    ck_assert_int_eq(error.code, EINVAL);
    ck_assert_str_eq(error.text, refused[_i].sentence);
}
END_TEST

START_TEST(a_refusal_needs_no_error_to_fill)
{
    ck_assert_int_eq(options_parse(table, &target, "threads=0", NULL), -EINVAL);
    ck_assert_int_eq(options_parse(table, &target, "nothing", NULL), -EINVAL);
}
END_TEST

/* Puts `count` times the bytes of `filling` behind `beginning`; for the caller to free. */
static char *fill(const char *beginning, const char *filling, size_t count)
{
    size_t length = strlen(beginning);
    size_t width = strlen(filling);
    char *text = malloc(length + count * width + 1);

    ck_assert_ptr_nonnull(text);
    memcpy(text, beginning, length + 1);
    for (size_t i = 0; i < count; i++) {
        memcpy(text + length + i * width, filling, width + 1);
    }
    return text;
}

START_TEST(a_very_long_item_is_cut_between_characters_and_the_advice_is_kept)
{
    /* Of three bytes, so that 200 is inside one, in the item as well as in the value. */
    char *list = fill("threads=", "\xe2\x82\xac", 100000);

    ck_assert_int_eq(options_parse(table, &target, list, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "\xe2\x82\xac...: '\xe2\x82\xac"));
    ck_assert_ptr_nonnull(strstr(error.text, "\xe2\x82\xac...' is not a number; write it"));
    ck_assert_ptr_null(strchr(error.text, '?'));
    free(list);

    list = fill("", "n", 1000000);
    ck_assert_int_eq(options_parse(table, &target, list, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, "nnn...'; --help lists"));
    free(list);
}
END_TEST

/* --- nearest ---------------------------------------------------------------- */

static const struct {
    const char *name;
    const char *nearest; /* NULL when there is none */
} near[] = {
    {"l2-cache-sise", "l2-cache-size"},
    {"l2cachesize", "l2-cache-size"},
    {"l2_cache_siez", "l2-cache-size"},
    {"L2-CACHE-SIZE", "l2-cache-size"},
    {"l2-cache-entrysize", "l2-cache-entry-size"},
    {"thread", "threads"},
    {"treads", "threads"},
    {"htreads", "threads"}, /* a swap is one step */
    {"tbreabs", "threads"},
    {"tbrcabs", NULL}, /* three of seven letters are too many */
    {"moed", "mode"},
    {"ayn", "any"},
    {"shara", "force-share"}, /* near an alias */
    {"alow-other", "allow_other"},
    {"mo", NULL},
    {"m", NULL},
    {"", NULL},
    {"x-", NULL}, /* a prefix is no name */
    {"y-", NULL},
    {"z-", NULL},
    {"z-x", NULL},
    {"commnet", NULL}, /* nor can an alias of one be shown */
    {"compression", NULL},
};

START_TEST(the_nearest_name_is_what_was_probably_meant)
{
    const char *nearest = options_nearest(table, near[_i].name);

    if (near[_i].nearest == NULL) {
        ck_assert_msg(nearest == NULL, "%s is near %s", near[_i].name, nearest);
    } else {
        ck_assert_msg(nearest != NULL, "nothing is near %s", near[_i].name);
        ck_assert_str_eq(nearest, near[_i].nearest);
    }
}
END_TEST

#define A60 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

START_TEST(names_of_more_than_64_bytes_are_near_to_nothing)
{
    static const struct option_spec long_names[] = {
        {.name = A60 "aaaa", .type = OPTION_BOOL},
        {.name = A60 "bbbbbbbbbb", .type = OPTION_BOOL},
        {0},
    };

    ck_assert_ptr_eq(options_nearest(long_names, A60 "aaab"), long_names[0].name);
    ck_assert_ptr_null(options_nearest(long_names, A60 "aaaab"));
    ck_assert_ptr_null(options_nearest(long_names, A60 "bbbb"));
}
END_TEST

/* --- help, man page, names -------------------------------------------------- */

/* What `write` prints of the table; for the caller to free. */
static char *printed(void (*write)(const struct option_spec *, FILE *),
                     const struct option_spec *of)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    ck_assert_ptr_nonnull(out);
    write(of, out);
    ck_assert_int_eq(fclose(out), 0);
    return text;
}

START_TEST(help_has_two_columns_and_the_default_at_the_end)
{
    char *text = printed(options_help, table);

    ck_assert_str_eq(
        text, "  force-share                   open the image although another program may\n"
              "                                write to it\n"
              "  l2-cache-size=SIZE            memory for the L2 slices of all images of the\n"
              "                                chain, shared by every thread (default: what\n"
              "                                maps the disk, at most 32M)\n"
              "  l2-cache-entry-size=SIZE      size of one slice (default: 4K)\n"
              "  threads=N                     worker threads (default: 10)\n"
              "  mode=MODE                     .qcow2's mode isn't `x', but C:\\~^\n"
              "  data-file=VALUE               a name\n"
              "  allow_other                   all users\n"
              "  fsname=NAME                   name in the table of mounts\n");
    free(text);
}
END_TEST

#define N28 "nnnnnnnnnnnnnnnnnnnnnnnnnnnn"
#define W48 "wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww"

START_TEST(help_fills_lines_to_the_last_column_and_no_further)
{
    static const struct option_spec wide[] = {
        {.name = N28, .help = "text", .type = OPTION_BOOL},
        {.name = N28 "n", .help = "text", .type = OPTION_BOOL},
        {.name = N28 N28, .help = "text", .type = OPTION_BOOL},
        {.name = "a", .help = W48 " b", .type = OPTION_BOOL},
        {.name = "b", .help = "b " W48 "w  b", .type = OPTION_BOOL},
        {.name = "c",
         .help = "aaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbb",
         .value_name = "C"},
        {.name = "d", .help = "aaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbb"},
        {.name = "e", .help = "aaaaaaaaaaaaa aaaaaaaaaaaaa", .default_text = "bbbbbbbbbb"},
        {.name = "f", .help = "aaaaaaaaaaaaaa aaaaaaaaaaaaa", .default_text = "bbbbbbbbbb"},
        {0},
    };
    char *text = printed(options_help, wide);

    ck_assert_str_eq(text, "  " N28 "  text\n"
                           "  " N28 "n\n"
                           "                                text\n"
                           "  " N28 N28 "\n"
                           "                                text\n"
                           "  a                             " W48 "\n"
                           "                                b\n"
                           "  b                             b\n"
                           "                                " W48 "w\n"
                           "                                b\n"
                           "  c[=C]                         "
                           "aaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbb\n"
                           "  d                             aaaaaaaaaaaaaaaaaaaaaaaa\n"
                           "                                bbbbbbbbbbbbbbbbbbbbbbbb\n"
                           "  e                             "
                           "aaaaaaaaaaaaa aaaaaaaaaaaaa (default:\n"
                           "                                bbbbbbbbbb)\n"
                           "  f                             "
                           "aaaaaaaaaaaaaa aaaaaaaaaaaaa (default:\n"
                           "                                bbbbbbbbbb)\n");
    free(text);
}
END_TEST

START_TEST(man_entries_are_roff_that_shows_each_letter_as_it_is)
{
    char *text = printed(options_man, table);

    ck_assert_str_eq(text,
                     ".TP\n\\fBforce\\-share\\fR\n"
                     "open the image although another program may write to it\n"
                     ".TP\n\\fBl2\\-cache\\-size\\fR=\\fISIZE\\fR\n"
                     "memory for the L2 slices of all images of the chain, shared by every thread "
                     "(default: what maps the disk, at most 32M)\n"
                     ".TP\n\\fBl2\\-cache\\-entry\\-size\\fR=\\fISIZE\\fR\n"
                     "size of one slice (default: 4K)\n"
                     ".TP\n\\fBthreads\\fR=\\fIN\\fR\n"
                     "worker threads (default: 10)\n"
                     ".TP\n\\fBmode\\fR=\\fIMODE\\fR\n"
                     "\\&.qcow2\\(aqs mode isn\\(aqt \\(gax\\(aq, but C:\\e\\(ti\\(ha\n"
                     ".TP\n\\fBdata\\-file\\fR=\\fIVALUE\\fR\na name\n"
                     ".TP\n\\fBallow_other\\fR\nall users\n"
                     ".TP\n\\fBfsname\\fR=\\fINAME\\fR\nname in the table of mounts\n");
    free(text);
}
END_TEST

START_TEST(names_are_lines_of_what_can_be_written)
{
    static const struct option_spec other[] = {
        {.name = "x-*", .type = OPTION_IGNORE, .help = "left to others"},
        {.name = "switch", .type = OPTION_BOOL, .value_name = "on|off", .help = "a switch"},
        {0},
    };
    char *text = printed(options_names, other);

    ck_assert_str_eq(text, "switch\nswitch=on\nswitch=off\n");
    free(text);
    text = printed(options_names, table);
    ck_assert_str_eq(text, "force-share\nforce-share=on\nforce-share=off\nl2-cache-size=<SIZE>\n"
                           "l2-cache-entry-size=<SIZE>\nthreads=<N>\nmode=<MODE>\n"
                           "data-file=<VALUE>\nallow_other\nfsname=<NAME>\n");
    free(text);
}
END_TEST

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void add_parsing(TCase *tests)
{
    tcase_add_test(tests, an_empty_list_and_empty_items_change_nothing);
    tcase_add_loop_test(tests, a_switch_is_on_when_bare_and_takes_the_usual_words, 0,
                        COUNT(switches));
    tcase_add_test(tests, numbers_are_read_by_their_type);
    tcase_add_test(tests, both_ends_of_a_range_are_allowed);
    tcase_add_test(tests, dashes_and_underscores_are_one_letter);
    tcase_add_test(tests, an_alias_sets_the_same_field);
    tcase_add_test(tests, part_of_a_name_is_not_the_name);
    tcase_add_test(tests, a_later_item_overrides_an_earlier_one);
    tcase_add_loop_test(tests, a_backslash_takes_the_meaning_of_comma_and_backslash_only, 0,
                        COUNT(escapes));
    tcase_add_test(tests, passed_items_are_collected_as_they_came);
    tcase_add_test(tests, a_label_may_be_quoted_for_its_commas_and_is_passed_on_so);
    tcase_add_test(tests, what_others_call_it_is_refused_with_what_is_meant);
    tcase_add_test(tests, ignored_names_and_prefixes_are_accepted_with_and_without_value);
    tcase_add_test(tests, a_whole_name_goes_before_a_prefix_that_stands_earlier);
    tcase_add_test(tests, strings_are_freed_and_forgotten);
    tcase_add_test(tests, a_failure_leaves_strings_that_can_be_freed);
}

static void add_sentences(TCase *tests)
{
    tcase_add_loop_test(tests, a_refusal_names_the_item_the_value_and_the_way_out, 0,
                        COUNT(refused));
    tcase_add_test(tests, a_refusal_needs_no_error_to_fill);
    tcase_add_test(tests, a_very_long_item_is_cut_between_characters_and_the_advice_is_kept);
    tcase_add_loop_test(tests, the_nearest_name_is_what_was_probably_meant, 0, COUNT(near));
    tcase_add_test(tests, names_of_more_than_64_bytes_are_near_to_nothing);
}

static void add_printing(TCase *tests)
{
    tcase_add_test(tests, help_has_two_columns_and_the_default_at_the_end);
    tcase_add_test(tests, help_fills_lines_to_the_last_column_and_no_further);
    tcase_add_test(tests, man_entries_are_roff_that_shows_each_letter_as_it_is);
    tcase_add_test(tests, names_are_lines_of_what_can_be_written);
}

int main(void)
{
    Suite *suite = suite_create("options");
    TCase *tests = tcase_create("all");

    tcase_add_checked_fixture(tests, setup, teardown);
    add_parsing(tests);
    add_sentences(tests);
    add_printing(tests);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
