/* SPDX-License-Identifier: MIT */
/* Refcounts: every width, new blocks, a growing table, and a host that fails. */
#include "config.h"

#include "builder.h"
#include "cache/pool.h"
#include "check/check.h"
#include "header_case.h"
#include "memory_store.h"
#include "meta/format.h"
#include "meta/refcount.h"
#include "meta/refcount_block.h"
#include "store/barrier.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CLUSTER  512
#define FAR_AWAY 100000 /* clusters */

/* An image's refcounts with all that they borrow. */
struct fixture {
    struct store *store;
    struct header *header;
    struct cache_pool *pool;
    struct barrier *barrier;
    struct gate *gate;
    struct refcounts *refcounts;
};

static int open_store(struct fixture *fixture, struct store *store, struct error *error)
{
    struct refcounts_source source;

    memset(error, 0, sizeof(*error));
    fixture->store = store;
    ck_assert_int_eq(
        header_read(store, memory_store_size(store), HEADER_CASE_NAME, &fixture->header, NULL), 0);
    ck_assert_int_eq(cache_pool_create(1 << 20, CLUSTER, &fixture->pool), 0);
    ck_assert_int_eq(barrier_create(store, store, false, &fixture->barrier), 0);
    ck_assert_int_eq(gate_create(fixture->header, store, &fixture->gate), 0);
    source = (struct refcounts_source){
        .header = fixture->header,
        .file = store,
        .pool = fixture->pool,
        .barrier = fixture->barrier,
        .gate = fixture->gate,
        .owner = 1,
    };
    return refcounts_open(&source, HEADER_CASE_NAME, &fixture->refcounts, error);
}

static void close_all_but_store(struct fixture *fixture)
{
    refcounts_close(fixture->refcounts);
    gate_destroy(fixture->gate);
    barrier_destroy(fixture->barrier);
    cache_pool_destroy(fixture->pool);
    header_free(fixture->header);
}

static void close_fixture(struct fixture *fixture)
{
    close_all_but_store(fixture);
    store_close(fixture->store);
}

static struct store *make_store(uint32_t order)
{
    struct builder_options options = builder_defaults();
    struct builder *builder;
    struct store *store;

    options.cluster_bits = 9;
    options.refcount_order = order;
    builder = builder_create(&options);
    builder_data(builder, 0, "data", 4);
    store = builder_store(builder);
    builder_destroy(builder);
    return store;
}

static void open_fixture(struct fixture *fixture, uint32_t order)
{
    struct error error;

    ck_assert_msg(open_store(fixture, make_store(order), &error) == 0, "%s", error.text);
}

static uint64_t get(struct fixture *fixture, uint64_t cluster)
{
    uint64_t count;

    ck_assert_int_eq(refcounts_get(fixture->refcounts, cluster, &count), 0);
    return count;
}

static int add(struct fixture *fixture, uint64_t first, uint64_t length, int delta)
{
    return refcounts_add(fixture->refcounts, first, length, delta);
}

/* Takes clusters at the end, as the allocator does; their counts are 1 when it returns 0. */
static int append(struct fixture *fixture, uint64_t length, uint64_t *first)
{
    *first = refcounts_end(fixture->refcounts);
    refcounts_set_end(fixture->refcounts, *first + length);
    return add(fixture, *first, length, 1);
}

/* Forgets what only memory knows. */
static void reopen(struct fixture *fixture)
{
    struct store *store = fixture->store;
    struct error error;

    close_all_but_store(fixture);
    ck_assert_msg(open_store(fixture, store, &error) == 0, "%s", error.text);
}

/* Every table, and every block, has its count in the file. */
static void expect_counted(struct store *store)
{
    static const struct check_options look = {0};
    struct check_result result;
    struct header *header;
    struct error error = {0};

    ck_assert_int_eq(
        header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, &error), 0);
    ck_assert_msg(check_image(header, store, HEADER_CASE_NAME, &look, &result, &error) == 0, "%s",
                  error.text);
    ck_assert_uint_eq(result.errors, 0);
    header_free(header);
}

/* --- Counts ---------------------------------------------------------------------------- */

START_TEST(counts_of_every_width_rise_and_fall_alone)
{
    struct fixture fixture;
    uint64_t max = refcount_max((uint32_t)_i), most = max < 300 ? max : 300, first, count;

    open_fixture(&fixture, (uint32_t)_i);
    ck_assert_int_eq(append(&fixture, 3, &first), 0);
    for (count = 2; count <= most; count++) {
        ck_assert_int_eq(add(&fixture, first + 1, 1, 1), 0);
        ck_assert_uint_eq(get(&fixture, first + 1), count);
    }
    ck_assert_uint_eq(get(&fixture, first), 1);
    ck_assert_uint_eq(get(&fixture, first + 2), 1);
    reopen(&fixture);
    for (count = most; count > 0; count--) {
        ck_assert_uint_eq(get(&fixture, first + 1), count);
        ck_assert_int_eq(add(&fixture, first + 1, 1, -1), 0);
    }
    ck_assert_int_eq(add(&fixture, first + 1, 1, -1), -EIO);
    ck_assert_uint_eq(get(&fixture, first), 1);
    ck_assert_uint_eq(get(&fixture, first + 1), 0);
    ck_assert_uint_eq(get(&fixture, first + 2), 1);
    close_fixture(&fixture);
}
END_TEST

START_TEST(a_count_never_passes_what_its_width_can_say)
{
    struct fixture fixture;
    struct store *store = make_store((uint32_t)_i);
    uint64_t block = get64(store, get64(store, HEADER_REFCOUNT_TABLE_OFFSET));
    struct error error;

    refcount_store(memory_store_data(store) + block, 2, (uint32_t)_i, refcount_max((uint32_t)_i));
    ck_assert_int_eq(open_store(&fixture, store, &error), 0);
    ck_assert_int_eq(add(&fixture, 2, 1, 1), -EOVERFLOW);
    ck_assert_int_eq(add(&fixture, 1, 2, 1), -EOVERFLOW);
    ck_assert_uint_eq(get(&fixture, 1), 1);
    ck_assert_uint_eq(get(&fixture, 2), refcount_max((uint32_t)_i));
    close_fixture(&fixture);
}
END_TEST

START_TEST(what_no_block_counts_is_free)
{
    struct fixture fixture;

    open_fixture(&fixture, 4);
    ck_assert_uint_eq(get(&fixture, FAR_AWAY), 0);
    ck_assert_uint_eq(get(&fixture, UINT64_MAX / CLUSTER), 0);
    ck_assert_int_eq(add(&fixture, FAR_AWAY, 1, -1), -EIO);
    close_fixture(&fixture);
}
END_TEST

static void expect_free(struct fixture *fixture, uint64_t from, uint64_t limit, uint64_t want,
                        uint64_t first, uint64_t length)
{
    uint64_t found_first = 0, found_length;

    ck_assert_int_eq(
        refcounts_find_free(fixture->refcounts, from, limit, want, &found_first, &found_length), 0);
    ck_assert_uint_eq(found_length, length);
    if (length > 0) {
        ck_assert_uint_eq(found_first, first);
    }
}

START_TEST(the_first_free_run_is_found)
{
    struct fixture fixture;
    uint64_t first;

    open_fixture(&fixture, (uint32_t)_i);
    ck_assert_int_eq(append(&fixture, 20, &first), 0);
    ck_assert_int_eq(add(&fixture, first + 4, 3, -1), 0);
    ck_assert_int_eq(add(&fixture, first + 10, 1, -1), 0);
    expect_free(&fixture, first, first + 20, 9, first + 4, 3);
    expect_free(&fixture, first, first + 20, 2, first + 4, 2);
    expect_free(&fixture, first + 6, first + 20, 9, first + 6, 1);
    expect_free(&fixture, first + 7, first + 20, 9, first + 10, 1);
    expect_free(&fixture, first + 7, first + 10, 9, 0, 0);
    expect_free(&fixture, FAR_AWAY, FAR_AWAY + 5, 9, FAR_AWAY, 5);
    close_fixture(&fixture);
}
END_TEST

/* --- When the file knows ------------------------------------------------------------------ */

/* The count as the file has it, of a cluster in the first block. */
static uint64_t in_file(struct fixture *fixture, uint64_t cluster)
{
    uint64_t block = get64(fixture->store, get64(fixture->store, HEADER_REFCOUNT_TABLE_OFFSET));

    return refcount_load(memory_store_data(fixture->store) + block, cluster, 4);
}

START_TEST(counts_that_rise_are_in_the_file_at_once_and_those_that_fall_later)
{
    struct fixture fixture;

    open_fixture(&fixture, 4);
    ck_assert_int_eq(add(&fixture, 2, 1, 1), 0);
    ck_assert_uint_eq(in_file(&fixture, 2), 2);
    ck_assert_int_eq(add(&fixture, 2, 1, -1), 0);
    ck_assert_uint_eq(in_file(&fixture, 2), 2);
    ck_assert_uint_eq(get(&fixture, 2), 1);
    ck_assert_int_eq(refcounts_write_back(fixture.refcounts), 0);
    ck_assert_uint_eq(in_file(&fixture, 2), 1);
    close_fixture(&fixture);
}
END_TEST

START_TEST(lazy_counts_stay_in_the_cache)
{
    struct fixture fixture;

    open_fixture(&fixture, 4);
    refcounts_set_lazy(fixture.refcounts, true);
    ck_assert_int_eq(add(&fixture, 2, 1, 1), 0);
    ck_assert_uint_eq(in_file(&fixture, 2), 1);
    ck_assert_uint_eq(get(&fixture, 2), 2);
    refcounts_set_lazy(fixture.refcounts, false);
    ck_assert_int_eq(refcounts_write_back(fixture.refcounts), 0);
    ck_assert_uint_eq(in_file(&fixture, 2), 2);
    close_fixture(&fixture);
}
END_TEST

/* --- Blocks and tables ----------------------------------------------------------------------- */

START_TEST(the_table_grows_as_often_as_is_needed)
{
    static const uint64_t steps[] = {1, 7, 255, 4096, FAR_AWAY};
    uint64_t step = steps[_i], first, end = 0, moves = 0, table = 0;
    struct fixture fixture;

    open_fixture(&fixture, 6);
    while (end < FAR_AWAY / (step == 1 ? 10 : 1)) {
        ck_assert_int_eq(append(&fixture, step, &first), 0);
        ck_assert_uint_ge(first, end);
        end = first + step;
        moves += fixture.header->refcount_table_offset != table;
        table = fixture.header->refcount_table_offset;
    }
    ck_assert_uint_gt(moves, step == FAR_AWAY ? 0 : 2);
    ck_assert_int_eq(refcounts_write_back(fixture.refcounts), 0);
    ck_assert_int_eq(store_resize(fixture.store, refcounts_end(fixture.refcounts) * CLUSTER), 0);
    end = refcounts_end(fixture.refcounts);
    expect_counted(fixture.store);
    reopen(&fixture);
    ck_assert_uint_eq(refcounts_end(fixture.refcounts), end);
    for (uint64_t cluster = 0; cluster < step; cluster++) {
        ck_assert_uint_ge(get(&fixture, first + cluster), 1);
    }
    close_fixture(&fixture);
}
END_TEST

START_TEST(a_table_that_moves_covers_its_own_clusters)
{
    struct fixture fixture;
    uint64_t covered, first, table;

    open_fixture(&fixture, 6);
    covered = fixture.header->refcount_table_clusters * (CLUSTER / 8) * (CLUSTER / 8);
    refcounts_set_end(fixture.refcounts, covered);
    ck_assert_int_eq(append(&fixture, FAR_AWAY, &first), 0);
    ck_assert_uint_eq(first, covered);
    ck_assert_int_eq(refcounts_write_back(fixture.refcounts), 0);
    ck_assert_int_eq(store_resize(fixture.store, refcounts_end(fixture.refcounts) * CLUSTER), 0);
    expect_counted(fixture.store);
    reopen(&fixture);
    table = fixture.header->refcount_table_offset / CLUSTER;
    for (uint64_t i = 0; i < fixture.header->refcount_table_clusters; i++) {
        ck_assert_uint_eq(get(&fixture, table + i), 1);
    }
    ck_assert_uint_eq(get(&fixture, first + FAR_AWAY - 1), 1);
    close_fixture(&fixture);
}
END_TEST

START_TEST(the_end_lies_behind_counts_past_the_end_of_the_file)
{
    struct fixture fixture;
    uint64_t first, size, end;

    open_fixture(&fixture, 4);
    size = memory_store_size(fixture.store);
    ck_assert_int_eq(append(&fixture, 100, &first), 0);
    end = refcounts_end(fixture.refcounts);
    ck_assert_uint_eq(memory_store_size(fixture.store), size);
    reopen(&fixture);
    ck_assert_uint_eq(refcounts_end(fixture.refcounts), end);
    close_fixture(&fixture);
}
END_TEST

START_TEST(a_block_that_cannot_be_is_refused)
{
    static const uint64_t entries[] = {7, CLUSTER / 2, UINT64_C(1) << 40, UINT64_MAX};
    struct store *store = make_store(4);
    struct fixture fixture;
    struct error error;

    put64(store, get64(store, HEADER_REFCOUNT_TABLE_OFFSET) + 8, entries[_i]);
    ck_assert_int_eq(open_store(&fixture, store, &error), -EINVAL);
    ck_assert_ptr_nonnull(strstr(error.text, HEADER_CASE_NAME));
    close_fixture(&fixture);
}
END_TEST

/* --- A host that fails -------------------------------------------------------------------------
 */

#define ROUNDS 10
#define RUN    67

/*
 * Appends runs until one has met a failing call, and one more; remembers those
 * that were counted. Returns false when nothing failed any more.
 */
static bool append_with_failure(struct fixture *fixture, enum memory_store_call call, unsigned n,
                                uint64_t *counted, size_t *count)
{
    bool failed = false, last = false;

    memory_store_fail(fixture->store, call, n, EIO);
    for (int round = 0; round < ROUNDS && !last; round++) {
        uint64_t first;
        int result = append(fixture, RUN, &first);

        last = failed;
        if (result == 0) {
            counted[(*count)++] = first;
        } else {
            failed = true;
        }
    }
    memory_store_fail(fixture->store, call, 0, 0);
    return failed;
}

START_TEST(what_was_counted_is_counted_in_the_file_whatever_failed)
{
    enum memory_store_call call = (enum memory_store_call)_i;
    bool failed = true;

    for (unsigned n = 1; failed; n++) {
        struct fixture fixture;
        uint64_t counted[ROUNDS];
        size_t count = 0;

        open_fixture(&fixture, 6);
        refcounts_set_end(fixture.refcounts,
                          fixture.header->refcount_table_clusters * (CLUSTER / 8) * (CLUSTER / 8) -
                              2 * RUN); /* soon the table has to move */
        failed = append_with_failure(&fixture, call, n, counted, &count);
        ck_assert_int_eq(store_resize(fixture.store, refcounts_end(fixture.refcounts) * CLUSTER),
                         0);
        reopen(&fixture);
        expect_counted(fixture.store);
        for (size_t i = 0; i < count; i++) {
            for (uint64_t cluster = counted[i]; cluster < counted[i] + RUN; cluster++) {
                ck_assert_msg(get(&fixture, cluster) >= 1, "call %u: cluster %lu", n,
                              (unsigned long)cluster);
            }
        }
        close_fixture(&fixture);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("refcount");
    TCase *tcase = tcase_create("refcount");

    tcase_add_loop_test(tcase, counts_of_every_width_rise_and_fall_alone, 0, 7);
    tcase_add_loop_test(tcase, a_count_never_passes_what_its_width_can_say, 0, 7);
    tcase_add_test(tcase, what_no_block_counts_is_free);
    tcase_add_loop_test(tcase, the_first_free_run_is_found, 0, 7);
    tcase_add_test(tcase, counts_that_rise_are_in_the_file_at_once_and_those_that_fall_later);
    tcase_add_test(tcase, lazy_counts_stay_in_the_cache);
    tcase_add_loop_test(tcase, the_table_grows_as_often_as_is_needed, 0, 5);
    tcase_add_test(tcase, a_table_that_moves_covers_its_own_clusters);
    tcase_add_test(tcase, the_end_lies_behind_counts_past_the_end_of_the_file);
    tcase_add_loop_test(tcase, a_block_that_cannot_be_is_refused, 0, 4);
    tcase_add_loop_test(tcase, what_was_counted_is_counted_in_the_file_whatever_failed,
                        MEMORY_STORE_READ, MEMORY_STORE_SYNC + 1);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return suite_main(make_suite());
}
