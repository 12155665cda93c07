/* SPDX-License-Identifier: MIT */
/* What can be known of a header that header_read() refuses. */
#include "config.h"

#include "builder.h"
#include "header_case.h"
#include "memory_store.h"
#include "meta/extension.h"
#include "meta/format.h"
#include "meta/header.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Closes the store; the examination is to be released. */
static void examine(struct store *store, struct header_examination *examination)
{
    ck_assert_int_eq(header_examine(store, memory_store_size(store), HEADER_CASE_NAME, examination),
                     0);
    ck_assert_ptr_nonnull(examination->header);
    store_close(store);
}

/* The parts with a problem, as bits; each problem is a sentence with the file's name. */
static unsigned failed_parts(const struct header_examination *examination)
{
    unsigned parts = 0;

    for (int part = 0; part < HEADER_PARTS; part++) {
        const struct error *problem = &examination->problems[part];

        if (problem->code != 0) {
            parts |= 1U << part;
            ck_assert_ptr_nonnull(strstr(problem->text, HEADER_CASE_NAME ": "));
        }
    }
    return parts;
}

START_TEST(a_good_header_has_no_problem)
{
    struct builder_options options = builder_defaults();
    struct header_examination found;

    options.backing_file = "base.qcow2";
    options.backing_format = "qcow2";
    examine(make_image(&options), &found);
    ck_assert_uint_eq(failed_parts(&found), 0);
    ck_assert_uint_eq(found.header->virtual_size, 1 << 20);
    ck_assert_str_eq(found.header->backing_file, "base.qcow2");
    ck_assert_uint_eq(found.backing_end - found.extensions_end, strlen("base.qcow2"));
    ck_assert_int_eq(memcmp(found.cluster + found.extensions_end, "base.qcow2", 10), 0);
    header_examination_release(&found);
}
END_TEST

/* One field of 4 or 8 bytes that is impossible, and the part that it is a problem of. */
static const struct {
    enum header_field at;
    unsigned bytes;
    uint64_t value;
    enum header_part part;
} spoilt[] = {
    {HEADER_CLUSTER_BITS, 4, 8, HEADER_PART_CLUSTER_SIZE},
    {HEADER_CLUSTER_BITS, 4, 22, HEADER_PART_CLUSTER_SIZE},
    {HEADER_CLUSTER_BITS, 4, UINT32_MAX, HEADER_PART_CLUSTER_SIZE},
    {HEADER_HEADER_LENGTH, 4, 96, HEADER_PART_LENGTH},
    {HEADER_HEADER_LENGTH, 4, UINT32_MAX, HEADER_PART_LENGTH},
    {HEADER_BACKING_FILE_OFFSET, 8, UINT64_MAX, HEADER_PART_BACKING},
    {HEADER_BACKING_FILE_SIZE, 4, UINT32_MAX, HEADER_PART_BACKING},
    {HEADER_INCOMPATIBLE_FEATURES, 8, UINT64_C(1) << 63, HEADER_PART_FEATURES},
    {HEADER_INCOMPATIBLE_FEATURES, 8, INCOMPATIBLE_COMPRESSION_TYPE, HEADER_PART_COMPRESSION},
    {HEADER_CRYPT_METHOD, 4, CRYPT_LUKS, HEADER_PART_CRYPT_HEADER},
    {HEADER_CRYPT_METHOD, 4, UINT32_MAX, HEADER_PART_ENCRYPTION},
    {HEADER_REFCOUNT_ORDER, 4, 7, HEADER_PART_REFCOUNTS},
    {HEADER_REFCOUNT_ORDER, 4, UINT32_MAX, HEADER_PART_REFCOUNTS},
    {HEADER_REFCOUNT_TABLE_CLUSTERS, 4, 0, HEADER_PART_REFCOUNTS},
    {HEADER_REFCOUNT_TABLE_CLUSTERS, 4, UINT32_MAX, HEADER_PART_REFCOUNTS},
    {HEADER_REFCOUNT_TABLE_OFFSET, 8, UINT64_MAX, HEADER_PART_REFCOUNTS},
    {HEADER_SIZE, 8, UINT64_MAX, HEADER_PART_L1},
    {HEADER_L1_SIZE, 4, UINT32_MAX, HEADER_PART_L1},
    {HEADER_L1_TABLE_OFFSET, 8, UINT64_MAX, HEADER_PART_L1},
    {HEADER_NB_SNAPSHOTS, 4, UINT32_MAX, HEADER_PART_SNAPSHOTS},
};

static struct store *spoil(size_t index)
{
    struct builder_options options = builder_defaults();
    struct store *store;

    options.backing_file = "base.qcow2";
    store = make_image(&options);
    if (spoilt[index].bytes == 4) {
        put32(store, spoilt[index].at, (uint32_t)spoilt[index].value);
    } else {
        put64(store, spoilt[index].at, spoilt[index].value);
    }
    return store;
}

START_TEST(a_damaged_field_is_the_problem_of_its_part)
{
    struct header_examination found;

    examine(spoil((size_t)_i), &found);
    /* A table that is too large overlaps others, too. */
    ck_assert_uint_eq(failed_parts(&found) & ~(1U << HEADER_PART_OVERLAPS), 1U << spoilt[_i].part);
    ck_assert_uint_eq(found.header->version, 3);
    if (spoilt[_i].at != HEADER_SIZE) {
        ck_assert_uint_eq(found.header->virtual_size, 1 << 20);
    }
    if (spoilt[_i].part != HEADER_PART_BACKING) {
        ck_assert_str_eq(found.header->backing_file, "base.qcow2");
    } else {
        ck_assert_ptr_null(found.header->backing_file);
    }
    header_examination_release(&found);
}
END_TEST

START_TEST(the_problem_is_the_sentence_with_which_the_header_is_refused)
{
    struct store *store = spoil((size_t)_i);
    struct error error = {0};
    struct header_examination found;
    struct header *header;

    ck_assert_int_lt(
        header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, &error), 0);
    examine(store, &found);
    ck_assert_str_eq(found.problems[spoilt[_i].part].text, error.text);
    ck_assert_int_eq(found.problems[spoilt[_i].part].code, error.code);
    header_examination_release(&found);
}
END_TEST

START_TEST(several_problems_are_all_told)
{
    struct store *store = make_default();
    struct header_examination found;

    put32(store, HEADER_CRYPT_METHOD, CRYPT_LUKS);
    put32(store, HEADER_REFCOUNT_ORDER, 9);
    put32(store, HEADER_L1_SIZE, 0);
    put64(store, HEADER_INCOMPATIBLE_FEATURES, UINT64_C(1) << 40);
    examine(store, &found);
    ck_assert_uint_eq(failed_parts(&found), 1U << HEADER_PART_CRYPT_HEADER |
                                                1U << HEADER_PART_REFCOUNTS | 1U << HEADER_PART_L1 |
                                                1U << HEADER_PART_FEATURES);
    ck_assert_uint_eq(found.header->incompatible_features, UINT64_C(1) << 40);
    header_examination_release(&found);
}
END_TEST

START_TEST(without_a_cluster_size_nothing_is_judged_that_counts_clusters)
{
    struct store *store = make_default();
    struct header_examination found;

    put32(store, HEADER_CLUSTER_BITS, 77);
    put64(store, HEADER_L1_TABLE_OFFSET, 12345);
    put64(store, HEADER_REFCOUNT_TABLE_OFFSET, 12345);
    examine(store, &found);
    ck_assert_uint_eq(failed_parts(&found), 1U << HEADER_PART_CLUSTER_SIZE);
    ck_assert_uint_eq(found.header->l1_offset, 12345);
    ck_assert_uint_eq(found.header->cluster_bits, 16); /* assumed: safe to shift by */
    ck_assert_uint_eq(found.header->cluster_size, 65536);
    header_examination_release(&found);
}
END_TEST

START_TEST(an_impossible_backing_file_name_does_not_end_the_extensions)
{
    struct store *store = make_extended(0x12345678, "abc", 3);
    struct header_examination found;

    put64(store, HEADER_BACKING_FILE_OFFSET, UINT64_C(1) << 40);
    put32(store, HEADER_CASE_EXTENSION + EXTENSION_LENGTH, 65536);
    examine(store, &found);
    ck_assert_uint_eq(failed_parts(&found), 1U << HEADER_PART_BACKING | 1U << HEADER_PART_STRINGS);
    ck_assert_uint_eq(found.extensions_end, 65536);
    ck_assert_uint_eq(found.backing_end, 0);
    header_examination_release(&found);
}
END_TEST

START_TEST(what_is_no_image_has_one_problem)
{
    static const uint32_t versions[] = {0, 1, 4, UINT32_MAX};
    struct header_examination found;
    struct store *store;

    for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
        store = make_default();
        put32(store, HEADER_VERSION, versions[i]);
        examine(store, &found);
        ck_assert_uint_eq(failed_parts(&found), 1U << HEADER_PART_START);
        header_examination_release(&found);
    }
    for (uint64_t size = 0; size < 72; size += 71) {
        examine(memory_store_create(size), &found);
        ck_assert_uint_eq(failed_parts(&found), 1U << HEADER_PART_START);
        header_examination_release(&found);
    }
}
END_TEST

START_TEST(of_a_cut_off_file_the_header_is_known)
{
    struct store *whole = make_default(), *store;
    struct header_examination found;

    for (size_t size = 72; size < 2 * 65536; size += 1000) {
        store = memory_store_from(memory_store_data(whole), size);
        examine(store, &found);
        ck_assert_uint_ne(failed_parts(&found), 0);
        ck_assert_uint_eq(failed_parts(&found) & 1U << HEADER_PART_START, 0);
        ck_assert_uint_eq(found.header->virtual_size, 1 << 20);
        header_examination_release(&found);
    }
    store_close(whole);
}
END_TEST

START_TEST(a_first_cluster_that_cannot_be_read_leaves_the_fields)
{
    struct store *store = make_default();
    struct header_examination found;

    memory_store_fail(store, MEMORY_STORE_READ, 2, EIO);
    examine(store, &found);
    ck_assert_uint_eq(failed_parts(&found), 1U << HEADER_PART_FIRST_CLUSTER);
    ck_assert_int_eq(found.problems[HEADER_PART_FIRST_CLUSTER].code, EIO);
    ck_assert_uint_eq(found.header->virtual_size, 1 << 20);
    header_examination_release(&found);
}
END_TEST

/* Every byte of the header with several values: whatever comes out, it is told. */
START_TEST(no_byte_of_a_header_does_harm)
{
    static const uint8_t values[] = {0, 1, 7, 0x3f, 0x7f, 0x80, 0xff};
    struct builder_options options = builder_defaults();
    struct store *whole;

    options.backing_file = "base.qcow2";
    options.backing_format = "qcow2";
    whole = make_image(&options);
    for (size_t at = 0; at < 512; at++) {
        for (size_t i = 0; i < sizeof(values); i++) {
            struct store *store =
                memory_store_from(memory_store_data(whole), (size_t)memory_store_size(whole));
            struct error error = {0};
            struct header_examination found;
            struct header *header;
            int result;

            memory_store_data(store)[at] = values[i];
            result =
                header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, &error);
            header_free(header);
            examine(store, &found);
            ck_assert_int_eq(result == 0, failed_parts(&found) == 0);
            header_examination_release(&found);
        }
    }
    store_close(whole);
}
END_TEST

START_TEST(unknown_bits_have_the_names_that_the_image_gives_them)
{
    uint8_t table[2 * FEATURE_NAME_LENGTH] = {0};
    char name[EXTENSION_FEATURE_NAME_MAX];
    struct header_examination found;

    table[FEATURE_NAME_TYPE] = FEATURE_TYPE_AUTOCLEAR;
    table[FEATURE_NAME_BIT] = 9;
    memset(table + FEATURE_NAME_TEXT, 'x', FEATURE_NAME_LENGTH - FEATURE_NAME_TEXT);
    table[FEATURE_NAME_LENGTH + FEATURE_NAME_TYPE] = FEATURE_TYPE_COMPATIBLE;
    table[FEATURE_NAME_LENGTH + FEATURE_NAME_BIT] = 9;
    memcpy(table + FEATURE_NAME_LENGTH + FEATURE_NAME_TEXT, "short", 5);
    examine(make_extended(EXTENSION_FEATURE_NAME_TABLE, table, sizeof(table)), &found);
    extension_feature_name(found.cluster, found.header->header_length, found.extensions_end,
                           FEATURE_TYPE_AUTOCLEAR, 9, name);
    ck_assert_uint_eq(strlen(name), FEATURE_NAME_LENGTH - FEATURE_NAME_TEXT);
    extension_feature_name(found.cluster, found.header->header_length, found.extensions_end,
                           FEATURE_TYPE_COMPATIBLE, 9, name);
    ck_assert_str_eq(name, "short");
    extension_feature_name(found.cluster, found.header->header_length, found.extensions_end,
                           FEATURE_TYPE_INCOMPATIBLE, 9, name);
    ck_assert_str_eq(name, "");
    header_examination_release(&found);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("header examination");
    TCase *tcase = tcase_create("header examination");
    int fields = sizeof(spoilt) / sizeof(spoilt[0]);

    tcase_add_test(tcase, a_good_header_has_no_problem);
    tcase_add_loop_test(tcase, a_damaged_field_is_the_problem_of_its_part, 0, fields);
    tcase_add_loop_test(tcase, the_problem_is_the_sentence_with_which_the_header_is_refused, 0,
                        fields);
    tcase_add_test(tcase, several_problems_are_all_told);
    tcase_add_test(tcase, without_a_cluster_size_nothing_is_judged_that_counts_clusters);
    tcase_add_test(tcase, an_impossible_backing_file_name_does_not_end_the_extensions);
    tcase_add_test(tcase, what_is_no_image_has_one_problem);
    tcase_add_test(tcase, of_a_cut_off_file_the_header_is_known);
    tcase_add_test(tcase, a_first_cluster_that_cannot_be_read_leaves_the_fields);
    tcase_add_test(tcase, no_byte_of_a_header_does_harm);
    tcase_add_test(tcase, unknown_bits_have_the_names_that_the_image_gives_them);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
