/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "builder.h"
#include "mapping_case.h"
#include "memory_store.h"
#include "meta/format.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define K UINT64_C(1024)

static struct builder *make(uint32_t version, uint32_t cluster_bits, uint64_t clusters)
{
    struct builder_options options = builder_defaults();

    options.version = version;
    options.cluster_bits = cluster_bits;
    options.virtual_size = clusters << cluster_bits;
    return builder_create(&options);
}

static struct builder *make_subclusters(uint64_t clusters)
{
    struct builder_options options = builder_defaults();

    options.extended_l2 = true;
    options.virtual_size = clusters << 16;
    return builder_create(&options);
}

static struct builder *make_data_file(uint64_t clusters)
{
    struct builder_options options = builder_defaults();

    options.external_data_file = true;
    options.virtual_size = clusters << 16;
    return builder_create(&options);
}

/* --- Each kind ------------------------------------------------------------------------ */

/* `_i`: cluster_bits. */
START_TEST(each_kind_is_found_in_every_cluster_size)
{
    struct builder *builder = make(3, (uint32_t)_i, 6);
    uint64_t size = UINT64_C(1) << _i, data, compressed;
    struct mapping_case mapping_case;
    struct extent extent;
    uint8_t *bytes = calloc(1, size);

    data = builder_data(builder, 0, "x", 1);
    builder_zero(builder, 2 * size, false);
    compressed = builder_compressed(builder, 4 * size, bytes, builder_allocate(builder, 1) + 3);
    free(bytes);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_data(&mapping_case, 0, size, data, size);
    expect_data(&mapping_case, size - 1, 1, data + size - 1, 1);
    expect_extent(&mapping_case, size, size, EXTENT_UNALLOCATED, size);
    expect_extent(&mapping_case, 2 * size + 1, 6 * size, EXTENT_ZERO, size - 1);
    extent = expect_extent(&mapping_case, 4 * size + 7, 6 * size, EXTENT_COMPRESSED, size - 7);
    ck_assert_uint_eq(extent.host_offset, compressed);
    ck_assert_uint_eq(extent.offset_in_cluster, 7);
    ck_assert_uint_eq((extent.host_offset + extent.compressed_size) % 512, 0);
    ck_assert_ptr_eq(extent.store, mapping_case.file);
    expect_extent(&mapping_case, 5 * size, UINT64_MAX, EXTENT_UNALLOCATED, UINT64_MAX - 5 * size);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(a_zero_cluster_is_zero_with_and_without_a_host_cluster)
{
    struct builder *builder = make(3, 16, 4);
    struct mapping_case mapping_case;

    builder_zero(builder, 0, true);
    builder_zero(builder, 64 * K, false);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_extent(&mapping_case, 0, 256 * K, EXTENT_ZERO, 128 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(a_copied_bit_alone_allocates_nothing)
{
    struct builder *builder = make(3, 16, 4);
    struct mapping_case mapping_case;

    builder_set_l2_entry(builder, 0, ENTRY_COPIED, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_extent(&mapping_case, 0, 256 * K, EXTENT_UNALLOCATED, 256 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(the_copied_bits_and_the_reserved_bits_change_nothing)
{
    struct builder *builder = make(3, 16, 4);
    uint64_t data = builder_data(builder, 0, "x", 1);
    uint64_t table = builder_l2_table(builder, 0);
    struct mapping_case mapping_case;

    builder_set_l2_entry(builder, 0, data | UINT64_C(0x3f000000000001fe), 0);
    builder_set_l1_entry(builder, 0, table | UINT64_C(0x7f000000000001ff));
    mapping_case_open(&mapping_case, builder, 4096);
    expect_data(&mapping_case, 0, 64 * K, data, 64 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(the_size_of_compressed_data_counts_whole_sectors_from_its_offset)
{
    struct builder *builder = make(3, 16, 4);
    uint64_t host = builder_allocate(builder, 2) + 700;
    struct mapping_case mapping_case;
    struct extent extent;

    /* x = 62 - 8 = 54 */
    builder_set_l2_entry(builder, 0, L2_ENTRY_COMPRESSED | host, 0);
    builder_set_l2_entry(builder, 64 * K, L2_ENTRY_COMPRESSED | UINT64_C(255) << 54 | host, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    extent = expect_extent(&mapping_case, 0, 128 * K, EXTENT_COMPRESSED, 64 * K);
    ck_assert_uint_eq(extent.compressed_size, 1024 - 700);
    extent = expect_extent(&mapping_case, 64 * K, 128 * K, EXTENT_COMPRESSED, 64 * K);
    ck_assert_uint_eq(extent.compressed_size, 256 * 512 - (700 - 512));
    mapping_case_close(&mapping_case);
}
END_TEST

/* --- Where extents end -------------------------------------------------------------------- */

START_TEST(data_is_joined_where_it_is_contiguous_on_the_host)
{
    struct builder *builder = make(3, 16, 8);
    uint64_t first = builder_allocate(builder, 3);
    struct mapping_case mapping_case;

    builder_data_at(builder, 0, first, NULL, 0);
    builder_data_at(builder, 64 * K, first + 64 * K, NULL, 0);
    builder_data_at(builder, 128 * K, first, NULL, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_data(&mapping_case, 1, 512 * K, first + 1, 128 * K - 1);
    expect_data(&mapping_case, 1, 70 * K, first + 1, 70 * K);
    expect_data(&mapping_case, 128 * K, 512 * K, first, 64 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(two_compressed_clusters_are_never_joined)
{
    struct builder *builder = make(3, 16, 2);
    struct mapping_case mapping_case;
    uint8_t bytes[65536] = {0};

    builder_compressed(builder, 0, bytes, 0);
    builder_compressed(builder, 64 * K, bytes, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_extent(&mapping_case, 0, 128 * K, EXTENT_COMPRESSED, 64 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

/* 512-byte clusters: 64 entries an L2 table, so 32 KiB an L1 entry. */
START_TEST(extents_go_on_over_l2_tables_and_l1_holes)
{
    struct builder *builder = make(3, 9, 1024);
    uint64_t host = builder_allocate(builder, 128);
    struct mapping_case mapping_case;

    for (uint64_t i = 0; i < 128; i++) {
        builder_data_at(builder, i * 512, host + i * 512, NULL, 0);
    }
    builder_l2_table(builder, 96 * K); /* empty, between holes at 64 K and 128 K */
    builder_zero(builder, 160 * K - 512, false);
    builder_zero(builder, 160 * K, false);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_data(&mapping_case, 100, UINT64_MAX, host + 100, 64 * K - 100);
    expect_extent(&mapping_case, 64 * K, UINT64_MAX, EXTENT_UNALLOCATED, 96 * K - 512);
    expect_extent(&mapping_case, 160 * K - 512, UINT64_MAX, EXTENT_ZERO, 1024);
    mapping_case_close(&mapping_case);
}
END_TEST

/* `_i`: log2 of the slice size, up to that of the cluster and beyond. */
START_TEST(extents_go_on_over_slices)
{
    struct builder *builder = make(3, 16, 8192);
    uint64_t slice = UINT64_C(1) << _i, host = builder_allocate(builder, 300);
    struct mapping_case mapping_case;
    uint64_t slices;

    for (uint64_t i = 0; i < 300; i++) {
        builder_data_at(builder, (i + 3) * 64 * K, host + i * 64 * K, NULL, 0);
    }
    mapping_case_open(&mapping_case, builder, slice);
    expect_extent(&mapping_case, 0, UINT64_MAX, EXTENT_UNALLOCATED, 192 * K);
    expect_data(&mapping_case, 192 * K, UINT64_MAX, host, 300 * 64 * K);
    expect_data(&mapping_case, 302 * 64 * K, UINT64_MAX, host + 299 * 64 * K, 64 * K);
    slices = 65536 / (slice < 65536 ? slice : 65536);
    expect_extent(&mapping_case, 303 * 64 * K, 7889 * 64 * K, EXTENT_UNALLOCATED, 7889 * 64 * K);
    ck_assert_uint_eq(memory_store_calls(mapping_case.file, MEMORY_STORE_READ), 3 + slices);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(a_lookup_past_the_last_l1_entry_finds_nothing_allocated)
{
    struct builder *builder = make(3, 16, 4);
    struct mapping_case mapping_case;

    mapping_case_open(&mapping_case, builder, 4096);
    expect_extent(&mapping_case, UINT64_C(1) << 62, 10, EXTENT_UNALLOCATED, 10);
    expect_extent(&mapping_case, UINT64_MAX - 1, UINT64_MAX, EXTENT_UNALLOCATED, 1);
    mapping_case_close(&mapping_case);
}
END_TEST

/* --- Subclusters ----------------------------------------------------------------------------- */

START_TEST(runs_of_subclusters_are_found_by_kind)
{
    struct builder *builder = make_subclusters(4);
    struct mapping_case mapping_case;
    uint64_t host;

    /* 2 KiB each: 0 - 3 data, 4 unallocated, 5 - 30 zero, 31 data */
    host = builder_subclusters(builder, 0, 0x8000000f, 0x7fffffe0, "x", 1);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_data(&mapping_case, 0, 64 * K, host, 8 * K);
    expect_data(&mapping_case, 3 * K, 64 * K, host + 3 * K, 5 * K);
    expect_extent(&mapping_case, 8 * K, 64 * K, EXTENT_UNALLOCATED, 2 * K);
    expect_extent(&mapping_case, 10 * K, 64 * K, EXTENT_ZERO, 52 * K);
    expect_data(&mapping_case, 62 * K, 64 * K, host + 62 * K, 2 * K);
    expect_data(&mapping_case, 64 * K - 1, 1, host + 64 * K - 1, 1);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(runs_of_subclusters_go_on_in_the_next_cluster)
{
    struct builder *builder = make_subclusters(6);
    struct mapping_case mapping_case;
    uint64_t host;

    builder_l2_table(builder, 0);
    host = builder_subclusters(builder, 0, 0xc0000000, 0x00000001, "x", 1);
    ck_assert_uint_eq(builder_subclusters(builder, 64 * K, 0x3, 0xfffffffc, "x", 1), host + 64 * K);
    builder_subclusters(builder, 128 * K, 0, 0xffffffff, NULL, 0);
    builder_subclusters(builder, 192 * K, 0, 0x1, NULL, 0);
    mapping_case_open(&mapping_case, builder, 512);
    expect_data(&mapping_case, 60 * K, 512 * K, host + 60 * K, 8 * K);
    expect_extent(&mapping_case, 68 * K, 512 * K, EXTENT_ZERO, (194 - 68) * K);
    expect_extent(&mapping_case, 194 * K, 190 * K, EXTENT_UNALLOCATED, 190 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(every_subcluster_bitmap_of_one_run_is_decoded)
{
    struct mapping_case mapping_case;
    uint64_t host = 0;

    for (unsigned first = 0; first < 32; first++) {
        for (unsigned last = first; last < 32; last++) {
            uint32_t run = (uint32_t)((UINT64_C(2) << last) - (UINT64_C(1) << first));
            struct builder *builder = make_subclusters(1);
            uint64_t begin = first * 2 * K, end = (last + 1) * 2 * K;

            host = builder_subclusters(builder, 0, run, ~run, "x", 1);
            mapping_case_open(&mapping_case, builder, 4096);
            expect_data(&mapping_case, begin, 64 * K, host + begin, end - begin);
            if (first > 0) {
                expect_extent(&mapping_case, 0, 64 * K, EXTENT_ZERO, begin);
            }
            if (last < 31) {
                expect_extent(&mapping_case, end, 64 * K - end, EXTENT_ZERO, 64 * K - end);
            }
            mapping_case_close(&mapping_case);
        }
    }
}
END_TEST

START_TEST(the_bitmap_of_a_compressed_cluster_means_nothing)
{
    struct builder *builder = make_subclusters(2);
    uint64_t host = builder_allocate(builder, 1);
    struct mapping_case mapping_case;

    builder_set_l2_entry(builder, 0, L2_ENTRY_COMPRESSED | host, UINT64_MAX);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_extent(&mapping_case, 0, 64 * K, EXTENT_COMPRESSED, 64 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(the_zero_flag_means_nothing_with_extended_l2_entries)
{
    struct builder *builder = make_subclusters(2);
    struct mapping_case mapping_case;
    uint64_t host = builder_data(builder, 0, "x", 1);

    builder_set_l2_entry(builder, 0, host | L2_ENTRY_ZERO, UINT32_MAX);
    builder_set_l2_entry(builder, 64 * K, L2_ENTRY_ZERO, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_data(&mapping_case, 0, 64 * K, host, 64 * K);
    expect_extent(&mapping_case, 64 * K, 64 * K, EXTENT_UNALLOCATED, 64 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(impossible_subcluster_bitmaps_are_faults)
{
    struct builder *builder = make_subclusters(4);
    uint64_t host = builder_allocate(builder, 1), entries = builder_l2_entry_offset(builder, 0);
    struct mapping_case mapping_case;

    builder_set_l2_entry(builder, 0, host, UINT64_C(0x0000000100000001));
    builder_set_l2_entry(builder, 64 * K, 0, UINT64_C(0x0000000000000001));
    mapping_case_open(&mapping_case, builder, 4096);
    expect_fault(&mapping_case, 5 * K, 0, entries, "0x0000000100000001");
    expect_fault(&mapping_case, 65 * K, 64 * K, entries + 16, "0x0000000000000001");
    mapping_case_close(&mapping_case);
}
END_TEST

/* --- Faults ------------------------------------------------------------------------------------
 */

START_TEST(a_host_offset_inside_a_cluster_is_a_fault_even_of_a_zero_cluster)
{
    struct builder *builder = make(3, 16, 4);
    uint64_t host = builder_data(builder, 0, "x", 1), entries = builder_l2_entry_offset(builder, 0);
    struct mapping_case mapping_case;

    builder_set_l2_entry(builder, 64 * K, (host + 512) | ENTRY_COPIED, 0);
    builder_set_l2_entry(builder, 128 * K, (host + 512) | L2_ENTRY_ZERO, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_fault(&mapping_case, 100 * K, 64 * K, entries + 8, "not the start of a cluster");
    expect_fault(&mapping_case, 128 * K, 128 * K, entries + 16, "not the start of a cluster");
    /* It ends the extent before it. */
    expect_data(&mapping_case, 3, 256 * K, host + 3, 64 * K - 3);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(a_cluster_that_begins_past_the_end_of_the_file_is_a_fault)
{
    struct builder *builder = make(3, 16, 4);
    uint64_t entries = builder_l2_entry_offset(builder, 0);
    struct mapping_case mapping_case;
    uint64_t end;

    builder_set_l2_entry(builder, 0, UINT64_C(0x00ffffffffff0000), 0);
    builder_set_l2_entry(builder, 64 * K, L2_ENTRY_COMPRESSED | UINT64_C(0x0020000000000001), 0);
    builder_set_l2_entry(builder, 128 * K, UINT64_C(0x00ffffffffff0001), 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_fault(&mapping_case, 0, 0, entries, "0xffffffffff0000, past the end of the file");
    expect_fault(&mapping_case, 64 * K, 64 * K, entries + 8, "past the end of the file");
    /* A zero cluster's preallocation is never read. */
    expect_extent(&mapping_case, 128 * K, 64 * K, EXTENT_ZERO, 64 * K);
    end = memory_store_size(mapping_case.file);
    ck_assert_uint_lt(end, UINT64_C(0x00ffffffffff0000));
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(a_last_cluster_of_which_one_byte_is_in_the_file_is_data)
{
    struct builder *builder = make(3, 16, 4);
    uint64_t entries = builder_l2_entry_offset(builder, 0);
    struct mapping_case mapping_case;
    uint64_t host;

    builder_set_l2_entry(builder, 0, 16 * 64 * K, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    host = 16 * 64 * K;
    ck_assert_int_eq(store_resize(mapping_case.file, host), 0);
    expect_fault(&mapping_case, 0, 0, entries, "past the end of the file");
    ck_assert_int_eq(store_resize(mapping_case.file, host + 1), 0);
    expect_data(&mapping_case, 0, 64 * K, host, 64 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(a_file_that_grew_after_it_was_opened_is_seen_to_have_grown)
{
    struct builder *builder = make(3, 16, 16384);
    struct mapping_case mapping_case;
    uint64_t table = 40 * 64 * K;

    builder_set_l1_entry(builder, 1, table);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_fault(&mapping_case, UINT64_C(512) << 20, UINT64_C(512) << 20, table,
                 "past the end of the file");
    ck_assert_int_eq(store_resize(mapping_case.file, table + 64 * K), 0);
    expect_extent(&mapping_case, UINT64_C(512) << 20, 64 * K, EXTENT_UNALLOCATED, 64 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(an_l1_entry_that_names_no_cluster_of_the_file_is_a_fault)
{
    struct builder *builder = make(3, 9, 256); /* 32 KiB an L1 entry */
    struct mapping_case mapping_case;

    builder_set_l1_entry(builder, 1, UINT64_C(0x0080000000000000));
    mapping_case_open(&mapping_case, builder, 512);
    expect_fault(&mapping_case, 40 * K, 32 * K, UINT64_C(0x0080000000000000), "L1 entry 1 (0x0080");
    ck_assert_uint_eq(
        mapping_tables_outside(mapping_case.mapping, memory_store_size(mapping_case.file)), 1);
    /* It ends the extent before it. */
    expect_extent(&mapping_case, 1, 128 * K, EXTENT_UNALLOCATED, 32 * K - 1);
    mapping_case_close(&mapping_case);

    builder = make(3, 16, 4);
    builder_set_l1_entry(builder, 0, 0x10200);
    mapping_case_open(&mapping_case, builder, 512);
    expect_fault(&mapping_case, 40 * K, 0, 0x10200, "not the start of a cluster");
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(a_zero_flag_in_version_2_is_a_fault)
{
    struct builder *builder = make(2, 16, 4);
    uint64_t host = builder_data(builder, 0, "x", 1), entries = builder_l2_entry_offset(builder, 0);
    struct mapping_case mapping_case;

    builder_set_l2_entry(builder, 0, L2_ENTRY_ZERO, 0);
    builder_set_l2_entry(builder, 64 * K, host | L2_ENTRY_ZERO, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_fault(&mapping_case, 0, 0, entries, "version 2");
    expect_fault(&mapping_case, 64 * K, 64 * K, entries + 8, "version 2");
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(a_table_that_cannot_be_read_is_a_fault_until_it_can)
{
    struct builder *builder = make(3, 9, 256);
    uint64_t host = builder_data(builder, 0, "x", 1), table = builder_l2_table(builder, 0);
    struct mapping_case mapping_case;

    mapping_case_open(&mapping_case, builder, 512);
    memory_store_fail_reads(mapping_case.file, table, 512, EIO);
    expect_fault(&mapping_case, 100, 100, table, strerror(EIO));
    memory_store_fail_reads(mapping_case.file, 0, 0, 0);
    expect_data(&mapping_case, 100, 100, host + 100, 100);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(a_fault_behind_the_asked_for_range_is_not_met)
{
    struct builder *builder = make(3, 16, 4);
    uint64_t host = builder_data(builder, 0, "x", 1);
    struct mapping_case mapping_case;

    builder_set_l2_entry(builder, 64 * K, 0x200, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_data(&mapping_case, 0, 64 * K, host, 64 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

/* --- External data files
 * -------------------------------------------------------------------------- */

START_TEST(data_of_an_external_file_lies_at_the_guest_offset)
{
    struct builder *builder = make_data_file(8);
    struct mapping_case mapping_case;

    builder_data(builder, 0, NULL, 0); /* at offset 0: only the copied bit tells */
    builder_data(builder, 64 * K, NULL, 0);
    builder_data(builder, 6 * 64 * K, NULL, 0); /* far past the end of the image file */
    builder_zero(builder, 3 * 64 * K, true);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_data(&mapping_case, 5, 512 * K, 5, 128 * K - 5);
    expect_extent(&mapping_case, 128 * K, 512 * K, EXTENT_UNALLOCATED, 64 * K);
    expect_extent(&mapping_case, 192 * K, 512 * K, EXTENT_ZERO, 64 * K);
    expect_data(&mapping_case, 6 * 64 * K, 512 * K, 6 * 64 * K, 64 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(another_offset_of_an_external_file_or_compressed_data_is_a_fault)
{
    struct builder *builder = make_data_file(8);
    uint64_t entries = builder_l2_entry_offset(builder, 0);
    struct mapping_case mapping_case;

    builder_set_l2_entry(builder, 0, 64 * K | ENTRY_COPIED, 0);
    builder_set_l2_entry(builder, 64 * K, ENTRY_COPIED, 0);
    builder_set_l2_entry(builder, 128 * K, L2_ENTRY_COMPRESSED | 64 * K, 0);
    builder_set_l2_entry(builder, 192 * K, 0, 0);
    mapping_case_open(&mapping_case, builder, 4096);
    expect_fault(&mapping_case, 1, 0, entries, "0x10000 of the data file");
    expect_fault(&mapping_case, 64 * K, 64 * K, entries + 8, "0x0 of the data file");
    expect_fault(&mapping_case, 129 * K, 128 * K, entries + 16, "compressed");
    expect_extent(&mapping_case, 192 * K, 64 * K, EXTENT_UNALLOCATED, 64 * K);
    mapping_case_close(&mapping_case);
}
END_TEST

/* --- Opening
 * ----------------------------------------------------------------------------------------- */

static void expect_not_opened(struct mapping_case *mapping_case, uint64_t l1_offset,
                              uint64_t entries, int code, const char *text)
{
    struct mapping_source source = {
        .header = mapping_case->header,
        .file = mapping_case->file,
        .data_file = mapping_case->data_file,
    };
    struct error error = {0};
    struct mapping *mapping;

    ck_assert_int_eq(mapping_open(&source, "a.qcow2", l1_offset, entries, &mapping, &error), -code);
    ck_assert_ptr_null(mapping);
    ck_assert_int_eq(strncmp(error.text, "a.qcow2: ", 9), 0);
    ck_assert_msg(strstr(error.text, text) != NULL, "%s", error.text);
}

START_TEST(an_l1_table_that_cannot_be_read_is_not_opened)
{
    struct mapping_case mapping_case;
    uint64_t size;

    mapping_case_open(&mapping_case, make(3, 16, 4), 4096);
    size = memory_store_size(mapping_case.file);
    expect_not_opened(&mapping_case, size, 1, EINVAL, "end of the file");
    expect_not_opened(&mapping_case, size - 64 * K, 64 * K / 8 + 1, EINVAL, "65544 bytes");
    memory_store_fail(mapping_case.file, MEMORY_STORE_READ, 1, EIO);
    expect_not_opened(&mapping_case, 64 * K, 1, EIO, "0x10000");
    mapping_case_close(&mapping_case);
}
END_TEST

START_TEST(of_an_l1_table_that_was_cut_off_what_is_there_is_followed)
{
    struct mapping_case mapping_case;
    struct mapping_source source = {.partial_l1 = true};
    struct mapping_fault fault;
    struct mapping *mapping;
    struct extent extent;
    struct error error;
    uint64_t size;

    mapping_case_open(&mapping_case, make(3, 16, 4), 4096);
    source.header = mapping_case.header;
    source.file = mapping_case.file;
    source.data_file = mapping_case.data_file;
    size = memory_store_size(mapping_case.file);
    /* One entry and a half are in the file, and zeros; the disk would need all that are possible.
     */
    ck_assert_int_eq(mapping_open(&source, "a.qcow2", size - 12, 4 * 1024 * 1024, &mapping, &error),
                     0);
    ck_assert_uint_eq(mapping_l1_missing(mapping), 4 * 1024 * 1024 - 1);
    ck_assert_uint_eq(mapping_tables(mapping), 0);
    ck_assert_uint_eq(mapping_table(mapping, 1), 0);
    mapping_set_cache(mapping, mapping_case.l2, 4096);
    ck_assert_int_eq(mapping_lookup(mapping, 0, 1 << 30, &extent, &fault), 0);
    ck_assert_uint_eq(extent.length, UINT64_C(64) * K * 64 * K / 8);
    ck_assert_int_eq(mapping_lookup(mapping, extent.length, 1, &extent, &fault), -EIO);
    ck_assert_msg(strstr(fault.text, "past the end of the file") != NULL, "%s", fault.text);
    mapping_close(mapping);
    mapping_case_close(&mapping_case);
}
END_TEST

static void add_extents(TCase *tcase)
{
    tcase_add_loop_test(tcase, each_kind_is_found_in_every_cluster_size, 9, 22);
    tcase_add_test(tcase, a_zero_cluster_is_zero_with_and_without_a_host_cluster);
    tcase_add_test(tcase, a_copied_bit_alone_allocates_nothing);
    tcase_add_test(tcase, the_copied_bits_and_the_reserved_bits_change_nothing);
    tcase_add_test(tcase, the_size_of_compressed_data_counts_whole_sectors_from_its_offset);
    tcase_add_test(tcase, data_is_joined_where_it_is_contiguous_on_the_host);
    tcase_add_test(tcase, two_compressed_clusters_are_never_joined);
    tcase_add_test(tcase, extents_go_on_over_l2_tables_and_l1_holes);
    tcase_add_loop_test(tcase, extents_go_on_over_slices, 9, 18);
    tcase_add_test(tcase, a_lookup_past_the_last_l1_entry_finds_nothing_allocated);
    tcase_add_test(tcase, runs_of_subclusters_are_found_by_kind);
    tcase_add_test(tcase, runs_of_subclusters_go_on_in_the_next_cluster);
    tcase_add_test(tcase, every_subcluster_bitmap_of_one_run_is_decoded);
    tcase_add_test(tcase, the_bitmap_of_a_compressed_cluster_means_nothing);
    tcase_add_test(tcase, the_zero_flag_means_nothing_with_extended_l2_entries);
    tcase_add_test(tcase, data_of_an_external_file_lies_at_the_guest_offset);
}

static void add_faults(TCase *tcase)
{
    tcase_add_test(tcase, impossible_subcluster_bitmaps_are_faults);
    tcase_add_test(tcase, a_host_offset_inside_a_cluster_is_a_fault_even_of_a_zero_cluster);
    tcase_add_test(tcase, a_cluster_that_begins_past_the_end_of_the_file_is_a_fault);
    tcase_add_test(tcase, a_last_cluster_of_which_one_byte_is_in_the_file_is_data);
    tcase_add_test(tcase, a_file_that_grew_after_it_was_opened_is_seen_to_have_grown);
    tcase_add_test(tcase, an_l1_entry_that_names_no_cluster_of_the_file_is_a_fault);
    tcase_add_test(tcase, a_zero_flag_in_version_2_is_a_fault);
    tcase_add_test(tcase, a_table_that_cannot_be_read_is_a_fault_until_it_can);
    tcase_add_test(tcase, a_fault_behind_the_asked_for_range_is_not_met);
    tcase_add_test(tcase, another_offset_of_an_external_file_or_compressed_data_is_a_fault);
    tcase_add_test(tcase, an_l1_table_that_cannot_be_read_is_not_opened);
    tcase_add_test(tcase, of_an_l1_table_that_was_cut_off_what_is_there_is_followed);
}

int main(void)
{
    Suite *suite = suite_create("mapping");
    TCase *extents = tcase_create("extents"), *faults = tcase_create("faults");

    add_extents(extents);
    add_faults(faults);
    suite_add_tcase(suite, extents);
    suite_add_tcase(suite, faults);
    return suite_main(suite);
}
