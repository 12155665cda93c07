/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/workers.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define JOBS  7
#define COUNT 5000
#define ENDS  3 /* threads */

struct sum {
    uint64_t number, square;
    unsigned thread;
};

struct state {
    atomic_uint done;
};

static void square(void *context, void *job, unsigned thread)
{
    struct state *state = context;
    struct sum *sum = job;

    sum->square = sum->number * sum->number;
    sum->thread = thread;
    atomic_fetch_add(&state->done, 1);
}

static struct workers *begin(struct state *state, unsigned threads)
{
    const struct workers_options options = {
        .threads = threads,
        .jobs = JOBS,
        .job_size = sizeof(struct sum),
        .work = square,
        .context = state,
    };
    struct workers *workers;

    ck_assert_int_eq(workers_create(&options, &workers), 0);
    return workers;
}

/* Also without any thread: then who waits for a job does it. */
START_TEST(jobs_come_back_done_and_in_order)
{
    struct state state = {0};
    struct workers *workers = begin(&state, (unsigned)_i);
    uint64_t made = 0, taken = 0;
    struct sum *sum;

    do {
        while (made < COUNT && (sum = workers_next(workers)) != NULL) {
            sum->number = made++;
            workers_submit(workers);
        }
        ck_assert_uint_le(made - taken, JOBS);
        sum = workers_oldest(workers);
        if (sum != NULL) {
            ck_assert_uint_eq(sum->number, taken);
            ck_assert_uint_eq(sum->square, taken * taken);
            ck_assert_uint_le(sum->thread, (unsigned)_i);
            taken++;
            workers_release(workers);
        }
    } while (sum != NULL);
    ck_assert_uint_eq(taken, COUNT);
    ck_assert_uint_eq(atomic_load(&state.done), COUNT);
    workers_destroy(workers);
}
END_TEST

START_TEST(jobs_that_nobody_takes_back_may_be_dropped)
{
    struct state state = {0};
    struct workers *workers = begin(&state, (unsigned)_i);

    while (workers_next(workers) != NULL) {
        workers_submit(workers);
    }
    workers_drop(workers);
    ck_assert_uint_le(atomic_load(&state.done), JOBS);
    for (unsigned i = 0; i < JOBS; i++) {
        ck_assert_ptr_nonnull(workers_job(workers, i));
    }
    workers_destroy(workers);
    workers_destroy(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("workers");
    TCase *tests = tcase_create("all");

    tcase_add_loop_test(tests, jobs_come_back_done_and_in_order, 0, ENDS + 1);
    tcase_add_loop_test(tests, jobs_that_nobody_takes_back_may_be_dropped, 0, ENDS + 1);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
