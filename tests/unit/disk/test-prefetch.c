/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/prefetch.h"
#include "suite.h"
#include "util/process.h"

#include <pthread.h>

#define STEP    UINT64_C(1024)
#define JOBS    256 /* that are told apart */
#define WINDOW  (8 * STEP)
#define THREADS 3

/* Counts the jobs that were done; they can be held up. */
struct work {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned done[JOBS]; /* by offset / STEP */
    unsigned total, begun, at_once, most_at_once;
    bool hold;
    struct prefetch *prefetch;
};

static void job(void *context, uint64_t offset, uint64_t length)
{
    struct work *work = context;

    pthread_mutex_lock(&work->mutex);
    work->begun++;
    work->at_once++;
    work->most_at_once = work->at_once > work->most_at_once ? work->at_once : work->most_at_once;
    pthread_cond_broadcast(&work->changed);
    while (work->hold) {
        pthread_cond_wait(&work->changed, &work->mutex);
    }
    work->at_once--;
    work->total++;
    if (offset % STEP == 0 && offset / STEP < JOBS && length == STEP) {
        work->done[offset / STEP]++;
    }
    pthread_cond_broadcast(&work->changed);
    pthread_mutex_unlock(&work->mutex);
}

static void work_begin_with(struct work *work, uint64_t long_read)
{
    const struct prefetch_options options = {
        .job = job,
        .context = work,
        .step = STEP,
        .long_read = long_read,
        .window = WINDOW,
        .threads = THREADS,
    };

    *work = (struct work){0};
    pthread_mutex_init(&work->mutex, NULL);
    pthread_cond_init(&work->changed, NULL);
    ck_assert_int_eq(prefetch_create(&options, &work->prefetch), 0);
}

static void work_begin(struct work *work)
{
    work_begin_with(work, 0);
}

static void work_end(struct work *work)
{
    prefetch_destroy(work->prefetch);
    pthread_cond_destroy(&work->changed);
    pthread_mutex_destroy(&work->mutex);
}

static void set_hold(struct work *work, bool hold)
{
    pthread_mutex_lock(&work->mutex);
    work->hold = hold;
    pthread_cond_broadcast(&work->changed);
    pthread_mutex_unlock(&work->mutex);
}

static void wait_begun(struct work *work, unsigned count)
{
    pthread_mutex_lock(&work->mutex);
    while (work->begun < count) {
        pthread_cond_wait(&work->changed, &work->mutex);
    }
    pthread_mutex_unlock(&work->mutex);
}

static void wait_total(struct work *work, unsigned count)
{
    pthread_mutex_lock(&work->mutex);
    while (work->total < count) {
        pthread_cond_wait(&work->changed, &work->mutex);
    }
    pthread_mutex_unlock(&work->mutex);
}

/* The step with that number. */
static void wait_done(struct work *work, unsigned step)
{
    pthread_mutex_lock(&work->mutex);
    while (work->done[step] == 0) {
        pthread_cond_wait(&work->changed, &work->mutex);
    }
    pthread_mutex_unlock(&work->mutex);
}

static bool read_all(struct work *work, uint64_t offset, uint64_t length)
{
    bool sequential = prefetch_begin(work->prefetch, offset, length);

    prefetch_claim(work->prefetch, offset, length);
    prefetch_end(work->prefetch);
    return sequential;
}

START_TEST(reads_that_begin_where_the_last_one_ended_are_sequential)
{
    struct work work;

    work_begin(&work);
    ck_assert(!read_all(&work, 0, STEP));
    ck_assert(read_all(&work, STEP, STEP));
    ck_assert(read_all(&work, 2 * STEP, 2 * STEP));
    /* Short ones have to do so twice. */
    ck_assert(!read_all(&work, 100 * STEP, 16));
    ck_assert(!read_all(&work, 100 * STEP + 16, 16));
    ck_assert(read_all(&work, 100 * STEP + 32, 16));
    /* The first reading goes on. */
    ck_assert(read_all(&work, 4 * STEP, STEP));
    work_end(&work);
}
END_TEST

START_TEST(long_reads_may_overtake_each_other)
{
    struct work work;

    work_begin(&work);
    read_all(&work, 0, STEP);
    ck_assert(read_all(&work, STEP, STEP));
    ck_assert(read_all(&work, 3 * STEP, STEP));
    ck_assert(read_all(&work, 2 * STEP, STEP));
    ck_assert(read_all(&work, 4 * STEP, STEP));
    work_end(&work);
}
END_TEST

START_TEST(what_is_long_may_be_less_than_a_step)
{
    struct work work;

    work_begin_with(&work, STEP / 4);
    read_all(&work, 0, STEP / 4);
    ck_assert(read_all(&work, STEP / 4, STEP / 4));
    ck_assert(read_all(&work, 3 * STEP / 4, STEP / 4));
    ck_assert(read_all(&work, STEP / 2, STEP / 4));
    ck_assert(!read_all(&work, 10000 * STEP, STEP / 8)); /* a short one */
    ck_assert(!read_all(&work, 10000 * STEP + STEP / 4, STEP / 8));
    work_end(&work);
}
END_TEST

START_TEST(short_reads_anywhere_make_no_jobs)
{
    struct work work;
    uint64_t state = 1;

    work_begin(&work);
    for (unsigned i = 0; i < 2000; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        /* No two neighbours: all begin at the start of a step, and end before its end. */
        ck_assert(!read_all(&work, (state >> 40) * STEP, 64));
    }
    prefetch_destroy(work.prefetch);
    work.prefetch = NULL;
    ck_assert_uint_eq(work.begun, 0);
    work_end(&work);
}
END_TEST

START_TEST(each_step_ahead_is_done_once_and_no_further_than_the_window)
{
    struct work work;
    uint64_t at = 0;

    work_begin(&work);
    for (unsigned reads = 1; reads <= 10; reads++, at += STEP) {
        read_all(&work, at, STEP);
    }
    for (unsigned i = 10; i < 10 + WINDOW / STEP; i++) {
        wait_done(&work, i); /* the window, behind the last read */
    }
    prefetch_destroy(work.prefetch);
    work.prefetch = NULL;
    for (unsigned i = 0; i < JOBS; i++) {
        ck_assert_uint_le(work.done[i], 1);
        if (i >= 10 + WINDOW / STEP) {
            ck_assert_uint_eq(work.done[i], 0);
        } else if (i >= 10) {
            ck_assert_uint_eq(work.done[i], 1);
        }
    }
    work_end(&work);
}
END_TEST

START_TEST(a_long_read_shares_its_steps_and_none_is_done_that_was_claimed)
{
    struct work work;

    work_begin(&work);
    set_hold(&work, true);
    ck_assert(!prefetch_begin(work.prefetch, 20 * STEP, 10 * STEP));
    wait_begun(&work, THREADS - 1); /* steps 21 and 22: the reader is the third */
    prefetch_claim(work.prefetch, 23 * STEP, STEP);
    prefetch_claim(work.prefetch, 24 * STEP, 2 * STEP);
    set_hold(&work, false);
    wait_total(&work, 2 + 4);
    prefetch_end(work.prefetch);
    prefetch_destroy(work.prefetch);
    work.prefetch = NULL;
    for (unsigned i = 0; i < JOBS; i++) {
        ck_assert_uint_eq(work.done[i], i == 21 || i == 22 || (i >= 26 && i < 30));
    }
    work_end(&work);
}
END_TEST

START_TEST(threads_and_readers_are_never_more_than_processors)
{
    struct work work;

    work_begin(&work);
    /* Short reads that keep every processor busy, and then a long one, whose steps wait. */
    for (unsigned i = 0; i < THREADS; i++) {
        prefetch_begin(work.prefetch, 8192 * STEP * (i + 1), 16);
    }
    prefetch_begin(work.prefetch, 0, 20 * STEP);
    ck_assert_uint_eq(work.begun, 0); /* no thread was even started */
    set_hold(&work, true);
    for (unsigned i = 0; i < THREADS; i++) {
        prefetch_end(work.prefetch);
    }
    wait_begun(&work, THREADS - 1);
    set_hold(&work, false);
    wait_total(&work, 19);
    ck_assert_uint_eq(work.most_at_once, THREADS - 1);
    prefetch_end(work.prefetch);
    work_end(&work);
}
END_TEST

START_TEST(destroying_it_waits_for_the_jobs_under_way)
{
    struct work work;

    work_begin(&work);
    prefetch_begin(work.prefetch, 0, 100 * STEP);
    prefetch_end(work.prefetch);
    wait_begun(&work, 1);
    prefetch_destroy(work.prefetch);
    work.prefetch = NULL;
    ck_assert_uint_eq(work.at_once, 0);
    ck_assert_uint_eq(work.begun, work.total);
    work_end(&work);
}
END_TEST

START_TEST(offsets_near_the_largest_are_only_told_that_they_are_not_sequential)
{
    struct work work;

    work_begin(&work);
    for (unsigned i = 0; i < 4; i++) {
        ck_assert(!read_all(&work, (uint64_t)INT64_MAX - 4 * STEP + i * STEP, STEP));
    }
    ck_assert_uint_eq(work.begun, 0);
    work_end(&work);
}
END_TEST

START_TEST(there_is_at_least_one_processor)
{
    ck_assert_uint_ge(process_processors(), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("prefetch");
    TCase *tcase = tcase_create("prefetch");

    tcase_add_test(tcase, reads_that_begin_where_the_last_one_ended_are_sequential);
    tcase_add_test(tcase, long_reads_may_overtake_each_other);
    tcase_add_test(tcase, what_is_long_may_be_less_than_a_step);
    tcase_add_test(tcase, short_reads_anywhere_make_no_jobs);
    tcase_add_test(tcase, each_step_ahead_is_done_once_and_no_further_than_the_window);
    tcase_add_test(tcase, a_long_read_shares_its_steps_and_none_is_done_that_was_claimed);
    tcase_add_test(tcase, threads_and_readers_are_never_more_than_processors);
    tcase_add_test(tcase, destroying_it_waits_for_the_jobs_under_way);
    tcase_add_test(tcase, offsets_near_the_largest_are_only_told_that_they_are_not_sequential);
    tcase_add_test(tcase, there_is_at_least_one_processor);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
