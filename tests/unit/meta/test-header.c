/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "builder.h"
#include "codec/codec.h"
#include "header_case.h"
#include "memory_store.h"
#include "meta/format.h"
#include "meta/header.h"
#include "suite.h"

#include <errno.h>
#include <string.h>

static void expect_good(struct store *store)
{
    header_free(read_good(store));
}

/* --- What is taken ------------------------------------------------------------------ */

START_TEST(every_field_of_version_3_is_read)
{
    struct builder_options options = builder_defaults();
    struct header *header;

    options.cluster_bits = 14;
    options.refcount_order = 6;
    options.virtual_size = (UINT64_C(5) << 30) + 3;
    options.more_l1_entries = 2;
    options.extended_l2 = true;
    options.external_data_file = true;
    options.data_file = "disk.raw";
    options.backing_file = "base.qcow2";
    options.backing_format = "qcow2";
    options.compatible_features = COMPATIBLE_LAZY_REFCOUNTS;
    options.autoclear_features = AUTOCLEAR_RAW_EXTERNAL_DATA;
    options.incompatible_features = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT;
    header = read_good(make_image(&options));
    ck_assert_uint_eq(header->version, 3);
    ck_assert_uint_eq(header->cluster_bits, 14);
    ck_assert_uint_eq(header->cluster_size, 16384);
    ck_assert_uint_eq(header->virtual_size, options.virtual_size);
    ck_assert_uint_eq(header->l1_offset, 16384);
    ck_assert_uint_eq(header->l1_entries, 321 + 2); /* 1024 entries of 16 KiB each */
    ck_assert_uint_eq(header->refcount_table_offset, 2 * 16384);
    ck_assert_uint_eq(header->refcount_table_clusters, 1);
    ck_assert_uint_eq(header->snapshot_count, 0);
    ck_assert_uint_eq(header->incompatible_features, 0x17);
    ck_assert_uint_eq(header->compatible_features, 1);
    ck_assert_uint_eq(header->autoclear_features, 2);
    ck_assert_uint_eq(header->refcount_order, 6);
    ck_assert_uint_eq(header->header_length, 112);
    ck_assert_uint_eq(header->compression_type, COMPRESSION_DEFLATE);
    ck_assert_str_eq(header->backing_file, "base.qcow2");
    ck_assert_str_eq(header->backing_format, "qcow2");
    ck_assert_str_eq(header->data_file, "disk.raw");
    ck_assert(header->extended_l2 && header->external_data_file);
    ck_assert_uint_eq(header->l2_entry_bytes, 16);
    ck_assert_uint_eq(header->l2_bits, 10);
    ck_assert_uint_eq(header->subcluster_bits, 9);
    ck_assert_uint_eq(header->subclusters, 32);
    ck_assert_uint_eq(header_l1_entry_bits(header), 24);
    header_free(header);
}
END_TEST

START_TEST(every_field_of_version_2_is_read_and_those_of_version_3_are_not)
{
    struct builder_options options = builder_defaults();
    struct header *header;

    options.version = 2;
    options.backing_file = "base";
    options.backing_format = "raw";
    header = read_good(make_image(&options));
    ck_assert_uint_eq(header->version, 2);
    ck_assert_uint_eq(header->header_length, 72);
    ck_assert_uint_eq(header->refcount_order, 4);
    ck_assert_uint_eq(header->incompatible_features, 0);
    ck_assert_uint_eq(header->compatible_features, 0);
    ck_assert_uint_eq(header->autoclear_features, 0);
    ck_assert_uint_eq(header->compression_type, 0);
    ck_assert_str_eq(header->backing_file, "base");
    ck_assert_str_eq(header->backing_format, "raw");
    ck_assert_ptr_null(header->data_file);
    ck_assert_uint_eq(header->l2_entry_bytes, 8);
    ck_assert_uint_eq(header->subclusters, 1);
    header_free(header);
}
END_TEST

START_TEST(every_cluster_size_is_taken)
{
    struct builder_options options = builder_defaults();
    struct header *header;

    options.cluster_bits = (uint32_t)_i;
    header = read_good(make_image(&options));
    ck_assert_uint_eq(header->cluster_size, UINT64_C(1) << _i);
    ck_assert_uint_eq(header->subcluster_bits, _i);
    ck_assert_uint_eq(header->l2_bits, _i - 3);
    header_free(header);
}
END_TEST

START_TEST(every_refcount_order_is_taken)
{
    struct builder_options options = builder_defaults();
    struct header *header;

    options.refcount_order = (uint32_t)_i;
    header = read_good(make_image(&options));
    ck_assert_uint_eq(header->refcount_order, _i);
    header_free(header);
}
END_TEST

START_TEST(a_header_length_of_104_is_taken_and_means_deflate)
{
    struct builder_options options = builder_defaults();
    struct header *header;

    options.header_length = 104;
    header = read_good(make_image(&options));
    ck_assert_uint_eq(header->compression_type, COMPRESSION_DEFLATE);
    header_free(header);
}
END_TEST

START_TEST(a_longer_header_of_a_later_version_is_taken)
{
    struct builder_options options = builder_defaults();
    struct header *header;
    struct store *store;

    options.header_length = 256;
    options.backing_file = "base";
    options.backing_format = "qcow2";
    store = make_image(&options);
    memset(memory_store_data(store) + 112, 0x77, 256 - 112);
    header = read_good(store);
    ck_assert_str_eq(header->backing_format, "qcow2");
    header_free(header);
}
END_TEST

START_TEST(compression_type_zstd_is_taken)
{
    struct builder_options options = builder_defaults();
    struct header *header;

    if (compression_type_missing(COMPRESSION_ZSTD) != NULL) {
        return;
    }
    options.compression_type = COMPRESSION_ZSTD;
    header = read_good(make_image(&options));
    ck_assert_uint_eq(header->compression_type, COMPRESSION_ZSTD);
    header_free(header);
}
END_TEST

START_TEST(unknown_compatible_and_autoclear_features_are_taken)
{
    struct builder_options options = builder_defaults();
    struct header *header;

    options.compatible_features = UINT64_MAX;
    options.autoclear_features = UINT64_MAX;
    header = read_good(make_image(&options));
    ck_assert_uint_eq(header->compatible_features, UINT64_MAX);
    ck_assert_uint_eq(header->autoclear_features, UINT64_MAX);
    header_free(header);
}
END_TEST

START_TEST(unknown_extensions_are_counted_and_passed_over)
{
    struct builder_options options = builder_defaults();
    struct builder *builder;
    struct header *header;

    options.backing_file = "base";
    options.backing_format = "qcow2";
    builder = builder_create(&options);
    builder_extension(builder, 0x12345678, "abc", 3);
    builder_extension(builder, 0xffffffff, NULL, 0);
    header = read_good(builder_store(builder));
    ck_assert_uint_eq(header->unknown_extensions, 2);
    ck_assert_str_eq(header->backing_format, "qcow2");
    builder_destroy(builder);
    header_free(header);
}
END_TEST

START_TEST(a_disk_of_no_bytes_needs_no_l1_entries)
{
    struct builder_options options = builder_defaults();
    struct header *header;

    options.virtual_size = 0;
    header = read_good(make_image(&options));
    ck_assert_uint_eq(header->virtual_size, 0);
    ck_assert_uint_eq(header->l1_entries, 0);
    header_free(header);
}
END_TEST

START_TEST(the_unused_end_of_the_refcount_table_may_be_cut_off)
{
    struct store *store = make_default();
    uint64_t size = get64(store, HEADER_REFCOUNT_TABLE_OFFSET) + 8;
    struct error error = {0};
    struct header *header;

    ck_assert_int_eq(store_resize(store, size), 0);
    ck_assert_int_eq(header_read(store, size, HEADER_CASE_NAME, &header, &error), 0);
    header_free(header);
    store_close(store);
}
END_TEST

START_TEST(a_backing_file_name_of_1023_bytes_is_taken)
{
    struct builder_options options = builder_defaults();
    char backing[1024] = "";
    struct header *header;

    memset(backing, 'b', 1023);
    options.backing_file = backing;
    header = read_good(make_image(&options));
    ck_assert_str_eq(header->backing_file, backing);
    header_free(header);
}
END_TEST

START_TEST(a_backing_file_name_may_end_with_the_first_cluster)
{
    struct builder_options options = builder_defaults();
    struct store *store;
    struct header *header;

    options.cluster_bits = 9;
    store = make_image(&options);
    put64(store, HEADER_BACKING_FILE_OFFSET, 508);
    put32(store, HEADER_BACKING_FILE_SIZE, 4);
    memcpy(memory_store_data(store) + 508, "base", 4);
    header = read_good(store);
    ck_assert_str_eq(header->backing_file, "base");
    header_free(header);
}
END_TEST

START_TEST(a_backing_file_name_without_a_place_or_of_zeros_means_nothing)
{
    struct store *store = make_default();
    struct header *header;

    put32(store, HEADER_BACKING_FILE_SIZE, UINT32_MAX);
    header = read_good(store);
    ck_assert_ptr_null(header->backing_file);
    header_free(header);
    store = make_default();
    put64(store, HEADER_BACKING_FILE_OFFSET, 400);
    put32(store, HEADER_BACKING_FILE_SIZE, 4); /* zeros */
    header = read_good(store);
    ck_assert_ptr_null(header->backing_file);
    header_free(header);
}
END_TEST

START_TEST(snapshots_offset_means_nothing_without_snapshots)
{
    struct store *store = make_default();

    put64(store, HEADER_SNAPSHOTS_OFFSET, 12345);
    expect_good(store);
}
END_TEST

/* --- What is refused: the fields ------------------------------------------------------ */

START_TEST(a_file_of_71_bytes_is_too_short)
{
    struct store *store = make_default();

    ck_assert_int_eq(store_resize(store, 71), 0);
    expect_refused(store, EINVAL, "too short", "71 bytes");
}
END_TEST

START_TEST(a_file_that_ends_with_the_header_of_version_2_is_not_taken_for_version_3)
{
    struct store *store = make_default();

    ck_assert_int_eq(store_resize(store, 72), 0);
    expect_refused(store, EINVAL, "header_length", " 0;");
}
END_TEST

START_TEST(another_magic_is_refused)
{
    expect_refused_field32(HEADER_MAGIC, 0x514649fa, "not a qcow2 image", "QFI\\xfb");
}
END_TEST

START_TEST(versions_other_than_2_and_3_are_refused)
{
    static const struct {
        uint32_t version;
        const char *text;
    } versions[] = {
        {0, "version 0"}, {1, "version 1"}, {4, "version 4"}, {UINT32_MAX, "version 4294967295"}};

    for (size_t i = 0; i < 4; i++) {
        struct store *store = make_default();

        put32(store, HEADER_VERSION, versions[i].version);
        expect_refused(store, ENOTSUP, "image", versions[i].text);
    }
}
END_TEST

START_TEST(cluster_bits_outside_9_to_21_are_refused)
{
    expect_refused_field32(HEADER_CLUSTER_BITS, 0, "cluster_bits", " 0;");
    expect_refused_field32(HEADER_CLUSTER_BITS, 8, "cluster_bits", " 8;");
    expect_refused_field32(HEADER_CLUSTER_BITS, 22, "cluster_bits", " 22;");
    expect_refused_field32(HEADER_CLUSTER_BITS, 64, "cluster_bits", " 64;");
    expect_refused_field32(HEADER_CLUSTER_BITS, UINT32_MAX, "cluster_bits", " 4294967295;");
}
END_TEST

START_TEST(extended_l2_entries_need_clusters_of_16_kib)
{
    struct builder_options options = builder_defaults();
    struct store *store;

    options.extended_l2 = true;
    options.cluster_bits = 14;
    expect_good(make_image(&options));
    store = make_image(&options);
    put32(store, HEADER_CLUSTER_BITS, 13);
    expect_refused(store, EINVAL, "cluster_bits", " 13;");
}
END_TEST

START_TEST(an_impossible_header_length_is_refused)
{
    expect_refused_field32(HEADER_HEADER_LENGTH, 96, "header_length", " 96;");
    expect_refused_field32(HEADER_HEADER_LENGTH, 108, "header_length", " 108;");
    expect_refused_field32(HEADER_HEADER_LENGTH, 65544, "header_length", " 65544;");
    expect_refused_field32(HEADER_HEADER_LENGTH, 0xfffffff8, "header_length", " 4294967288;");
}
END_TEST

START_TEST(a_backing_file_name_too_long_or_not_behind_the_header_is_refused)
{
    struct store *store = make_default();

    expect_refused_field64(HEADER_BACKING_FILE_OFFSET, 104, "backing_file_offset", " 104;");
    expect_refused_field64(HEADER_BACKING_FILE_OFFSET, 65537, "backing_file_offset", " 65537;");
    expect_refused_field64(HEADER_BACKING_FILE_OFFSET, UINT64_MAX, "backing_file_offset",
                           " 18446744073709551615;");
    put64(store, HEADER_BACKING_FILE_OFFSET, 65000);
    put32(store, HEADER_BACKING_FILE_SIZE, 537);
    expect_refused(store, EINVAL, "backing_file_size", " 537;");
    store = make_default();
    put64(store, HEADER_BACKING_FILE_OFFSET, 256);
    put32(store, HEADER_BACKING_FILE_SIZE, 1024);
    expect_refused(store, EINVAL, "backing_file_size", " 1024;");
}
END_TEST

START_TEST(a_disk_of_2_to_the_63_bytes_is_refused)
{
    expect_refused_field64(HEADER_SIZE, UINT64_C(1) << 63, "size", " 9223372036854775808;");
    expect_refused_field64(HEADER_SIZE, UINT64_MAX, "size", " 18446744073709551615;");
}
END_TEST

START_TEST(luks_needs_its_header)
{
    struct store *store = make_default();

    put32(store, HEADER_CRYPT_METHOD, CRYPT_LUKS);
    expect_refused(store, EINVAL, "LUKS", "encryption header");
    expect_refused_field32(HEADER_CRYPT_METHOD, 3, "crypt_method", " 3;");
}
END_TEST

START_TEST(a_compression_type_and_its_feature_bit_must_agree)
{
    struct store *store = make_default();

    memory_store_data(store)[HEADER_COMPRESSION_TYPE] = 1;
    expect_refused(store, EINVAL, "compression_type", " 1;");
    expect_refused_field64(HEADER_INCOMPATIBLE_FEATURES, INCOMPATIBLE_COMPRESSION_TYPE,
                           "compression_type", " 0;");
    /* Past the end of the header there is no compression type. */
    store = make_default();
    put32(store, HEADER_HEADER_LENGTH, 104);
    put64(store, HEADER_INCOMPATIBLE_FEATURES, INCOMPATIBLE_COMPRESSION_TYPE);
    memory_store_data(store)[HEADER_COMPRESSION_TYPE] = 1;
    expect_refused(store, EINVAL, "compression_type", " 0;");
}
END_TEST

START_TEST(an_unknown_compression_type_is_refused)
{
    struct store *store = make_default();

    put64(store, HEADER_INCOMPATIBLE_FEATURES, INCOMPATIBLE_COMPRESSION_TYPE);
    memory_store_data(store)[HEADER_COMPRESSION_TYPE] = 2;
    expect_refused(store, ENOTSUP, "compression type", "is 2,");
}
END_TEST

START_TEST(refcounts_of_more_than_64_bits_are_refused)
{
    expect_refused_field32(HEADER_REFCOUNT_ORDER, 7, "refcount_order", " 7;");
    expect_refused_field32(HEADER_REFCOUNT_ORDER, UINT32_MAX, "refcount_order", " 4294967295;");
}
END_TEST

/* --- What is refused: the tables ------------------------------------------------------- */

START_TEST(an_l1_table_of_more_than_32_mib_is_refused)
{
    expect_refused_field32(HEADER_L1_SIZE, 4194305, "l1_size", " 4194305;");
}
END_TEST

START_TEST(an_l1_table_that_does_not_map_the_disk_is_refused)
{
    struct store *store = make_default();

    put64(store, HEADER_SIZE, (UINT64_C(512) << 20) + 1);
    expect_refused(store, EINVAL, "L1 table is too small", "536870913");
    expect_refused_field32(HEADER_L1_SIZE, 0, "L1 table is too small", "has 0 entries");
}
END_TEST

START_TEST(tables_that_do_not_start_at_a_cluster_are_refused)
{
    struct store *store = make_default();

    expect_refused_field64(HEADER_L1_TABLE_OFFSET, 65544, "l1_table_offset", "0x10008");
    expect_refused_field64(HEADER_REFCOUNT_TABLE_OFFSET, 131584, "refcount_table_offset",
                           "0x20200");
    put32(store, HEADER_NB_SNAPSHOTS, 1);
    put64(store, HEADER_SNAPSHOTS_OFFSET, 196616);
    expect_refused(store, EINVAL, "snapshots_offset", "0x30008");
}
END_TEST

START_TEST(tables_past_the_end_of_the_file_are_refused)
{
    struct store *store = make_default();

    expect_refused_field64(HEADER_L1_TABLE_OFFSET, 0x7fff0000, "L1 table", "0x7fff0000");
    expect_refused_field64(HEADER_L1_TABLE_OFFSET, UINT64_MAX << 16, "L1 table",
                           "0xffffffffffff0000");
    expect_refused_field64(HEADER_REFCOUNT_TABLE_OFFSET, 0x7fff0000, "refcount table",
                           "0x7fff0000");
    expect_refused_field32(HEADER_REFCOUNT_TABLE_CLUSTERS, 99, "refcount table", "6488064 bytes");
    put32(store, HEADER_NB_SNAPSHOTS, 1);
    put64(store, HEADER_SNAPSHOTS_OFFSET, 0x7fff0000);
    expect_refused(store, EINVAL, "snapshot table", "0x7fff0000");
}
END_TEST

START_TEST(an_impossible_size_of_the_refcount_table_is_refused)
{
    expect_refused_field32(HEADER_REFCOUNT_TABLE_CLUSTERS, 0, "refcount_table_clusters", " 0;");
    expect_refused_field32(HEADER_REFCOUNT_TABLE_CLUSTERS, 129, "refcount_table_clusters", " 129;");
    expect_refused_field32(HEADER_REFCOUNT_TABLE_CLUSTERS, UINT32_MAX, "refcount_table_clusters",
                           " 4294967295;");
}
END_TEST

START_TEST(tables_that_overlap_the_header_are_refused)
{
    struct store *store = make_default();

    expect_refused_field64(HEADER_L1_TABLE_OFFSET, 0, "L1 table at offset 0x0", "the header");
    expect_refused_field64(HEADER_REFCOUNT_TABLE_OFFSET, 0, "refcount table at offset 0x0",
                           "the header");
    put32(store, HEADER_NB_SNAPSHOTS, 1);
    expect_refused(store, EINVAL, "snapshot table at offset 0x0", "the header");
}
END_TEST

START_TEST(tables_that_overlap_each_other_are_refused)
{
    struct store *store = make_default();
    uint64_t refcount_table = get64(store, HEADER_REFCOUNT_TABLE_OFFSET);

    put64(store, HEADER_L1_TABLE_OFFSET, refcount_table);
    expect_refused(store, EINVAL, "L1 table", "overlaps the refcount table");
    store = make_default();
    put32(store, HEADER_NB_SNAPSHOTS, 1);
    put64(store, HEADER_SNAPSHOTS_OFFSET, get64(store, HEADER_L1_TABLE_OFFSET));
    expect_refused(store, EINVAL, "snapshot table", "overlaps the L1 table");
    store = make_default();
    put32(store, HEADER_NB_SNAPSHOTS, 1);
    put64(store, HEADER_SNAPSHOTS_OFFSET, refcount_table);
    expect_refused(store, EINVAL, "snapshot table", "overlaps the refcount table");
}
END_TEST

START_TEST(an_l1_table_that_runs_into_the_refcount_table_is_refused)
{
    struct builder_options options = builder_defaults();
    struct store *store;

    options.cluster_bits = 9;
    options.more_l1_entries = 10; /* 8 MiB need 256 entries... */
    options.virtual_size = 1 << 20;
    store = make_image(&options);
    put32(store, HEADER_L1_SIZE, 65); /* ... and 64 fill the one cluster before the next table */
    expect_refused(store, EINVAL, "L1 table", "overlaps the refcount table");
}
END_TEST

/* --- Stores that fail ----------------------------------------------------
 */

START_TEST(a_read_error_is_passed_on)
{
    for (unsigned n = 1; n <= 2; n++) {
        struct store *store = make_default();

        memory_store_fail(store, MEMORY_STORE_READ, n, EIO);
        expect_refused(store, EIO, "cannot be read", strerror(EIO));
    }
}
END_TEST

static void add_taken(TCase *tcase)
{
    tcase_add_test(tcase, every_field_of_version_3_is_read);
    tcase_add_test(tcase, every_field_of_version_2_is_read_and_those_of_version_3_are_not);
    tcase_add_loop_test(tcase, every_cluster_size_is_taken, 9, 22);
    tcase_add_loop_test(tcase, every_refcount_order_is_taken, 0, 7);
    tcase_add_test(tcase, a_header_length_of_104_is_taken_and_means_deflate);
    tcase_add_test(tcase, a_longer_header_of_a_later_version_is_taken);
    tcase_add_test(tcase, compression_type_zstd_is_taken);
    tcase_add_test(tcase, unknown_compatible_and_autoclear_features_are_taken);
    tcase_add_test(tcase, unknown_extensions_are_counted_and_passed_over);
    tcase_add_test(tcase, a_disk_of_no_bytes_needs_no_l1_entries);
    tcase_add_test(tcase, the_unused_end_of_the_refcount_table_may_be_cut_off);
    tcase_add_test(tcase, a_backing_file_name_of_1023_bytes_is_taken);
    tcase_add_test(tcase, a_backing_file_name_may_end_with_the_first_cluster);
    tcase_add_test(tcase, a_backing_file_name_without_a_place_or_of_zeros_means_nothing);
    tcase_add_test(tcase, snapshots_offset_means_nothing_without_snapshots);
}

static void add_refused(TCase *tcase)
{
    tcase_add_test(tcase, a_file_of_71_bytes_is_too_short);
    tcase_add_test(tcase, a_file_that_ends_with_the_header_of_version_2_is_not_taken_for_version_3);
    tcase_add_test(tcase, another_magic_is_refused);
    tcase_add_test(tcase, versions_other_than_2_and_3_are_refused);
    tcase_add_test(tcase, cluster_bits_outside_9_to_21_are_refused);
    tcase_add_test(tcase, extended_l2_entries_need_clusters_of_16_kib);
    tcase_add_test(tcase, an_impossible_header_length_is_refused);
    tcase_add_test(tcase, a_backing_file_name_too_long_or_not_behind_the_header_is_refused);
    tcase_add_test(tcase, a_disk_of_2_to_the_63_bytes_is_refused);
    tcase_add_test(tcase, luks_needs_its_header);
    tcase_add_test(tcase, a_compression_type_and_its_feature_bit_must_agree);
    tcase_add_test(tcase, an_unknown_compression_type_is_refused);
    tcase_add_test(tcase, refcounts_of_more_than_64_bits_are_refused);
    tcase_add_test(tcase, an_l1_table_of_more_than_32_mib_is_refused);
    tcase_add_test(tcase, an_l1_table_that_does_not_map_the_disk_is_refused);
    tcase_add_test(tcase, tables_that_do_not_start_at_a_cluster_are_refused);
    tcase_add_test(tcase, tables_past_the_end_of_the_file_are_refused);
    tcase_add_test(tcase, an_impossible_size_of_the_refcount_table_is_refused);
    tcase_add_test(tcase, tables_that_overlap_the_header_are_refused);
    tcase_add_test(tcase, tables_that_overlap_each_other_are_refused);
    tcase_add_test(tcase, an_l1_table_that_runs_into_the_refcount_table_is_refused);
    tcase_add_test(tcase, a_read_error_is_passed_on);
}

int main(void)
{
    Suite *suite = suite_create("header");
    TCase *taken = tcase_create("taken"), *refused = tcase_create("refused");

    add_taken(taken);
    add_refused(refused);
    suite_add_tcase(suite, taken);
    suite_add_tcase(suite, refused);
    return suite_main(suite);
}
