/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "builder.h"
#include "header_case.h"
#include "memory_store.h"
#include "meta/format.h"
#include "meta/header.h"
#include "suite.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* --- Unknown incompatible features ------------------------------------------------------ */

START_TEST(an_unknown_incompatible_feature_is_refused_by_its_bit)
{
    for (unsigned bit = 5; bit < 64; bit++) {
        char text[32];
        struct store *store = make_default();

        snprintf(text, sizeof(text), ": bit %u;", bit);
        put64(store, HEADER_INCOMPATIBLE_FEATURES, UINT64_C(1) << bit);
        expect_refused(store, ENOTSUP, "incompatible features", text);
    }
}
END_TEST

/* Entries of the feature name table. */
static const uint8_t feature_names[] =
    "\0\7the seventh\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    "\1\10compatible\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    "\0\11of-full-length-no-nul-at-its-end-0123456789-46";
static_assert(sizeof(feature_names) - 1 >= 3 * FEATURE_NAME_LENGTH, "three entries");

START_TEST(an_unknown_incompatible_feature_is_named_from_the_feature_name_table)
{
    struct store *store =
        make_extended(EXTENSION_FEATURE_NAME_TABLE, feature_names, 3 * FEATURE_NAME_LENGTH);

    put64(store, HEADER_INCOMPATIBLE_FEATURES, UINT64_C(0x780));
    expect_refused(store, ENOTSUP, "'the seventh' (bit 7), bit 8, 'of-full-length-no-nul",
                   "0123456789-46' (bit 9), bit 10;");
}
END_TEST

START_TEST(a_feature_name_table_cut_off_in_an_entry_names_those_before_it)
{
    struct store *store =
        make_extended(EXTENSION_FEATURE_NAME_TABLE, feature_names, 3 * FEATURE_NAME_LENGTH - 1);

    put64(store, HEADER_INCOMPATIBLE_FEATURES, UINT64_C(0x280));
    expect_refused(store, ENOTSUP, "'the seventh' (bit 7), bit 9;", "");
}
END_TEST

START_TEST(a_feature_name_cannot_command_the_terminal)
{
    uint8_t entry[FEATURE_NAME_LENGTH] = {0, 20};
    struct store *store;

    memcpy(entry + FEATURE_NAME_TEXT, "a\x1b[2J\nb", 7);
    store = make_extended(EXTENSION_FEATURE_NAME_TABLE, entry, sizeof(entry));
    put64(store, HEADER_INCOMPATIBLE_FEATURES, UINT64_C(1) << 20);
    expect_refused(store, ENOTSUP, "'a?[2J?b' (bit 20)", "");
}
END_TEST

START_TEST(names_of_all_unknown_features_are_cut_to_fit)
{
    uint8_t table[59 * FEATURE_NAME_LENGTH];
    struct store *store;

    memset(table, 'x', sizeof(table));
    for (size_t i = 0; i < 59; i++) {
        table[i * FEATURE_NAME_LENGTH + FEATURE_NAME_TYPE] = FEATURE_TYPE_INCOMPATIBLE;
        table[i * FEATURE_NAME_LENGTH + FEATURE_NAME_BIT] = (uint8_t)(i + 5);
    }
    store = make_extended(EXTENSION_FEATURE_NAME_TABLE, table, sizeof(table));
    put64(store, HEADER_INCOMPATIBLE_FEATURES, UINT64_MAX);
    expect_refused(store, ENOTSUP, "(bit 5), 'xxx", "newer qcow2fs");
}
END_TEST

START_TEST(damaged_extensions_do_not_hide_an_unknown_feature)
{
    struct store *store = make_extended(0x11111111, "abcd", 4);

    put32(store, HEADER_CASE_EXTENSION + EXTENSION_LENGTH, UINT32_MAX);
    put64(store, HEADER_INCOMPATIBLE_FEATURES, UINT64_C(1) << 5);
    expect_refused(store, ENOTSUP, "bit 5;", "");
}
END_TEST

/* --- Extensions ---------------------------------------------------------------------------- */

START_TEST(an_extension_longer_than_its_area_is_refused)
{
    struct store *store = make_extended(0x11111111, "abcd", 4);

    put32(store, HEADER_CASE_EXTENSION + EXTENSION_LENGTH, 65536 - 112 - 8 + 1);
    expect_refused(store, EINVAL, "0x11111111 at offset 112", "65417 bytes");
    store = make_extended(0x11111111, "abcd", 4);
    put32(store, HEADER_CASE_EXTENSION + EXTENSION_LENGTH, UINT32_MAX);
    expect_refused(store, EINVAL, "0x11111111", "4294967295 bytes");
}
END_TEST

START_TEST(an_extension_that_fills_its_area_is_taken)
{
    struct store *store = make_extended(0x11111111, "abcd", 4);
    struct header *header;

    put32(store, HEADER_CASE_EXTENSION + EXTENSION_LENGTH, 65536 - 112 - 8);
    header = read_good(store);
    ck_assert_uint_eq(header->unknown_extensions, 1);
    header_free(header);
}
END_TEST

START_TEST(an_extension_that_runs_into_the_backing_file_name_is_refused)
{
    struct builder_options options = builder_defaults();
    struct builder *builder;
    struct store *store;

    options.backing_file = "base";
    builder = builder_create(&options);
    builder_extension(builder, 0x11111111, "12345678", 8);
    store = builder_store(builder); /* the name is at 112 + 16 + 8 = 136 */
    builder_destroy(builder);
    put32(store, HEADER_CASE_EXTENSION + EXTENSION_LENGTH, 17);
    expect_refused(store, EINVAL, "17 bytes", "at offset 136");
}
END_TEST

START_TEST(extensions_may_end_at_the_backing_file_name_without_an_end_mark)
{
    struct builder_options options = builder_defaults();
    struct store *store;
    struct header *header;

    options.version = 2;
    options.backing_file = "12345678base";
    options.backing_format = "raw";
    store = make_image(&options); /* the extension at 72, its end mark at 88, the name at 96 */
    put64(store, HEADER_BACKING_FILE_OFFSET, 88 + 8 + 8);
    put32(store, HEADER_BACKING_FILE_SIZE, 4);
    put32(store, 72 + EXTENSION_LENGTH, 3); /* padded to 88 */
    put32(store, 88, 0x22222222);
    put32(store, 92, 6); /* cut-off padding is no matter */
    header = read_good(store);
    ck_assert_str_eq(header->backing_file, "base");
    ck_assert_str_eq(header->backing_format, "raw");
    ck_assert_uint_eq(header->unknown_extensions, 1);
    header_free(header);
}
END_TEST

START_TEST(a_backing_format_of_15_bytes_is_taken_and_of_16_refused)
{
    struct header *header =
        read_good(make_extended(EXTENSION_BACKING_FORMAT, "123456789012345", 15));

    ck_assert_str_eq(header->backing_format, "123456789012345");
    header_free(header);
    expect_refused(make_extended(EXTENSION_BACKING_FORMAT, "1234567890123456", 16), EINVAL,
                   "format", "16 bytes");
}
END_TEST

START_TEST(an_empty_string_extension_records_nothing)
{
    struct header *header = read_good(make_extended(EXTENSION_BACKING_FORMAT, NULL, 0));

    ck_assert_ptr_null(header->backing_format);
    header_free(header);
    header = read_good(make_extended(EXTENSION_DATA_FILE, "\0name", 5));
    ck_assert_ptr_null(header->data_file);
    header_free(header);
}
END_TEST

START_TEST(of_two_string_extensions_the_last_counts)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    struct header *header;

    builder_extension(builder, EXTENSION_DATA_FILE, "first", 5);
    builder_extension(builder, EXTENSION_DATA_FILE, "second", 6);
    header = read_good(builder_store(builder));
    ck_assert_str_eq(header->data_file, "second");
    header_free(header);
    builder_destroy(builder);
}
END_TEST

/* --- The bitmaps extension ------------------------------------------------------------------- */

/* An image with one bitmap. */
static struct store *make_bitmaps(void)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    const struct builder_bitmap bitmap = {.name = "dirty", .granularity_bits = 16};
    struct store *store;

    builder_bitmap(builder, &bitmap);
    store = builder_store(builder);
    builder_destroy(builder);
    return store;
}

static void expect_refused_bitmaps(size_t at, uint64_t value, size_t width, const char *text,
                                   const char *shown)
{
    struct store *store = make_bitmaps();

    if (width == 4) {
        put32(store, HEADER_CASE_EXTENSION + EXTENSION_DATA + at, (uint32_t)value);
    } else {
        put64(store, HEADER_CASE_EXTENSION + EXTENSION_DATA + at, value);
    }
    expect_refused(store, EINVAL, text, shown);
}

START_TEST(the_bitmaps_extension_is_read)
{
    struct header *header = read_good(make_bitmaps());

    ck_assert_uint_eq(header->bitmap_count, 1);
    ck_assert_uint_eq(header->bitmap_directory_size, 32);
    ck_assert_uint_eq(header->bitmap_directory_offset, 3 * 65536);
    header_free(header);
}
END_TEST

START_TEST(bitmaps_without_their_autoclear_bit_are_stale_and_passed_over)
{
    struct store *store = make_bitmaps();
    struct header *header;

    put64(store, HEADER_AUTOCLEAR_FEATURES, 0);
    put64(store, HEADER_CASE_EXTENSION + EXTENSION_DATA + BITMAPS_DIRECTORY_OFFSET, 1);
    header = read_good(store);
    ck_assert_uint_eq(header->bitmap_count, 0);
    header_free(header);
}
END_TEST

START_TEST(a_bitmaps_extension_of_another_length_is_refused)
{
    struct store *store = make_bitmaps();

    put32(store, HEADER_CASE_EXTENSION + EXTENSION_LENGTH, 32);
    expect_refused(store, EINVAL, "bitmaps extension", "32 bytes");
}
END_TEST

START_TEST(impossible_fields_of_the_bitmaps_extension_are_refused)
{
    expect_refused_bitmaps(BITMAPS_NB_BITMAPS, 0, 4, "bitmaps extension", "counts 0 ");
    expect_refused_bitmaps(BITMAPS_NB_BITMAPS, 65536, 4, "bitmaps extension", "counts 65536 ");
    expect_refused_bitmaps(BITMAPS_RESERVED, 1, 4, "reserved field", "0x1 ");
    expect_refused_bitmaps(BITMAPS_DIRECTORY_OFFSET, 0, 8, "bitmap directory", "0x0");
    expect_refused_bitmaps(BITMAPS_DIRECTORY_OFFSET, 0x10001, 8, "bitmap directory", "0x10001");
    expect_refused_bitmaps(BITMAPS_DIRECTORY_SIZE, 23, 8, "bitmap directory", "23 bytes");
    expect_refused_bitmaps(BITMAPS_DIRECTORY_SIZE, 65537, 8, "bitmap directory", "65537 bytes");
    expect_refused_bitmaps(BITMAPS_DIRECTORY_SIZE, UINT64_MAX, 8, "bitmap directory",
                           "18446744073709551615 bytes");
}
END_TEST

START_TEST(a_bitmap_directory_outside_the_file_or_over_another_table_is_refused)
{
    expect_refused_bitmaps(BITMAPS_DIRECTORY_OFFSET, 0x7fff0000, 8, "bitmap directory",
                           "0x7fff0000");
    expect_refused_bitmaps(BITMAPS_DIRECTORY_OFFSET, 0x10000, 8, "bitmap directory",
                           "the L1 table");
}
END_TEST

/* --- Noise ------------------------------------------------------------------------- */

static struct store *make_rich(uint32_t version)
{
    struct builder_options options = builder_defaults();
    const struct builder_bitmap bitmap = {.name = "dirty", .granularity_bits = 16};
    struct builder *builder;
    struct store *store;

    options.version = version;
    options.cluster_bits = 9;
    options.backing_file = "base.qcow2";
    options.backing_format = "qcow2";
    builder = builder_create(&options);
    builder_extension(builder, EXTENSION_FEATURE_NAME_TABLE, feature_names,
                      3 * FEATURE_NAME_LENGTH);
    if (version == 3) {
        builder_bitmap(builder, &bitmap);
    }
    store = builder_store(builder);
    builder_destroy(builder);
    return store;
}

/* `_i`: the version. */
START_TEST(no_flipped_bit_of_the_first_cluster_is_a_danger)
{
    struct store *store = make_rich((uint32_t)_i);
    uint8_t *bytes = memory_store_data(store);
    unsigned refused = 0;

    for (size_t bit = 0; bit < 512 * 8; bit++) {
        struct error error = {0};
        struct header *header;
        int result;

        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        result = header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, &error);
        if (result < 0) {
            ck_assert_ptr_null(header);
            ck_assert_int_eq(error.code, -result);
            ck_assert_int_eq(
                strncmp(error.text, HEADER_CASE_NAME ": ", strlen(HEADER_CASE_NAME ": ")), 0);
            refused++;
        }
        header_free(header);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    ck_assert_uint_gt(refused, 200);
    header_free(read_good(store));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("extension");
    TCase *tcase = tcase_create("extensions");

    tcase_add_test(tcase, an_unknown_incompatible_feature_is_refused_by_its_bit);
    tcase_add_test(tcase, an_unknown_incompatible_feature_is_named_from_the_feature_name_table);
    tcase_add_test(tcase, a_feature_name_table_cut_off_in_an_entry_names_those_before_it);
    tcase_add_test(tcase, a_feature_name_cannot_command_the_terminal);
    tcase_add_test(tcase, names_of_all_unknown_features_are_cut_to_fit);
    tcase_add_test(tcase, damaged_extensions_do_not_hide_an_unknown_feature);
    tcase_add_test(tcase, an_extension_longer_than_its_area_is_refused);
    tcase_add_test(tcase, an_extension_that_fills_its_area_is_taken);
    tcase_add_test(tcase, an_extension_that_runs_into_the_backing_file_name_is_refused);
    tcase_add_test(tcase, extensions_may_end_at_the_backing_file_name_without_an_end_mark);
    tcase_add_test(tcase, a_backing_format_of_15_bytes_is_taken_and_of_16_refused);
    tcase_add_test(tcase, an_empty_string_extension_records_nothing);
    tcase_add_test(tcase, of_two_string_extensions_the_last_counts);
    tcase_add_test(tcase, the_bitmaps_extension_is_read);
    tcase_add_test(tcase, bitmaps_without_their_autoclear_bit_are_stale_and_passed_over);
    tcase_add_test(tcase, a_bitmaps_extension_of_another_length_is_refused);
    tcase_add_test(tcase, impossible_fields_of_the_bitmaps_extension_are_refused);
    tcase_add_test(tcase, a_bitmap_directory_outside_the_file_or_over_another_table_is_refused);
    tcase_add_loop_test(tcase, no_flipped_bit_of_the_first_cluster_is_a_danger, 2, 4);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
