/* SPDX-License-Identifier: MIT */
/* The checker and the tables that the header names: lost, overlapping, with faults. */
#include "config.h"

#include "builder.h"
#include "check/check.h"
#include "header_case.h"
#include "memory_log.h"
#include "memory_store.h"
#include "meta/format.h"
#include "suite.h"
#include "util/checked.h"

#include <errno.h>
#include <string.h>

#define CLUSTER  512
#define EXTENDED UINT32_C(1500) /* bytes of extra data: too many */

static const struct check_options look = {0};
static const struct check_options all = {.repair_leaks = true, .repair_errors = true};

/* Some data, and two snapshots with that many bytes of extra data. */
static struct store *make_store(uint32_t first_extra, uint32_t second_extra)
{
    struct builder_options options = builder_defaults();
    struct builder *builder;
    struct store *store;
    unsigned l1;

    options.cluster_bits = 9;
    options.virtual_size = 256 * 1024;
    builder = builder_create(&options);
    for (uint64_t guest = 0; guest < 100 * CLUSTER; guest += CLUSTER) {
        builder_data(builder, guest, "data", 4);
    }
    for (unsigned i = 0; i < 2; i++) {
        l1 = builder_add_l1(builder, 8);
        builder_data(builder, 5 * CLUSTER, "old", 3);
        builder_snapshot(builder, &(struct builder_snapshot){
                                      .id = "7",
                                      .name = i == 0 ? "first" : "second",
                                      .l1 = l1,
                                      .disk_size = options.virtual_size,
                                      .vm_state_size = 4711,
                                      .extra_data_size = i == 0 ? first_extra : second_extra,
                                  });
    }
    store = builder_store(builder);
    builder_destroy(builder);
    return store;
}

static struct header *open_header(struct store *store)
{
    struct header *header;
    struct error error = {0};

    ck_assert_msg(
        check_read_header(store, memory_store_size(store), HEADER_CASE_NAME, &header, &error) == 0,
        "%s", error.text);
    return header;
}

static struct check_result check(struct store *store, const struct check_options *options)
{
    struct header *header = open_header(store);
    struct check_result result;
    struct error error = {0};

    ck_assert_msg(check_image(header, store, HEADER_CASE_NAME, options, &result, &error) == 0, "%s",
                  error.text);
    header_free(header);
    return result;
}

static void expect_repaired(struct store *store)
{
    struct check_result result = check(store, &all);

    ck_assert(check_is_clean(&result));
    result = check(store, &look);
    ck_assert_uint_eq(result.errors + result.leaks, 0);
}

static const struct {
    size_t at;
    uint64_t value;
    bool is_64;
} lost_tables[] = {
    {HEADER_REFCOUNT_TABLE_OFFSET, UINT64_C(1) << 62, true},
    {HEADER_REFCOUNT_TABLE_OFFSET, UINT64_MAX - 511, true},
    {HEADER_REFCOUNT_TABLE_OFFSET, CLUSTER + 8, true},
    {HEADER_REFCOUNT_TABLE_OFFSET, 0, true},
    {HEADER_REFCOUNT_TABLE_CLUSTERS, 0, false},
    {HEADER_REFCOUNT_TABLE_CLUSTERS, UINT32_MAX, false},
    {HEADER_REFCOUNT_TABLE_CLUSTERS, 16384, false},
};

START_TEST(a_refcount_table_that_cannot_be_is_made_anew)
{
    struct store *store = make_store(16, 24);

    if (lost_tables[_i].is_64) {
        put64(store, lost_tables[_i].at, lost_tables[_i].value);
    } else {
        put32(store, lost_tables[_i].at, (uint32_t)lost_tables[_i].value);
    }
    ck_assert_uint_gt(check(store, &look).errors, 0);
    expect_repaired(store);
    header_free(read_good(store));
}
END_TEST

START_TEST(an_l1_table_past_the_end_is_an_error_and_nothing_is_freed)
{
    struct store *store = make_store(16, 24);
    struct check_result result;

    put64(store, HEADER_L1_TABLE_OFFSET, UINT64_C(1) << 40);
    result = check(store, &all);
    ck_assert_uint_gt(result.errors, 0);
    ck_assert_uint_gt(result.leaks, 100);
    ck_assert_uint_eq(result.fixed_leaks, 0);
    ck_assert(!check_is_clean(&result));
    store_close(store);
}
END_TEST

static void count_data(void *context, uint64_t cluster, enum check_use use, uint32_t hidden)
{
    uint64_t *counted = context;

    (void)cluster;
    (void)hidden;
    *counted += use == CHECK_USE_DATA;
}

/* The 100 clusters that its first entries lead to are in use, whatever follows them. */
START_TEST(an_l1_table_that_runs_past_the_end_is_followed_as_far_as_it_lies_in_the_file)
{
    struct store *store = make_store(16, 24);
    struct check_options counting = look;
    uint64_t counted = 0, with_snapshots;
    struct check_result result;

    counting.reference = count_data;
    counting.context = &counted;
    result = check(store, &counting);
    ck_assert_uint_eq(result.errors, 0);
    with_snapshots = counted;
    ck_assert_uint_gt(with_snapshots, 100);

    counted = 0;
    put32(store, HEADER_L1_SIZE, HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES);
    result = check(store, &counting);
    ck_assert_uint_ge(counted, with_snapshots);
    ck_assert_uint_eq(result.leaks, 1); /* the cluster of the table itself */
    ck_assert_uint_ge(result.allocated_clusters, 100);
    ck_assert_uint_gt(result.errors, 0);
    ck_assert_uint_eq(result.total_clusters, 256 * 1024 / CLUSTER);
    store_close(store);
}
END_TEST

static const struct {
    uint32_t flags, table_entries;
    bool sound;
} bitmap_sizes[] = {
    {0, 0, false},
    {0, 1, true},
    {0, 2, false},
    {BITMAP_FLAG_IN_USE, 2, true}, /* of the size that the disk once had */
};

START_TEST(a_bitmap_of_another_size_than_the_disk_is_an_error_unless_it_was_not_stored)
{
    struct builder_options options = builder_defaults();
    struct check_result result;
    struct builder *builder;
    struct header *header;
    struct store *store;

    options.cluster_bits = 9;
    options.virtual_size = 256 * 1024;
    builder = builder_create(&options);
    builder_bitmap(builder, &(struct builder_bitmap){.name = "b",
                                                     .granularity_bits = 16,
                                                     .flags = bitmap_sizes[_i].flags});
    store = builder_store(builder);
    builder_destroy(builder);
    header = open_header(store);
    put32(store, header->bitmap_directory_offset + BITMAP_TABLE_SIZE,
          bitmap_sizes[_i].table_entries);
    header_free(header);
    result = check(store, &all);
    ck_assert_uint_eq(result.errors, bitmap_sizes[_i].sound ? 0 : 1);
    ck_assert_uint_eq(result.fixed_leaks, 0);
    store_close(store);
}
END_TEST

/* A small file must not keep anybody busy for hours: its work is bounded by its size. */
START_TEST(an_l1_table_that_names_one_l2_table_all_over_takes_no_longer_and_frees_nothing)
{
    struct builder_options options = builder_defaults();
    struct check_options counting = all;
    uint64_t counted = 0, l1, clusters;
    struct check_result result;
    struct builder *builder;
    struct store *store;

    options.cluster_bits = 9;
    options.virtual_size = UINT64_C(64) << 20;
    builder = builder_create(&options);
    for (uint64_t guest = 0; guest < 64 * CLUSTER; guest += CLUSTER) {
        builder_data(builder, guest, "data", 4);
    }
    store = builder_store(builder);
    builder_destroy(builder);
    l1 = load_be64(memory_store_data(store) + HEADER_L1_TABLE_OFFSET);
    for (uint64_t i = 1; i < 2048; i++) {
        memcpy(memory_store_data(store) + l1 + i * L1_ENTRY_BYTES, memory_store_data(store) + l1,
               L1_ENTRY_BYTES);
    }
    counting.reference = count_data;
    counting.context = &counted;
    result = check(store, &counting);
    clusters = memory_store_size(store) / CLUSTER;
    ck_assert_uint_gt(counted, 0);
    ck_assert_uint_le(counted, 2 * 64 * (clusters + 100)); /* where counts are made anew, twice */
    ck_assert_uint_gt(result.errors, result.fixed_errors);
    ck_assert_uint_eq(result.fixed_leaks, 0);
    ck_assert(!check_is_clean(&result));
    store_close(store);
}
END_TEST

START_TEST(headers_that_say_nothing_of_the_tables_are_refused)
{
    struct store *store = make_store(16, 24);
    struct header *header;
    struct error error = {0};

    put32(store, HEADER_L1_SIZE, UINT32_MAX);
    ck_assert_int_eq(
        check_read_header(store, memory_store_size(store), HEADER_CASE_NAME, &header, &error),
        -EINVAL);
    ck_assert_ptr_null(header);
    ck_assert_ptr_nonnull(strstr(error.text, "l1_size"));
    store_close(store);
}
END_TEST

START_TEST(what_lies_on_a_table_is_an_error_that_counting_does_not_hide)
{
    struct store *store = make_store(16, 24);
    uint64_t l1 = get64(store, HEADER_L1_TABLE_OFFSET);
    uint64_t l2 = l1_entry_table(get64(store, l1));
    struct check_result result;

    put64(store, l2, l1 | ENTRY_COPIED);
    result = check(store, &all);
    ck_assert_uint_eq(result.overlaps, 1);
    ck_assert(!check_is_clean(&result));
    ck_assert_uint_eq(result.fixed_leaks, 0);
    result = check(store, &look);
    ck_assert_uint_eq(result.overlaps, 1);
    ck_assert_uint_ge(result.errors, 1);
    store_close(store);
}
END_TEST

static const uint32_t extra_sizes[][2] = {{0, 16}, {8, 8}, {EXTENDED, 16}, {24, EXTENDED}};

START_TEST(a_snapshot_table_with_faults_is_replaced_by_one_write_of_the_header)
{
    struct store *store = make_store(extra_sizes[_i][0], extra_sizes[_i][1]);
    struct memory_log *log = memory_log_create();
    uint64_t old = get64(store, HEADER_SNAPSHOTS_OFFSET), table;
    size_t named, sync, written;

    ck_assert_uint_gt(check(store, &look).errors, 0);
    memory_store_set_log(store, log);
    expect_repaired(store);
    memory_store_set_log(store, NULL);
    table = get64(store, HEADER_SNAPSHOTS_OFFSET);
    ck_assert_uint_ne(table, old);
    named = memory_log_find(log, 0, MEMORY_LOG_WRITE, HEADER_SNAPSHOTS_OFFSET, 8);
    written = memory_log_find(log, 0, MEMORY_LOG_WRITE, table, 8);
    sync = memory_log_find(log, written, MEMORY_LOG_SYNC, 0, 0);
    ck_assert(written < sync && sync < named && named < memory_log_count(log));
    ck_assert_uint_eq(memory_log_find(log, named + 1, MEMORY_LOG_WRITE, 0, CLUSTER),
                      memory_log_count(log));
    ck_assert_uint_eq(get64(store, table + SNAPSHOT_EXTRA_DISK_SIZE), 256 * 1024);
    header_free(read_good(store));
    memory_log_destroy(log);
}
END_TEST

START_TEST(unknown_autoclear_features_are_cleared_before_all_else)
{
    struct store *store = make_store(16, 24);
    struct memory_log *log = memory_log_create();
    uint64_t l1 = get64(store, HEADER_L1_TABLE_OFFSET);

    put64(store, HEADER_AUTOCLEAR_FEATURES, UINT64_C(1) << 40);
    put64(store, l1, get64(store, l1) ^ ENTRY_COPIED);
    check(store, &look);
    ck_assert_uint_eq(get64(store, HEADER_AUTOCLEAR_FEATURES), UINT64_C(1) << 40);
    memory_store_set_log(store, log);
    expect_repaired(store);
    memory_store_set_log(store, NULL);
    ck_assert_uint_eq(get64(store, HEADER_AUTOCLEAR_FEATURES), 0);
    ck_assert_uint_eq(memory_log_at(log, 0)->offset, HEADER_AUTOCLEAR_FEATURES);
    ck_assert_int_eq(memory_log_at(log, 1)->kind, MEMORY_LOG_SYNC);
    memory_log_destroy(log);
    store_close(store);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("check-tables");
    TCase *tcase = tcase_create("check-tables");

    tcase_add_loop_test(tcase, a_refcount_table_that_cannot_be_is_made_anew, 0,
                        sizeof(lost_tables) / sizeof(lost_tables[0]));
    tcase_add_test(tcase, an_l1_table_past_the_end_is_an_error_and_nothing_is_freed);
    tcase_add_test(tcase,
                   an_l1_table_that_names_one_l2_table_all_over_takes_no_longer_and_frees_nothing);
    tcase_add_test(tcase,
                   an_l1_table_that_runs_past_the_end_is_followed_as_far_as_it_lies_in_the_file);
    tcase_add_loop_test(tcase,
                        a_bitmap_of_another_size_than_the_disk_is_an_error_unless_it_was_not_stored,
                        0, sizeof(bitmap_sizes) / sizeof(bitmap_sizes[0]));
    tcase_add_test(tcase, headers_that_say_nothing_of_the_tables_are_refused);
    tcase_add_test(tcase, what_lies_on_a_table_is_an_error_that_counting_does_not_hide);
    tcase_add_loop_test(tcase, a_snapshot_table_with_faults_is_replaced_by_one_write_of_the_header,
                        0, sizeof(extra_sizes) / sizeof(extra_sizes[0]));
    tcase_add_test(tcase, unknown_autoclear_features_are_cleared_before_all_else);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return suite_main(make_suite());
}
