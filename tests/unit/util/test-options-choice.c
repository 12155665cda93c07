/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct target {
    struct option_number cache;
    struct option_number discard;
    struct option_bool read_only;
    struct option_bool snapshot;
    char *overlay;
};

#define FIELD(name) offsetof(struct target, name)

static const struct option_spec table[] = {
    {.name = "cache",
     .type = OPTION_CHOICE,
     .field = FIELD(cache),
     .choices = "writeback none unsafe",
     .value_name = "MODE",
     .help = "the mode",
     .default_text = "writeback"},
    {.name = "discard",
     .type = OPTION_CHOICE,
     .field = FIELD(discard),
     .choices = "unmap=on=yes ignore=off",
     .value_name = "unmap|ignore"},
    {.name = "ro", .type = OPTION_BOOL, .field = FIELD(read_only)},
    {.name = "snapshot",
     .type = OPTION_BOOL,
     .field = FIELD(snapshot),
     .meant = "for one of them: at-snapshot=NAME"},
    {.name = "overlay",
     .type = OPTION_OPTIONAL,
     .field = FIELD(overlay),
     .value_name = "FILE",
     .help = "the overlay"},
    {.name = "rw", .type = OPTION_BOOL, .field = FIELD(read_only), .opposite = true},
    {0},
};

static struct target target;
static struct error error;

static void setup(void)
{
    memset(&target, 0, sizeof(target));
    memset(&error, 0, sizeof(error));
}

static void accept(const char *list)
{
    ck_assert_msg(options_parse(table, &target, list, &error) == 0, "%s: %s", list, error.text);
}

static const struct {
    const char *list;
    uint64_t cache, discard;
} choices[] = {
    {"cache=writeback,discard=unmap", 0, 0}, {"cache=none,discard=on", 1, 0},
    {"cache=unsafe,discard=yes", 2, 0},      {"cache=none,discard=ignore", 1, 1},
    {"cache=none,discard=off", 1, 1},        {"cache=unsafe,cache=none,discard=off", 1, 1},
};

START_TEST(a_choice_is_the_place_of_its_word_and_synonyms_share_one)
{
    accept(choices[_i].list);
    ck_assert(target.cache.set);
    ck_assert(target.discard.set);
    ck_assert_uint_eq(target.cache.value, choices[_i].cache);
    ck_assert_uint_eq(target.discard.value, choices[_i].discard);
}
END_TEST

static const struct {
    const char *list, *sentence;
} refused[] = {
    {"overlay=", "overlay= is empty; write overlay alone, or a value behind it"},
    {"cache=writethrough",
     "option cache=writethrough: 'writethrough' is not possible; write one of writeback, none, "
     "unsafe"},
    {"cache=", "option cache=: '' is not possible; write one of writeback, none, unsafe"},
    {"cache=write", "option cache=write: 'write' is not possible; write one of writeback, none, "
                    "unsafe"},
    {"cache=none unsafe", "option cache=none unsafe: 'none unsafe' is not possible; write one of "
                          "writeback, none, unsafe"},
    {"discard=unmap=on", "option discard=unmap=on: 'unmap=on' is not possible; write one of "
                         "unmap, on, yes, ignore, off"},
    {"cache", "option cache: its value is missing; write cache=MODE"},
    {"snapshot=one", "option snapshot=one: 'one' is neither on nor off; for one of them: "
                     "at-snapshot=NAME"},
};

START_TEST(anything_else_is_refused_with_the_words_that_are_possible)
{
    ck_assert_int_eq(options_parse(table, &target, refused[_i].list, &error), -EINVAL);
    ck_assert_str_eq(error.text, refused[_i].sentence);
    ck_assert(!target.cache.set);
    ck_assert(!target.discard.set);
}
END_TEST

static const struct {
    const char *list;
    bool read_only;
} opposites[] = {
    {"ro", true},      {"rw", false},    {"ro,rw", false}, {"rw,ro", true},
    {"ro=off", false}, {"rw=off", true}, {"rw=on", false}, {"ro,rw=no", true},
};

START_TEST(of_a_switch_and_its_opposite_the_later_one_counts)
{
    accept(opposites[_i].list);
    ck_assert(target.read_only.set);
    ck_assert_int_eq(target.read_only.value, opposites[_i].read_only);
}
END_TEST

static const struct {
    const char *list, *value;
} optional[] = {
    {"ro", NULL},
    {"overlay", ""},
    {"overlay=a\\,b", "a,b"},
    {"overlay=x,overlay", ""},
    {"overlay,overlay=x", "x"},
};

START_TEST(a_string_that_may_be_left_out_is_empty_then)
{
    accept(optional[_i].list);
    if (optional[_i].value == NULL) {
        ck_assert_ptr_null(target.overlay);
    } else {
        ck_assert_str_eq(target.overlay, optional[_i].value);
    }
    options_release(table, &target);
    ck_assert_ptr_null(target.overlay);
}
END_TEST

/* What `write` prints of the table; for the caller to free. */
static char *printed(void (*write)(const struct option_spec *, FILE *))
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    ck_assert_ptr_nonnull(out);
    write(table, out);
    ck_assert_int_eq(fclose(out), 0);
    return text;
}

START_TEST(a_choice_is_shown_with_the_name_of_its_value)
{
    char *text = printed(options_help);

    ck_assert_str_eq(text, "  cache=MODE                    the mode (default: writeback)\n"
                           "  overlay[=FILE]                the overlay\n");
    free(text);
    text = printed(options_names);
    ck_assert_str_eq(text, "cache=writeback\ncache=none\ncache=unsafe\noverlay=<FILE>\n"
                           "overlay\n");
    free(text);
}
END_TEST

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

int main(void)
{
    Suite *suite = suite_create("options-choice");
    TCase *tests = tcase_create("all");

    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_loop_test(tests, a_choice_is_the_place_of_its_word_and_synonyms_share_one, 0,
                        COUNT(choices));
    tcase_add_loop_test(tests, anything_else_is_refused_with_the_words_that_are_possible, 0,
                        COUNT(refused));
    tcase_add_loop_test(tests, a_string_that_may_be_left_out_is_empty_then, 0, COUNT(optional));
    tcase_add_loop_test(tests, of_a_switch_and_its_opposite_the_later_one_counts, 0,
                        COUNT(opposites));
    tcase_add_test(tests, a_choice_is_shown_with_the_name_of_its_value);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
