/* SPDX-License-Identifier: MIT */
/*
 * Text that people write, or that an image holds: options, sizes, names of
 * files and of snapshots, sentences, JSON. The first byte says which.
 */
#include "config.h"

#include "chance.h"
#include "ctl/command.h"
#include "disk/filename.h"
#include "fuse/names.h"
#include "fuse/options.h"
#include "guard.h"
#include "program.h"
#include "target.h"
#include "util/error.h"
#include "util/json.h"
#include "util/printable.h"
#include "util/size.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef HAVE_JANSSON
#include <jansson.h>
#endif

#define OVERLAY "/nonexistent/fuzz/overlay.qcow2"
#define WORDS   32
/* Nearly as long as the name of a file can be. */
#define LONG_PART "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define LONG      LONG_PART LONG_PART LONG_PART LONG_PART

const char *const target_name = "text";
const size_t target_most = 4096;

/* --- What all of it shares -----------------------------------------------------------------------
 */

static void expect_printable(const char *text)
{
    char *copy = strdup(text);

    FUZZ_EXPECT(copy != NULL);
    printable_clean(copy);
    FUZZ_EXPECT(strcmp(copy, text) == 0, "\"%s\"", text);
    free(copy);
}

static void expect_refusal(const struct error *error, int result)
{
    FUZZ_EXPECT(result < 0 && error->code == -result, "(%d, %d)", result, error->code);
    FUZZ_EXPECT(error->text[0] != '\0');
    expect_printable(error->text);
}

/* --- Each kind of text
 * ----------------------------------------------------------------------------- */

/* The same list means the same whenever it is read. */
static void take_mount_options(const char *text, size_t length)
{
    struct mount_options options = {0}, again = {0};
    struct error error = {0};
    struct writer_options writer;
    int result = options_parse(mount_option_table, &options, text, &error);

    (void)length;
    if (result < 0) {
        expect_refusal(&error, result);
    } else {
        FUZZ_EXPECT(options_parse(mount_option_table, &again, text, &error) == 0);
        FUZZ_EXPECT(memcmp(&options.cache, &again.cache, sizeof(again.cache)) == 0);
        FUZZ_EXPECT(options.uid.value == again.uid.value && options.mode.value == again.mode.value);
        FUZZ_EXPECT(options.mode.value <= 07777 && options.threads.value <= MOUNT_THREADS_MAX);
        (void)mount_cache_mode(&options);
        mount_writer_options(&options, &writer);
    }
    options_release(mount_option_table, &options);
    options_release(mount_option_table, &again);
}

static void take_size(const char *text, size_t length)
{
    char shown[SIZE_TEXT_MAX];
    uint64_t bytes = 0;
    int result = size_parse(text, &bytes);

    (void)length;
    FUZZ_EXPECT(result == 0 || result == -EINVAL || result == -ERANGE, "(%d)", result);
    if (result == 0) {
        FUZZ_EXPECT(bytes <= INT64_MAX);
        FUZZ_EXPECT(size_format(bytes, shown) == shown && strlen(shown) < sizeof(shown));
    }
}

static void take_file_name(const char *text, size_t length)
{
    for (int kind = 0; kind < 2; kind++) {
        const char *what = kind == 0 ? "backing file" : "data file";
        struct error error = {0};
        char *path;
        int result = filename_resolve(OVERLAY, what, text, kind == 1, &path, &error);

        if (result < 0) {
            expect_refusal(&error, result);
            continue;
        }
        FUZZ_EXPECT(strlen(path) <= strlen(OVERLAY) + length);
        free(path);
    }
}

/* What we print is what is read: a document, with this text but for what is no UTF-8. */
static void take_json(const char *text, size_t length)
{
    struct json *object = json_new_object();
    struct json *array = json_new_array();
    char *printed;

    (void)length;
    json_put_text(object, "text", text);
    json_put_number(object, "number", length);
    json_add_text(array, text);
    json_put(object, "array", array);
    printed = json_text(object);
    json_free(object);
#ifdef HAVE_JANSSON
    json_error_t error;
    json_t *read = json_loads(printed != NULL ? printed : "", 0, &error);

    FUZZ_EXPECT(printed != NULL && read != NULL, "%s", error.text);
    FUZZ_EXPECT(json_string_length(json_object_get(read, "text")) >= strlen(text));
    json_decref(read);
#endif
    free(printed);
}

/* Splits at each NUL; at most WORDS, all of which point into `text`. */
static size_t split(char *text, size_t length, char *words[WORDS])
{
    size_t count = 0;

    for (size_t at = 0; at < length && count < WORDS; at += strlen(text + at) + 1) {
        words[count++] = text + at;
    }
    return count;
}

/* Snapshots of these names get file names that are different and can be. */
static void take_snapshot_names(char *text, size_t length)
{
    struct snapshot snapshots[WORDS] = {{0}};
    char *words[WORDS], **names;
    size_t count = split(text, length, words);

    for (size_t i = 0; i < count; i++) {
        snapshots[i].name = words[i];
        snapshots[i].id = words[(i + 1) % count];
    }
    FUZZ_EXPECT(names_make(snapshots, count, &names) == 0);
    for (size_t i = 0; i < count; i++) {
        size_t name_length = strlen(names[i]);

        FUZZ_EXPECT(name_length > 0 && name_length <= NAMES_MAX, "\"%s\"", names[i]);
        FUZZ_EXPECT(strchr(names[i], '/') == NULL && strcmp(names[i], ".") != 0 &&
                    strcmp(names[i], "..") != 0);
        expect_printable(names[i]);
        for (size_t other = 0; other < i; other++) {
            FUZZ_EXPECT(strcmp(names[i], names[other]) != 0, "\"%s\"", names[i]);
        }
    }
    names_free(names, count);
}

static void take_sentence(const char *text, size_t length)
{
    struct error error = {0};
    size_t cut = printable_cut(text, length / 2);

    FUZZ_EXPECT(cut <= length / 2 && cut + 3 >= length / 2);
    FUZZ_EXPECT(error_set(&error, EINVAL, "%s: %s", text, text) == -EINVAL);
    expect_printable(error.text);
    log_line(NULL, LOG_LEVEL_ERROR, "%s", text);
}

/* What stands behind a command of qcow2ctl: the words are its arguments. */
static void take_command_line(char *text, size_t length)
{
    static const struct command *const commands[] = {&create_command, &info_command,
                                                     &check_command,  &map_command,
                                                     &amend_command,  &resize_command};
    uint8_t which = length > 0 ? (uint8_t)text[0] : 0;
    struct ctl ctl = {.command = commands[which % (sizeof(commands) / sizeof(commands[0]))]};
    char *words[WORDS] = {NULL}, *operands[WORDS];
    size_t count = length > 0 ? split(text + 1, length - 1, words) : 0;
    const char *help = NULL;
    int result;

    ctl.options = calloc(1, ctl.command->options_size);
    ctl.operands = operands;
    FUZZ_EXPECT(ctl.options != NULL);
    result = command_parse(&ctl, (int)count, words, &help);
    if (result < 0) {
        expect_refusal(&ctl.error, result);
    } else if (help == NULL) {
        FUZZ_EXPECT(ctl.operand_count >= ctl.command->min_operands &&
                    ctl.operand_count <= ctl.command->max_operands);
    }
    options_release(ctl.command->flags, ctl.options);
    if (ctl.command->values != NULL) {
        options_release(ctl.command->values, ctl.options);
    }
    free(ctl.options);
}

/* Sizes of caches for any chain: whatever is asked for, and whatever the images are. */
static void take_cache_sizes(const uint8_t *data, size_t size)
{
    struct program program = program_of(data, size);
    struct option_number *numbers[6];
    struct cache_options options;
    struct cache_geometry images[4];
    struct cache_sizes sizes;
    struct error error = {0};
    size_t count = 1 + program_below(&program, 4);
    int result;

    numbers[0] = &options.l2_size, numbers[1] = &options.l2_entry_size;
    numbers[2] = &options.refcount_size, numbers[3] = &options.size;
    numbers[4] = &options.data_size, numbers[5] = &options.clean_interval;
    for (size_t i = 0; i < 6; i++) {
        numbers[i]->set = program_bool(&program);
        numbers[i]->value = program_u64(&program) >> program_u8(&program) % 64;
    }
    for (size_t i = 0; i < count; i++) {
        images[i] = (struct cache_geometry){
            .virtual_size = program_u64(&program) >> program_u8(&program) % 64,
            .file_size = program_u64(&program) >> program_u8(&program) % 64,
            .cluster_size = UINT64_C(512) << program_u8(&program) % 13,
            .l2_entry_bytes = program_bool(&program) ? 16 : 8,
            .refcount_bits = 1U << program_u8(&program) % 7,
        };
    }
    result = cache_sizes_resolve(&options, images, count, &sizes, &error);
    if (result < 0) {
        expect_refusal(&error, result);
        return;
    }
    FUZZ_EXPECT(sizes.l2_entry_size >= CACHE_L2_ENTRY_MIN &&
                sizes.l2_entry_size <= images[0].cluster_size);
    FUZZ_EXPECT(sizes.l2_budget >= CACHE_L2_MIN_ENTRIES * sizes.l2_entry_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const kinds[])(char *text, size_t length) = {
        take_snapshot_names,
        take_command_line,
    };
    static void (*const strings[])(const char *text, size_t length) = {
        take_mount_options, take_size, take_file_name, take_json, take_sentence, take_mount_options,
    };
    size_t kind_count = sizeof(kinds) / sizeof(kinds[0]);
    size_t string_count = sizeof(strings) / sizeof(strings[0]), which;
    char *text;

    if (size == 0 || size > target_most) {
        return 0;
    }
    guard_begin(GUARD_MEMORY);
    which = *data++ % (kind_count + string_count + 1);
    size--;
    text = malloc(size + 1);
    FUZZ_EXPECT(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    if (which < kind_count) {
        kinds[which](text, size);
    } else if (which < kind_count + string_count) {
        strings[which - kind_count](text, strlen(text));
    } else {
        take_cache_sizes(data, size);
    }
    free(text);
    guard_end();
    return 0;
}

uint8_t *target_seed(unsigned number, size_t *size)
{
    static const struct {
        const char *text;
        size_t length;
    } seeds[] = {
#define SEED(text) {text, sizeof(text) - 1}
        SEED("\0one\0two\0a/b\0..\0one\0\377\0%2E"),
        SEED("\0" LONG "\0" LONG "/\0" LONG "\xc3\xa9"),
        SEED("\1\0-f\0qcow2\0-o\0cluster_size=64k,backing_file=a\\,b\0a.qcow2\0001G"),
        SEED("\1\1--output=json\0-U\0--\0-\0"),
        SEED("\1\5--help=man\0-q\0a\0+1G"),
        SEED("\2ro,l2-cache-size=1M,cache=none,uid=0,umask=022,x-systemd.automount"),
        SEED("\2discard=unmap,data-file=a\\,b,,threads=4,fsname=\\\\,nosuid,allow_other"),
        SEED("\3001.5T"),
        SEED("\00364KiB"),
        SEED("\4json:{\"driver\":\"qcow2\",\"file\":{\"filename\":\"x\"}}"),
        SEED("\4file:/a/b"),
        SEED("\4nbd://host:10809/x"),
        SEED("\4../x"),
        SEED("\5a\"\\\n\xc3\xa9\xff\xed\xa0\x80"),
        SEED("\6%s%n\x1b[0m\xc2\x9b"),
        SEED("\7cache-size=9223372036854775807,refcount_cache_size=8E"),
        SEED("\10\3\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1"),
#undef SEED
    };
    uint8_t *bytes;

    if (number >= sizeof(seeds) / sizeof(seeds[0])) {
        return NULL;
    }
    *size = seeds[number].length;
    bytes = malloc(*size);
    FUZZ_EXPECT(bytes != NULL);
    memcpy(bytes, seeds[number].text, *size);
    return bytes;
}
