/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/info.h"
#include "assemble.h"
#include "builder.h"
#include "memory_store.h"
#include "meta/format.h"
#include "suite.h"

#include <stdlib.h>
#include <string.h>

#ifdef HAVE_JANSSON

#include <jansson.h>

/* The image's JSON, parsed again; closes the image. */
static json_t *parse_info(struct image *image)
{
    json_error_t error;
    char *text = image_info_json(image);
    json_t *parsed;

    ck_assert_ptr_nonnull(text);
    ck_assert_int_eq(text[strlen(text) - 1], '\n');
    parsed = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    ck_assert_msg(parsed != NULL, "%s in: %s", error.text, text);
    free(text);
    image_close(image);
    return parsed;
}

static const char *string_of(json_t *object, const char *key)
{
    const char *string = json_string_value(json_object_get(object, key));

    ck_assert_msg(string != NULL, "no string %s", key);
    return string;
}

static void expect_number(json_t *object, const char *key, json_int_t number)
{
    json_t *value = json_object_get(object, key);

    ck_assert_msg(json_is_integer(value), "no number %s", key);
    ck_assert_int_eq(json_integer_value(value), number);
}

static void expect_boolean(json_t *object, const char *key, bool expected)
{
    json_t *value = json_object_get(object, key);

    ck_assert_msg(json_is_boolean(value), "no boolean %s", key);
    ck_assert_int_eq(json_boolean_value(value), expected);
}

static json_t *data_of(json_t *info)
{
    json_t *specific = json_object_get(info, "format-specific");

    ck_assert_str_eq(string_of(specific, "type"), "qcow2");
    return json_object_get(specific, "data");
}

START_TEST(a_plain_image_of_version_3_is_described)
{
    struct builder_options options = builder_defaults();
    json_t *info, *data;

    options.refcount_order = 5;
    info = parse_info(assemble_built(builder_create(&options), 0, NULL));
    data = data_of(info);
    ck_assert_str_eq(string_of(info, "filename"), "memory.qcow2");
    ck_assert_str_eq(string_of(info, "format"), "qcow2");
    expect_number(info, "virtual-size", 1 << 20);
    expect_number(info, "cluster-size", 65536);
    expect_number(info, "actual-size", 4 * 65536);
    expect_boolean(info, "dirty-flag", false);
    ck_assert_str_eq(string_of(data, "compat"), "1.1");
    ck_assert_str_eq(string_of(data, "compression-type"), "zlib");
    expect_number(data, "refcount-bits", 32);
    expect_boolean(data, "lazy-refcounts", false);
    expect_boolean(data, "corrupt", false);
    expect_boolean(data, "extended-l2", false);
    ck_assert_ptr_null(json_object_get(info, "backing-filename"));
    ck_assert_ptr_null(json_object_get(info, "snapshots"));
    ck_assert_ptr_null(json_object_get(data, "bitmaps"));
    ck_assert_uint_eq(json_array_size(json_object_get(info, "backing-chain")), 0);
    json_decref(info);
}
END_TEST

START_TEST(an_image_of_version_2_is_described)
{
    struct builder_options options = builder_defaults();
    json_t *info, *data;

    options.version = 2;
    info = parse_info(assemble_built(builder_create(&options), 0, NULL));
    data = data_of(info);
    ck_assert_str_eq(string_of(data, "compat"), "0.10");
    expect_number(data, "refcount-bits", 16);
    ck_assert_ptr_null(json_object_get(data, "lazy-refcounts"));
    json_decref(info);
}
END_TEST

START_TEST(features_are_described)
{
    struct builder_options options = builder_defaults();
    json_t *info, *data;

    options.extended_l2 = true;
    options.incompatible_features = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT;
    options.compatible_features = COMPATIBLE_LAZY_REFCOUNTS;
    info = parse_info(assemble_built(builder_create(&options), 0, NULL));
    data = data_of(info);
    expect_boolean(info, "dirty-flag", true);
    expect_boolean(data, "corrupt", true);
    expect_boolean(data, "lazy-refcounts", true);
    expect_boolean(data, "extended-l2", true);
    json_decref(info);
}
END_TEST

START_TEST(the_chain_is_described_from_the_top)
{
    struct builder_options options = builder_defaults();
    struct image *image;
    json_t *info, *chain;

    options.backing_file = "base.raw";
    options.backing_format = "raw";
    image = assemble_built(builder_create(&options), 0, NULL);
    assemble_behind(image, assemble_image(memory_store_create(5000), IMAGE_RAW, 1, NULL));
    info = parse_info(image);
    chain = json_object_get(info, "backing-chain");
    ck_assert_str_eq(string_of(info, "backing-filename"), "base.raw");
    ck_assert_str_eq(string_of(info, "full-backing-filename"), "base.raw");
    ck_assert_str_eq(string_of(json_object_get(info, "details"), "backing-file-path"),
                     "memory.raw");
    ck_assert_str_eq(string_of(info, "backing-filename-format"), "raw");
    ck_assert_uint_eq(json_array_size(chain), 1);
    ck_assert_str_eq(string_of(json_array_get(chain, 0), "format"), "raw");
    expect_number(json_array_get(chain, 0), "virtual-size", 5000);
    ck_assert_ptr_null(json_object_get(json_array_get(chain, 0), "format-specific"));
    json_decref(info);
}
END_TEST

START_TEST(snapshots_are_described)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    struct builder_snapshot snapshot = {
        .id = "7",
        .name = "before",
        .disk_size = 1 << 20,
        .vm_state_size = 12345,
        .vm_clock_nsec = 3000000007,
        .date_sec = 1700000000,
        .date_nsec = 5,
        .icount = 99,
        .extra_data_size = 24,
    };
    json_t *info, *list, *entry;

    builder_snapshot(builder, &snapshot);
    snapshot.icount = UINT64_MAX;
    snapshot.vm_state_size = UINT64_MAX;
    builder_snapshot(builder, &snapshot);
    info = parse_info(assemble_built(builder, 0, NULL));
    list = json_object_get(info, "snapshots");
    ck_assert_uint_eq(json_array_size(list), 2);
    entry = json_array_get(list, 0);
    ck_assert_str_eq(string_of(entry, "id"), "7");
    ck_assert_str_eq(string_of(entry, "name"), "before");
    expect_number(entry, "disk-size", 1 << 20);
    expect_number(entry, "vm-state-size", 12345);
    expect_number(entry, "date-sec", 1700000000);
    expect_number(entry, "date-nsec", 5);
    expect_number(entry, "vm-clock-sec", 3);
    expect_number(entry, "vm-clock-nsec", 7);
    expect_number(entry, "icount", 99);
    entry = json_array_get(list, 1);
    ck_assert_ptr_null(json_object_get(entry, "icount"));
    ck_assert(json_number_value(json_object_get(entry, "vm-state-size")) > 1.8e19);
    json_decref(info);
}
END_TEST

static const struct builder_bitmap bitmaps[] = {
    {.name = "daily", .granularity_bits = 16, .flags = BITMAP_FLAG_AUTO},
    {.name = "broken", .granularity_bits = 9, .flags = BITMAP_FLAG_IN_USE | BITMAP_FLAG_AUTO},
};

START_TEST(bitmaps_are_described)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    json_t *info, *list, *flags;

    builder_bitmap(builder, &bitmaps[0]);
    builder_bitmap(builder, &bitmaps[1]);
    info = parse_info(assemble_built(builder, 0, NULL));
    list = json_object_get(data_of(info), "bitmaps");
    ck_assert_uint_eq(json_array_size(list), 2);
    ck_assert_str_eq(string_of(json_array_get(list, 0), "name"), "daily");
    expect_number(json_array_get(list, 0), "granularity", 65536);
    flags = json_object_get(json_array_get(list, 1), "flags");
    ck_assert_uint_eq(json_array_size(flags), 2);
    ck_assert_str_eq(json_string_value(json_array_get(flags, 0)), "in-use");
    ck_assert_str_eq(json_string_value(json_array_get(flags, 1)), "auto");
    json_decref(info);
}
END_TEST

START_TEST(of_a_damaged_bitmap_directory_the_entries_before_the_damage_are_described)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    struct image *image;
    json_t *info, *problems;
    size_t second;

    builder_bitmap(builder, &bitmaps[0]);
    builder_bitmap(builder, &bitmaps[1]);
    image = assemble_built(builder, 0, NULL);
    second = (BITMAP_FIXED_LENGTH + strlen(bitmaps[0].name) + 7) / 8 * 8;
    memory_store_data(
        image->file)[image->header->bitmap_directory_offset + second + BITMAP_GRANULARITY_BITS] =
        64;
    info = parse_info(image);
    ck_assert_uint_eq(json_array_size(json_object_get(data_of(info), "bitmaps")), 1);
    problems = json_object_get(json_object_get(info, "details"), "problems");
    ck_assert_uint_eq(json_array_size(problems), 1);
    ck_assert_str_eq(string_of(info, "format"), "qcow2");
    json_decref(info);
}
END_TEST

START_TEST(hostile_names_come_through_as_json_strings)
{
    static const struct {
        const char *name, *shown;
    } names[] = {
        {"\"},{\"x\":\"", "\"},{\"x\":\""},
        {"\\u0041\\", "\\u0041\\"},
        {"a\n\t\x01\x1b[2J", "a\n\t\x01\x1b[2J"},
        {"\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"caf\xe9", "caf\xef\xbf\xbd"},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"caf\xc3\xa9", "caf\xc3\xa9"},
        {"", ""},
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct builder_options options = builder_defaults();
        struct builder *builder = builder_create(&options);
        const struct builder_snapshot snapshot = {.id = names[i].name, .name = names[i].name};
        json_t *info, *entry;

        builder_snapshot(builder, &snapshot);
        info = parse_info(assemble_built(builder, 0, NULL));
        entry = json_array_get(json_object_get(info, "snapshots"), 0);
        ck_assert_str_eq(string_of(entry, "name"), names[i].shown);
        ck_assert_str_eq(string_of(entry, "id"), names[i].shown);
        json_decref(info);
    }
}
END_TEST

static void add_tests(TCase *tcase)
{
    tcase_add_test(tcase, a_plain_image_of_version_3_is_described);
    tcase_add_test(tcase, an_image_of_version_2_is_described);
    tcase_add_test(tcase, features_are_described);
    tcase_add_test(tcase, the_chain_is_described_from_the_top);
    tcase_add_test(tcase, snapshots_are_described);
    tcase_add_test(tcase, bitmaps_are_described);
    tcase_add_test(tcase,
                   of_a_damaged_bitmap_directory_the_entries_before_the_damage_are_described);
    tcase_add_test(tcase, hostile_names_come_through_as_json_strings);
}

#else

START_TEST(without_the_library_there_is_no_json)
{
    struct builder_options options = builder_defaults();
    struct image *image = assemble_built(builder_create(&options), 0, NULL);

    ck_assert(!image_info_available());
    ck_assert_ptr_null(image_info_json(image));
    image_close(image);
}
END_TEST

static void add_tests(TCase *tcase)
{
    tcase_add_test(tcase, without_the_library_there_is_no_json);
}

#endif

int main(void)
{
    Suite *suite = suite_create("info");
    TCase *tcase = tcase_create("info");

    add_tests(tcase);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
