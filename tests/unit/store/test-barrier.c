/* SPDX-License-Identifier: MIT */
/* Epochs, group commit, and what a failed sync means (R7). */
#include "config.h"

#include "memory_store.h"
#include "store/barrier.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static struct barrier *make(struct store *file, struct store *data_file, bool unsafe)
{
    struct barrier *barrier;

    ck_assert_int_eq(barrier_create(file, data_file, unsafe, &barrier), 0);
    return barrier;
}

static unsigned syncs_of(struct store *store)
{
    return memory_store_calls(store, MEMORY_STORE_SYNC);
}

START_TEST(a_write_is_stable_after_the_sync_that_ended_its_epoch)
{
    struct store *file = memory_store_create(0);
    struct barrier *barrier = make(file, file, false);
    uint64_t first = barrier_epoch(barrier), second;

    ck_assert(!barrier_is_stable(barrier, first));
    ck_assert(barrier_is_stable(barrier, first - 1));
    ck_assert_int_eq(barrier_wait(barrier, first), 0);
    ck_assert(barrier_is_stable(barrier, first));
    ck_assert_uint_eq(syncs_of(file), 1);

    second = barrier_epoch(barrier);
    ck_assert_uint_gt(second, first);
    ck_assert(!barrier_is_stable(barrier, second));
    ck_assert_int_eq(barrier_wait(barrier, second), 0);
    ck_assert(barrier_is_stable(barrier, second));
    ck_assert_uint_eq(barrier_syncs(barrier), 2);
    barrier_destroy(barrier);
    barrier_destroy(NULL);
    store_close(file);
}
END_TEST

START_TEST(what_is_stable_already_costs_no_sync)
{
    struct store *file = memory_store_create(0);
    struct barrier *barrier = make(file, file, false);
    uint64_t epoch = barrier_epoch(barrier);

    ck_assert_int_eq(barrier_wait(barrier, 0), 0);
    ck_assert_uint_eq(syncs_of(file), 0);
    ck_assert_int_eq(barrier_wait(barrier, epoch), 0);
    ck_assert_int_eq(barrier_wait(barrier, epoch), 0);
    ck_assert_uint_eq(syncs_of(file), 1);
    barrier_destroy(barrier);
    store_close(file);
}
END_TEST

START_TEST(the_data_file_is_synced_too_and_first)
{
    struct memory_log *log = memory_log_create();
    struct store *file = memory_store_create(0), *data_file = memory_store_create(0);
    struct barrier *barrier = make(file, data_file, false);

    memory_store_set_log(file, log);
    memory_store_set_log(data_file, log);
    ck_assert_int_eq(barrier_wait(barrier, barrier_epoch(barrier)), 0);
    ck_assert_uint_eq(memory_log_count(log), 2);
    ck_assert_ptr_eq(memory_log_at(log, 0)->store, data_file);
    ck_assert_ptr_eq(memory_log_at(log, 1)->store, file);
    barrier_destroy(barrier);
    store_close(data_file);
    store_close(file);
    memory_log_destroy(log);
}
END_TEST

START_TEST(unsafe_syncs_nothing_and_calls_all_stable)
{
    struct store *file = memory_store_create(0), *data_file = memory_store_create(0);
    struct barrier *barrier = make(file, data_file, true);
    uint64_t epoch = barrier_epoch(barrier);

    ck_assert_int_eq(barrier_wait(barrier, epoch), 0);
    ck_assert(barrier_is_stable(barrier, epoch));
    ck_assert_uint_eq(syncs_of(file) + syncs_of(data_file), 0);
    barrier_destroy(barrier);
    store_close(data_file);
    store_close(file);
}
END_TEST

/* --- Several threads --------------------------------------------------------------------- */

#define THREADS 8

struct waiter {
    struct barrier *barrier;
    uint64_t epoch;
    int result;
    atomic_bool *ended; /* or NULL */
    pthread_t thread;
};

static void *wait_for_it(void *context)
{
    struct waiter *waiter = context;

    waiter->result = barrier_wait(waiter->barrier, waiter->epoch);
    if (waiter->ended != NULL) {
        atomic_store(waiter->ended, true);
    }
    return NULL;
}

static void start(struct waiter *waiter, struct barrier *barrier, uint64_t epoch)
{
    *waiter = (struct waiter){.barrier = barrier, .epoch = epoch, .ended = waiter->ended};
    ck_assert_int_eq(pthread_create(&waiter->thread, NULL, wait_for_it, waiter), 0);
}

START_TEST(all_who_wait_while_a_sync_runs_share_the_next_one)
{
    struct store *file = memory_store_create(0);
    struct barrier *barrier = make(file, file, false);
    struct waiter first = {0}, others[THREADS] = {0};

    memory_store_block_syncs(file);
    start(&first, barrier, barrier_epoch(barrier));
    memory_store_wait_syncs(file, 1);
    for (unsigned i = 0; i < THREADS; i++) {
        start(&others[i], barrier, barrier_epoch(barrier));
    }
    memory_store_release_syncs(file);
    pthread_join(first.thread, NULL);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(others[i].thread, NULL);
        ck_assert_int_eq(others[i].result, 0);
    }
    /* However late a thread was scheduled: its epoch ended with the second sync. */
    ck_assert_uint_eq(syncs_of(file), 2);
    barrier_destroy(barrier);
    store_close(file);
}
END_TEST

START_TEST(a_write_after_the_sync_began_is_not_covered_by_it)
{
    struct store *file = memory_store_create(0);
    struct barrier *barrier = make(file, file, false);
    uint64_t before = barrier_epoch(barrier), after;
    struct waiter waiter = {0};

    memory_store_block_syncs(file);
    start(&waiter, barrier, before);
    memory_store_wait_syncs(file, 1);
    after = barrier_epoch(barrier);
    ck_assert_uint_gt(after, before);
    ck_assert(!barrier_is_stable(barrier, before));
    memory_store_release_syncs(file);
    pthread_join(waiter.thread, NULL);
    ck_assert_int_eq(waiter.result, 0);
    ck_assert(barrier_is_stable(barrier, before));
    ck_assert(!barrier_is_stable(barrier, after));
    barrier_destroy(barrier);
    store_close(file);
}
END_TEST

START_TEST(who_waits_for_an_earlier_epoch_does_not_wait_for_a_later_one)
{
    struct store *file = memory_store_create(0);
    struct barrier *barrier = make(file, file, false);
    uint64_t epoch = barrier_epoch(barrier);
    struct waiter later = {0};

    ck_assert_int_eq(barrier_wait(barrier, epoch), 0);
    memory_store_block_syncs(file);
    start(&later, barrier, barrier_epoch(barrier));
    memory_store_wait_syncs(file, 1);
    ck_assert_int_eq(barrier_wait(barrier, epoch), 0); /* hangs when it does */
    ck_assert(barrier_is_stable(barrier, epoch));
    memory_store_release_syncs(file);
    pthread_join(later.thread, NULL);
    barrier_destroy(barrier);
    store_close(file);
}
END_TEST

START_TEST(a_failed_sync_fails_all_that_wait_and_all_that_come)
{
    struct store *file = memory_store_create(0), *data_file = memory_store_create(0);
    struct barrier *barrier = make(file, data_file, false);
    struct store *failing = _i == 0 ? file : data_file;
    struct waiter waiters[THREADS] = {0};
    uint64_t stable = barrier_epoch(barrier), epoch;

    ck_assert_int_eq(barrier_wait(barrier, stable), 0);
    epoch = barrier_epoch(barrier);
    memory_store_block_syncs(failing);
    memory_store_fail(failing, MEMORY_STORE_SYNC, 1, EIO);
    for (unsigned i = 0; i < THREADS; i++) {
        start(&waiters[i], barrier, epoch + i % 2); /* of this epoch and the next */
    }
    memory_store_wait_syncs(failing, 1);
    memory_store_release_syncs(failing);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(waiters[i].thread, NULL);
        ck_assert_int_eq(waiters[i].result, -EIO);
    }
    /* The host would say yes to the next: it must not be believed. */
    ck_assert_int_eq(barrier_wait(barrier, barrier_epoch(barrier)), -EIO);
    ck_assert_int_eq(barrier_wait(barrier, stable), -EIO);
    ck_assert(barrier_is_stable(barrier, stable));
    ck_assert(!barrier_is_stable(barrier, epoch));
    ck_assert(!barrier_is_stable(barrier, barrier_epoch(barrier)));
    ck_assert_uint_eq(syncs_of(failing), 2);
    barrier_destroy(barrier);
    store_close(data_file);
    store_close(file);
}
END_TEST

struct writer {
    struct store *file;
    struct barrier *barrier;
    unsigned number;
    struct memory_log *log;
};

/* What is in the log before a wait has returned, with a sync behind it, is stable. */
static void *write_and_wait(void *context)
{
    const struct writer *writer = context;

    for (uint64_t round = 0; round < 100; round++) {
        uint64_t at = (round * THREADS + writer->number) * 8;
        size_t written;

        ck_assert_int_eq(store_write(writer->file, at, &round, sizeof(round)), 0);
        ck_assert_int_eq(barrier_wait(writer->barrier, barrier_epoch(writer->barrier)), 0);
        written = memory_log_find(writer->log, 0, MEMORY_LOG_WRITE, at, 8);
        ck_assert_uint_lt(memory_log_find(writer->log, written, MEMORY_LOG_SYNC, 0, 0),
                          memory_log_count(writer->log));
    }
    return NULL;
}

START_TEST(many_threads_get_a_sync_behind_each_of_their_writes)
{
    struct memory_log *log = memory_log_create();
    struct store *file = memory_store_create(0);
    struct barrier *barrier = make(file, file, false);
    struct writer writers[THREADS];
    pthread_t threads[THREADS];

    memory_store_set_log(file, log);
    for (unsigned i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){file, barrier, i, log};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, write_and_wait, &writers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    ck_assert_uint_le(syncs_of(file), THREADS * 100);
    barrier_destroy(barrier);
    store_close(file);
    memory_log_destroy(log);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("barrier");
    TCase *tcase = tcase_create("barrier");

    tcase_add_test(tcase, a_write_is_stable_after_the_sync_that_ended_its_epoch);
    tcase_add_test(tcase, what_is_stable_already_costs_no_sync);
    tcase_add_test(tcase, the_data_file_is_synced_too_and_first);
    tcase_add_test(tcase, unsafe_syncs_nothing_and_calls_all_stable);
    tcase_add_test(tcase, all_who_wait_while_a_sync_runs_share_the_next_one);
    tcase_add_test(tcase, a_write_after_the_sync_began_is_not_covered_by_it);
    tcase_add_test(tcase, who_waits_for_an_earlier_epoch_does_not_wait_for_a_later_one);
    tcase_add_loop_test(tcase, a_failed_sync_fails_all_that_wait_and_all_that_come, 0, 2);
    tcase_add_test(tcase, many_threads_get_a_sync_behind_each_of_their_writes);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
