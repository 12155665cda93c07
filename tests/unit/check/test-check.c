/* SPDX-License-Identifier: MIT */
/* The checker on images in memory: what it finds, what it repairs, and in which order. */
#include "config.h"

#include "builder.h"
#include "check/check.h"
#include "header_case.h"
#include "memory_log.h"
#include "memory_store.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "suite.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CLUSTER 512 /* small, so that there are many tables */

/* --- Images ------------------------------------------------------------------------ */

static struct builder *make_builder(uint32_t refcount_order)
{
    struct builder_options options = builder_defaults();

    options.cluster_bits = 9;
    options.virtual_size = 512 * 1024;
    options.refcount_order = refcount_order;
    return builder_create(&options);
}

static struct store *finish(struct builder *builder)
{
    struct store *store = builder_store(builder);

    builder_destroy(builder);
    return store;
}

/* 300 data clusters, and a bitmap. */
static struct store *make_image_with_data(uint32_t refcount_order)
{
    struct builder *builder = make_builder(refcount_order);

    for (uint64_t guest = 0; guest < 300 * CLUSTER; guest += CLUSTER) {
        builder_data(builder, guest, "data", 4);
    }
    builder_bitmap(builder, &(struct builder_bitmap){.name = "b", .granularity_bits = 16});
    return finish(builder);
}

static uint64_t block_of(struct store *store, uint64_t index)
{
    return get64(store, get64(store, HEADER_REFCOUNT_TABLE_OFFSET) + index * 8);
}

/* The count of a cluster in an image with 16-bit refcounts. */
static uint64_t count_of(struct store *store, uint64_t cluster)
{
    return refcount_load(memory_store_data(store) + block_of(store, cluster / 256), cluster % 256,
                         4);
}

static void set_count(struct store *store, uint64_t cluster, uint64_t count)
{
    refcount_store(memory_store_data(store) + block_of(store, cluster / 256), cluster % 256, 4,
                   count);
}

/* Host offset of the L2 entry of a guest cluster. */
static uint64_t l2_entry_of(struct store *store, uint64_t guest_cluster)
{
    uint64_t l1 = get64(store, HEADER_L1_TABLE_OFFSET);

    return l1_entry_table(get64(store, l1 + guest_cluster / 64 * 8)) + guest_cluster % 64 * 8;
}

/* Some counts too low, some too high, some COPIED bits wrong. */
static void damage(struct store *store)
{
    for (uint64_t cluster = 20; cluster < 300; cluster += 7) {
        set_count(store, cluster, cluster % 2 == 0 ? 0 : 5);
    }
    for (uint64_t guest = 3; guest < 300; guest += 31) {
        uint64_t at = l2_entry_of(store, guest);

        put64(store, at, get64(store, at) ^ ENTRY_COPIED);
    }
}

/* The same, and a block that cannot be trusted. */
static void damage_structure(struct store *store)
{
    damage(store);
    put64(store, get64(store, HEADER_REFCOUNT_TABLE_OFFSET), get64(store, HEADER_L1_TABLE_OFFSET));
}

static struct store *copy_of(struct store *store)
{
    return memory_store_from(memory_store_data(store), memory_store_size(store));
}

/* --- Checking ---------------------------------------------------------------------- */

static const struct check_options look = {0};
static const struct check_options all = {.repair_leaks = true, .repair_errors = true};

static int check(struct store *store, const struct check_options *options,
                 struct check_result *result)
{
    struct header *header;
    struct error error = {0};
    int status = header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, &error);

    ck_assert_msg(status == 0, "%s", error.text);
    status = check_image(header, store, HEADER_CASE_NAME, options, result, &error);
    ck_assert_int_eq(status, -error.code);
    ck_assert(status == 0 || strstr(error.text, HEADER_CASE_NAME) != NULL);
    header_free(header);
    return status;
}

static struct check_result good_check(struct store *store, const struct check_options *options)
{
    struct check_result result;

    ck_assert_int_eq(check(store, options, &result), 0);
    return result;
}

static void expect_found(struct store *store, uint64_t errors, uint64_t leaks)
{
    struct check_result result = good_check(store, &look);

    ck_assert_uint_eq(result.errors, errors);
    ck_assert_uint_eq(result.leaks, leaks);
    ck_assert_uint_eq(result.unreadable, 0);
}

/* A repair finds all in order afterwards. */
static void expect_repairable(struct store *store)
{
    struct check_result result = good_check(store, &all);

    ck_assert(check_is_clean(&result));
    ck_assert_uint_eq(result.leaks, result.fixed_leaks);
    expect_found(store, 0, 0);
}

/* All L2 entries but for the COPIED bits. */
static uint64_t mapping_sum(struct store *store)
{
    uint64_t sum = 0;

    for (uint64_t guest = 0; guest < 300; guest++) {
        sum = sum * 31 + (get64(store, l2_entry_of(store, guest)) & ~ENTRY_COPIED);
    }
    return sum;
}

/* --- What is found ----------------------------------------------------------------- */

START_TEST(an_image_in_order_has_no_findings)
{
    struct store *store = make_image_with_data((uint32_t)_i);
    struct check_result result = good_check(store, &look);

    expect_found(store, 0, 0);
    ck_assert_uint_eq(result.total_clusters, 1024);
    ck_assert_uint_eq(result.allocated_clusters, 300);
    ck_assert_uint_eq(result.image_end_offset, memory_store_size(store));
    ck_assert_uint_eq(memory_store_calls(store, MEMORY_STORE_WRITE), 0);
    ck_assert_uint_eq(memory_store_calls(store, MEMORY_STORE_SYNC), 0);
    store_close(store);
}
END_TEST

START_TEST(a_repair_of_an_image_in_order_writes_nothing)
{
    struct store *store = make_image_with_data(4);

    expect_repairable(store);
    ck_assert_uint_eq(memory_store_calls(store, MEMORY_STORE_WRITE), 0);
    store_close(store);
}
END_TEST

static void count_line(void *context, enum check_finding finding, const char *line)
{
    unsigned *lines = context;

    ck_assert_uint_gt(strlen(line), 0);
    lines[finding]++;
}

START_TEST(leaks_that_follow_each_other_are_one_line)
{
    struct store *store = make_image_with_data(4);
    unsigned lines[3] = {0};
    const struct check_options options = {.report = count_line, .context = lines};

    for (uint64_t cluster = 100; cluster < 110; cluster++) {
        set_count(store, cluster, 9);
    }
    set_count(store, 120, 0);
    ck_assert_uint_eq(good_check(store, &options).leaks, 10);
    ck_assert_uint_eq(lines[CHECK_LEAK], 1);
    /* The count, and the COPIED bit that does not agree with it. */
    ck_assert_uint_eq(lines[CHECK_ERROR], 1 + 10 + 1);
    store_close(store);
}
END_TEST

static void take_progress(void *context, uint64_t done, uint64_t total)
{
    uint64_t *last = context;

    ck_assert(*last < done && done <= total);
    *last = done;
}

START_TEST(progress_ends_at_the_total)
{
    struct store *store = make_image_with_data(4);
    uint64_t last = 0;
    const struct check_options options = {.progress = take_progress, .context = &last};

    good_check(store, &options);
    ck_assert_uint_eq(last, 2 * 16);
    store_close(store);
}
END_TEST

START_TEST(compressed_clusters_refer_to_each_cluster_that_their_sectors_touch)
{
    struct builder_options options = builder_defaults();
    struct builder *builder;
    struct store *store;
    struct check_result result;
    uint8_t *bytes = malloc(1 << 16);

    builder = builder_create(&options);
    for (uint32_t i = 0; i < 8; i++) {
        builder_pattern(bytes, 1 << 16, i);
        builder_compressed(builder, (uint64_t)i << 16, bytes, 0);
    }
    free(bytes);
    store = finish(builder);
    result = good_check(store, &look);
    ck_assert_uint_eq(result.compressed_clusters, 8);
    expect_found(store, 0, 0);
    store_close(store);
}
END_TEST

/* --- What is repaired -------------------------------------------------------------- */

START_TEST(counts_and_copied_bits_are_repaired_in_place)
{
    struct store *store = make_image_with_data(4);
    struct store *good = copy_of(store);

    damage(store);
    expect_repairable(store);
    ck_assert_uint_eq(memory_store_size(store), memory_store_size(good));
    ck_assert_mem_eq(memory_store_data(store), memory_store_data(good), memory_store_size(good));
    store_close(store);
    store_close(good);
}
END_TEST

START_TEST(a_block_that_cannot_be_trusted_is_never_written_to)
{
    struct store *store = make_image_with_data(4);
    uint64_t l1 = get64(store, HEADER_L1_TABLE_OFFSET), sum = mapping_sum(store);
    uint64_t first_entry = get64(store, l1);

    damage_structure(store);
    expect_repairable(store);
    ck_assert_uint_eq(get64(store, l1), first_entry);
    ck_assert_uint_eq(mapping_sum(store), sum);
    store_close(store);
}
END_TEST

START_TEST(lost_blocks_are_made_anew_for_every_width)
{
    struct store *store = make_image_with_data((uint32_t)_i);
    uint64_t table = get64(store, HEADER_REFCOUNT_TABLE_OFFSET);

    put64(store, table, 0);
    put64(store, table + 8, 0);
    expect_repairable(store);
    ck_assert_uint_ne(get64(store, HEADER_REFCOUNT_TABLE_OFFSET), table);
    store_close(store);
}
END_TEST

START_TEST(new_tables_cover_themselves_wherever_the_file_ends)
{
    for (uint64_t more = 0; more < 130; more++) {
        struct store *store = make_image_with_data(6);

        ck_assert_int_eq(store_resize(store, memory_store_size(store) + more * CLUSTER), 0);
        put64(store, get64(store, HEADER_REFCOUNT_TABLE_OFFSET), 0);
        expect_repairable(store);
        store_close(store);
    }
}
END_TEST

START_TEST(counts_behind_the_end_of_the_file_are_lowered_with_the_leaks)
{
    struct store *store = make_image_with_data(4);
    uint64_t behind = memory_store_size(store) / CLUSTER + 3;

    set_count(store, behind, 1);
    expect_found(store, 0, 0);
    good_check(store, &all);
    ck_assert_uint_eq(count_of(store, behind), 0);
    store_close(store);
}
END_TEST

/* --- What is not repaired ---------------------------------------------------------- */

/* The image has an entry that leads nowhere, and a leak: that must stay. */
static void expect_leaks_kept(struct store *store, uint64_t cluster)
{
    struct check_result result;

    result = good_check(store, &all);
    ck_assert_uint_gt(result.errors, result.fixed_errors);
    ck_assert_uint_gt(result.leaks, 0);
    ck_assert_uint_eq(result.fixed_leaks, 0);
    ck_assert(!check_is_clean(&result));
    ck_assert_uint_eq(count_of(store, cluster), 1);
    store_close(store);
}

START_TEST(nothing_is_freed_while_an_entry_leads_past_the_end)
{
    struct store *store = make_image_with_data(4);
    uint64_t at = l2_entry_of(store, 5);
    uint64_t cluster = l2_entry_host_offset(get64(store, at)) / CLUSTER;

    put64(store, at, (UINT64_C(1) << 50) | ENTRY_COPIED);
    expect_leaks_kept(store, cluster);
}
END_TEST

START_TEST(nothing_is_freed_while_an_l2_table_is_misplaced)
{
    struct store *store = make_image_with_data(4);
    uint64_t l1 = get64(store, HEADER_L1_TABLE_OFFSET), entry = get64(store, l1);

    put64(store, l1, UINT64_C(0x00fffffffffffe00) | ENTRY_COPIED);
    expect_leaks_kept(store, l1_entry_table(entry) / CLUSTER);
}
END_TEST

START_TEST(nothing_is_repaired_while_a_table_cannot_be_read)
{
    struct store *store = make_image_with_data(4), *before;
    uint64_t table = round_down(l2_entry_of(store, 5), CLUSTER);
    struct check_result result;

    damage(store);
    if (_i == 1) {
        put64(store, get64(store, HEADER_REFCOUNT_TABLE_OFFSET), 0);
    }
    if (_i == 2) {
        table = block_of(store, 1);
    }
    before = copy_of(store);
    memory_store_fail_reads(store, table, CLUSTER, EIO);
    result = good_check(store, &all);
    ck_assert_uint_gt(result.unreadable, 0);
    ck_assert_uint_eq(result.fixed_leaks + result.fixed_errors, 0);
    memory_store_fail_reads(store, 0, 0, 0);
    ck_assert_mem_eq(memory_store_data(store), memory_store_data(before),
                     memory_store_size(before));
    store_close(store);
    store_close(before);
}
END_TEST

START_TEST(more_references_than_a_count_can_say_are_an_error_that_stays)
{
    struct store *store = make_image_with_data(0);
    uint64_t at = l2_entry_of(store, 5), other = l2_entry_of(store, 6);
    struct check_result result;

    put64(store, other, get64(store, at) & ~ENTRY_COPIED);
    result = good_check(store, &all);
    ck_assert(!check_is_clean(&result));
    ck_assert(!l2_entry_is_copied(get64(store, other)));
    store_close(store);
}
END_TEST

START_TEST(a_cluster_used_twice_is_counted_twice_and_written_in_place_by_nobody)
{
    struct store *store = make_image_with_data(4);
    uint64_t at = l2_entry_of(store, 5), other = l2_entry_of(store, 6);

    put64(store, other, get64(store, at));
    expect_repairable(store);
    ck_assert_uint_eq(count_of(store, l2_entry_host_offset(get64(store, at)) / CLUSTER), 2);
    ck_assert(!l2_entry_is_copied(get64(store, at)));
    ck_assert(!l2_entry_is_copied(get64(store, other)));
    store_close(store);
}
END_TEST

/* --- Cut off, or failing ----------------------------------------------------------- */

static void (*const damages[])(struct store *store) = {damage, damage_structure};

START_TEST(a_repair_that_was_cut_off_can_be_done_again)
{
    struct store *store = make_image_with_data(4), *before;
    struct memory_log *log = memory_log_create();
    uint64_t sum = mapping_sum(store);

    damages[_i](store);
    before = copy_of(store);
    memory_store_set_log(store, log);
    good_check(store, &all);
    memory_store_set_log(store, NULL);
    ck_assert_uint_gt(memory_log_count(log), 3);
    for (size_t count = 0; count <= memory_log_count(log); count++) {
        struct store *cut = copy_of(before);

        memory_log_replay(log, 0, count, store, cut);
        expect_repairable(cut);
        ck_assert_uint_eq(mapping_sum(cut), sum);
        store_close(cut);
    }
    memory_log_destroy(log);
    store_close(before);
    store_close(store);
}
END_TEST

START_TEST(a_failing_host_leaves_an_image_that_is_no_worse)
{
    for (int call = MEMORY_STORE_READ; call <= MEMORY_STORE_SYNC; call++) {
        bool failed = true;

        for (unsigned n = 1; failed; n++) {
            struct store *store = make_image_with_data(4);
            struct check_result before, result;
            uint64_t sum = mapping_sum(store);
            struct header *header;
            unsigned calls;
            int status;

            damages[_i](store);
            before = good_check(store, &look);
            ck_assert_int_eq(
                header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, NULL), 0);
            calls = memory_store_calls(store, call);
            memory_store_fail(store, call, n, EIO);
            status = check_image(header, store, HEADER_CASE_NAME, &all, &result, NULL);
            header_free(header);
            memory_store_fail(store, call, 0, 0);
            failed = memory_store_calls(store, call) - calls >= n;
            if (status == 0 && result.unreadable == 0) {
                expect_found(store, 0, 0);
            }
            ck_assert(status == 0 || status == -EIO);
            ck_assert_uint_le(good_check(store, &look).errors, before.errors);
            ck_assert_uint_eq(mapping_sum(store), sum);
            expect_repairable(store);
            store_close(store);
        }
    }
}
END_TEST

/* For stop_ask(): yes, once it was asked so often. */
static bool was_asked_often(const void *context)
{
    unsigned *left = (unsigned *)(uintptr_t)context;

    return *left == 0 || --*left == 0;
}

START_TEST(a_repair_that_is_stopped_says_so_and_leaves_an_image_that_is_no_worse)
{
    unsigned asked = 0;
    int status = -EINTR;

    while (status == -EINTR) {
        struct store *store = make_image_with_data(4);
        struct check_result before, result;
        struct check_options options = all;
        unsigned often = ++asked;
        struct stop stop;

        damages[_i](store);
        before = good_check(store, &look);
        stop_init(&stop, NULL);
        stop_ask(&stop, was_asked_often, &often);
        options.stop = &stop;
        status = check(store, &options, &result);
        ck_assert(status == 0 || status == -EINTR);
        ck_assert_uint_le(good_check(store, &look).errors, before.errors);
        expect_repairable(store);
        store_close(store);
    }
    ck_assert_uint_gt(asked, 5);
}
END_TEST

/* --- Orders ------------------------------------------------------------------------ */

START_TEST(counts_rise_before_copied_bits_change_before_counts_fall)
{
    struct store *store = make_image_with_data(4);
    struct memory_log *log = memory_log_create();
    uint64_t block = block_of(store, 0), table = round_down(l2_entry_of(store, 3), CLUSTER);
    size_t raised, copied, lowered;

    damage(store);
    memory_store_set_log(store, log);
    good_check(store, &all);
    memory_store_set_log(store, NULL);
    raised = memory_log_find(log, 0, MEMORY_LOG_WRITE, block, CLUSTER);
    copied = memory_log_find(log, 0, MEMORY_LOG_WRITE, table, CLUSTER);
    lowered = memory_log_find(log, raised + 1, MEMORY_LOG_WRITE, block, CLUSTER);
    ck_assert_uint_lt(memory_log_find(log, raised, MEMORY_LOG_SYNC, 0, 0), copied);
    ck_assert_uint_lt(memory_log_find(log, copied, MEMORY_LOG_SYNC, 0, 0), lowered);
    ck_assert_uint_lt(lowered, memory_log_count(log));
    ck_assert_int_eq(memory_log_at(log, memory_log_count(log) - 1)->kind, MEMORY_LOG_SYNC);
    memory_log_destroy(log);
    store_close(store);
}
END_TEST

START_TEST(the_header_names_a_new_table_after_that_is_stable)
{
    struct store *store = make_image_with_data(4);
    struct memory_log *log = memory_log_create();
    uint64_t end = memory_store_size(store);
    size_t named, sync, late;

    damage_structure(store);
    memory_store_set_log(store, log);
    good_check(store, &all);
    memory_store_set_log(store, NULL);
    named = memory_log_find(log, 0, MEMORY_LOG_WRITE, HEADER_REFCOUNT_TABLE_OFFSET, 12);
    sync = memory_log_find(log, 0, MEMORY_LOG_SYNC, 0, 0);
    late = memory_log_find(log, sync, MEMORY_LOG_WRITE, end, UINT64_C(1) << 40);
    ck_assert_uint_lt(sync, named);
    ck_assert_uint_eq(late, memory_log_count(log));
    memory_log_destroy(log);
    store_close(store);
}
END_TEST

/* --- Bits of the header ------------------------------------------------------------ */

START_TEST(the_dirty_bit_alone_is_cleared_between_two_syncs)
{
    struct builder_options options = builder_defaults();
    struct memory_log *log = memory_log_create();
    struct builder *builder;
    struct store *store;
    struct header *header;

    options.incompatible_features = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT;
    builder = builder_create(&options);
    store = finish(builder);
    ck_assert_int_eq(header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, NULL),
                     0);
    memory_store_set_log(store, log);
    ck_assert_int_eq(check_clear_dirty(header, store, HEADER_CASE_NAME, NULL), 0);
    ck_assert_int_eq(check_clear_dirty(header, store, HEADER_CASE_NAME, NULL), 0);
    memory_store_set_log(store, NULL);
    ck_assert_uint_eq(get64(store, HEADER_INCOMPATIBLE_FEATURES), INCOMPATIBLE_CORRUPT);
    ck_assert_uint_eq(header->incompatible_features, INCOMPATIBLE_CORRUPT);
    ck_assert_uint_eq(memory_log_count(log), 3);
    ck_assert_int_eq(memory_log_at(log, 0)->kind, MEMORY_LOG_SYNC);
    ck_assert_int_eq(memory_log_at(log, 2)->kind, MEMORY_LOG_SYNC);
    ck_assert_int_eq(check_clear_corrupt(header, store, HEADER_CASE_NAME, NULL), 0);
    ck_assert_uint_eq(get64(store, HEADER_INCOMPATIBLE_FEATURES), 0);
    header_free(header);
    memory_log_destroy(log);
    store_close(store);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("check");
    TCase *tcase = tcase_create("check");

    tcase_add_loop_test(tcase, an_image_in_order_has_no_findings, 0, 7);
    tcase_add_test(tcase, a_repair_of_an_image_in_order_writes_nothing);
    tcase_add_test(tcase, leaks_that_follow_each_other_are_one_line);
    tcase_add_test(tcase, progress_ends_at_the_total);
    tcase_add_test(tcase, compressed_clusters_refer_to_each_cluster_that_their_sectors_touch);
    tcase_add_test(tcase, counts_and_copied_bits_are_repaired_in_place);
    tcase_add_test(tcase, a_block_that_cannot_be_trusted_is_never_written_to);
    tcase_add_loop_test(tcase, lost_blocks_are_made_anew_for_every_width, 0, 7);
    tcase_add_test(tcase, new_tables_cover_themselves_wherever_the_file_ends);
    tcase_add_test(tcase, counts_behind_the_end_of_the_file_are_lowered_with_the_leaks);
    tcase_add_test(tcase, nothing_is_freed_while_an_entry_leads_past_the_end);
    tcase_add_test(tcase, nothing_is_freed_while_an_l2_table_is_misplaced);
    tcase_add_loop_test(tcase, nothing_is_repaired_while_a_table_cannot_be_read, 0, 3);
    tcase_add_test(tcase, more_references_than_a_count_can_say_are_an_error_that_stays);
    tcase_add_test(tcase, a_cluster_used_twice_is_counted_twice_and_written_in_place_by_nobody);
    tcase_add_loop_test(tcase, a_repair_that_was_cut_off_can_be_done_again, 0, 2);
    tcase_add_loop_test(tcase, a_failing_host_leaves_an_image_that_is_no_worse, 0, 2);
    tcase_add_loop_test(
        tcase, a_repair_that_is_stopped_says_so_and_leaves_an_image_that_is_no_worse, 0, 2);
    tcase_add_test(tcase, counts_rise_before_copied_bits_change_before_counts_fall);
    tcase_add_test(tcase, the_header_names_a_new_table_after_that_is_stable);
    tcase_add_test(tcase, the_dirty_bit_alone_is_cleared_between_two_syncs);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return suite_main(make_suite());
}
