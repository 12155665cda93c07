/* SPDX-License-Identifier: MIT */
/* mapping_lookup_exact(): what reads alike is told apart. */
#include "config.h"

#include "builder.h"
#include "mapping_case.h"
#include "meta/format.h"
#include "suite.h"

#define K   UINT64_C(1024)
#define ALL (512 * K)

static struct builder *make(bool extended_l2, bool external_data_file)
{
    struct builder_options options = builder_defaults();

    options.extended_l2 = extended_l2;
    options.external_data_file = external_data_file;
    options.virtual_size = ALL;
    return builder_create(&options);
}

/* An exact lookup of all from guest_offset on that must find this kind and length. */
static struct extent expect_exact(struct mapping_case *mapping_case, uint64_t guest_offset,
                                  enum extent_kind kind, uint64_t length)
{
    struct extent extent;

    ck_assert_int_eq(mapping_lookup_exact(mapping_case->mapping, guest_offset, ALL - guest_offset,
                                          &extent, &mapping_case->fault),
                     0);
    ck_assert_int_eq(extent.kind, kind);
    ck_assert_uint_eq(extent.length, length);
    return extent;
}

/* The same, and a host cluster is kept there. */
static void expect_preallocated(struct mapping_case *mapping_case, uint64_t guest_offset,
                                enum extent_kind kind, uint64_t host_offset, uint64_t length)
{
    struct extent extent = expect_exact(mapping_case, guest_offset, kind, length);

    ck_assert(extent.preallocated);
    ck_assert_uint_eq(extent.host_offset, host_offset);
}

static void expect_not_preallocated(struct mapping_case *mapping_case, uint64_t guest_offset,
                                    enum extent_kind kind, uint64_t length)
{
    ck_assert(!expect_exact(mapping_case, guest_offset, kind, length).preallocated);
}

START_TEST(zeros_with_a_host_cluster_end_where_that_does_not_go_on)
{
    struct builder *builder = make(false, false);
    struct mapping_case mapping_case;
    uint64_t first, second, apart;

    builder_l2_table(builder, 0);
    first = builder_zero(builder, 0, true);
    second = builder_zero(builder, 64 * K, true);
    builder_zero(builder, 128 * K, false);
    builder_allocate(builder, 1);
    apart = builder_zero(builder, 192 * K, true);
    ck_assert_uint_eq(second, first + 64 * K);
    builder_set_l2_entry(builder, 256 * K, second | L2_ENTRY_ZERO, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_preallocated(&mapping_case, 0, EXTENT_ZERO, first, 128 * K);
    expect_preallocated(&mapping_case, 65 * K, EXTENT_ZERO, second + K, 63 * K);
    expect_not_preallocated(&mapping_case, 128 * K, EXTENT_ZERO, 64 * K);
    expect_preallocated(&mapping_case, 192 * K, EXTENT_ZERO, apart, 64 * K);
    expect_preallocated(&mapping_case, 256 * K, EXTENT_ZERO, second, 64 * K);
    expect_extent(&mapping_case, 0, ALL, EXTENT_ZERO, 320 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(subclusters_that_are_not_data_tell_that_their_cluster_has_a_place)
{
    struct builder *builder = make(true, false);
    struct mapping_case mapping_case;
    uint64_t host;

    /* 2 KiB each: 0 - 3 data, 4 - 7 unallocated, 8 - 31 zero; then a cluster without a place */
    host = builder_subclusters(builder, 0, 0x0000000f, 0xffffff00, "x", 1);
    builder_subclusters(builder, 64 * K, 0, 0x0000ffff, NULL, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_preallocated(&mapping_case, 8 * K, EXTENT_UNALLOCATED, host + 8 * K, 8 * K);
    expect_preallocated(&mapping_case, 16 * K, EXTENT_ZERO, host + 16 * K, 48 * K);
    expect_not_preallocated(&mapping_case, 64 * K, EXTENT_ZERO, 32 * K);
    expect_not_preallocated(&mapping_case, 96 * K, EXTENT_UNALLOCATED, ALL - 96 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(a_zero_cluster_at_offset_0_of_a_data_file_keeps_no_cluster_that_could_be_told)
{
    struct builder *builder = make(false, true);
    struct mapping_case mapping_case;

    builder_set_l2_entry(builder, 0, ENTRY_COPIED | L2_ENTRY_ZERO, 0);
    builder_set_l2_entry(builder, 64 * K, ENTRY_COPIED | 64 * K | L2_ENTRY_ZERO, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_not_preallocated(&mapping_case, 0, EXTENT_ZERO, 64 * K);
    expect_preallocated(&mapping_case, 64 * K, EXTENT_ZERO, 64 * K, 64 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(data_is_exclusive_where_both_entries_are_copied_also_read_only)
{
    struct builder *builder = make(false, false);
    uint64_t host = builder_allocate(builder, 3);
    struct mapping_case mapping_case;

    builder_set_l2_entry(builder, 0, ENTRY_COPIED | host, 0);
    builder_set_l2_entry(builder, 64 * K, host + 64 * K, 0);
    builder_set_l2_entry(builder, 128 * K, host + 128 * K, 0);
    builder_set_l1_entry(builder, 0, ENTRY_COPIED | builder_l2_table(builder, 0));
    mapping_case_open(&mapping_case, builder, 4096);
    ck_assert(expect_exact(&mapping_case, 0, EXTENT_DATA, 64 * K).exclusive);
    ck_assert(!expect_exact(&mapping_case, 64 * K, EXTENT_DATA, 128 * K).exclusive);
    expect_data(&mapping_case, 0, ALL, host, 192 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(data_below_a_shared_l2_table_is_not_exclusive)
{
    struct builder *builder = make(false, false);
    uint64_t host = builder_allocate(builder, 1);
    struct mapping_case mapping_case;

    builder_set_l2_entry(builder, 0, ENTRY_COPIED | host, 0);
    builder_set_l1_entry(builder, 0, builder_l2_table(builder, 0));
    mapping_case_open(&mapping_case, builder, 4096);
    ck_assert(!expect_exact(&mapping_case, 0, EXTENT_DATA, 64 * K).exclusive);
    mapping_case_close(&mapping_case);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mapping-exact");
    TCase *tests = tcase_create("all");

    tcase_add_test(tests, zeros_with_a_host_cluster_end_where_that_does_not_go_on);
    tcase_add_test(tests, subclusters_that_are_not_data_tell_that_their_cluster_has_a_place);
    tcase_add_test(tests,
                   a_zero_cluster_at_offset_0_of_a_data_file_keeps_no_cluster_that_could_be_told);
    tcase_add_test(tests, data_is_exclusive_where_both_entries_are_copied_also_read_only);
    tcase_add_test(tests, data_below_a_shared_l2_table_is_not_exclusive);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
