/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/later.h"
#include "suite.h"
#include "util/process.h"

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>

#define FOREVER 1000000 /* milliseconds */

static struct later *later;
static sem_t done;
static atomic_int result; /* what the last job or attempt was told: 1 for the last time, 2 if not */

static bool no_thread; /* can be started */

int __real_process_start_thread(pthread_t *thread, const char *name, void *(*run)(void *),
                                void *context);
int __wrap_process_start_thread(pthread_t *thread, const char *name, void *(*run)(void *),
                                void *context);

/* The linker takes this for it: see tests/tests.mk. */
int __wrap_process_start_thread(pthread_t *thread, const char *name, void *(*run)(void *),
                                void *context)
{
    return no_thread ? -EAGAIN : __real_process_start_thread(thread, name, run, context);
}

static void setup(void)
{
    no_thread = false;
    ck_assert_int_eq(later_create(&later), 0);
    sem_init(&done, 0, 0);
    atomic_init(&result, 0);
}

static void teardown(void)
{
    later_destroy(later);
    sem_destroy(&done);
}

struct numbered {
    struct later_job job;
    int number;
};

static void serve(struct later_job *job, bool ending)
{
    struct numbered *numbered = (struct numbered *)job;

    /* in the order in which they came */
    ck_assert_int_eq(atomic_load(&result), numbered->number);
    atomic_store(&result, numbered->number + 1 + 1000 * ending);
    free(numbered);
    sem_post(&done);
}

static void ask(int number)
{
    struct numbered *numbered = calloc(1, sizeof(*numbered));

    *numbered = (struct numbered){.job.serve = serve, .number = number};
    later_do(later, &numbered->job);
}

START_TEST(jobs_are_done_in_their_order)
{
    ask(0);
    for (int i = 1; i < 100; i++) {
        ask(i);
    }
    for (int i = 0; i < 100; i++) {
        sem_wait(&done);
    }
    ck_assert_int_eq(atomic_load(&result), 100);
}
END_TEST

START_TEST(what_comes_after_the_end_is_done_at_once)
{
    later_stop(later);
    later_stop(later);
    ask(0);
    ck_assert_int_eq(atomic_load(&result), 1001);
}
END_TEST

struct attempt {
    struct later_attempt attempt;
    atomic_int *succeeds;
};

static bool attempt(struct later_attempt *asked, bool last)
{
    struct attempt *attempt = (struct attempt *)asked;
    bool succeeds = atomic_load(attempt->succeeds) != 0;

    if (!last && !succeeds) {
        sem_post(&done);
        return false;
    }
    atomic_store(&result, last ? 1 : 2);
    free(attempt);
    sem_post(&done);
    return true;
}

static void try(atomic_int *succeeds, unsigned milliseconds)
{
    struct attempt *made = calloc(1, sizeof(*made));

    *made = (struct attempt){.attempt.attempt = attempt, .succeeds = succeeds};
    later_try(later, &made->attempt, milliseconds);
}

START_TEST(an_attempt_is_made_again_when_it_is_told_to)
{
    atomic_int succeeds = 0;

    try(&succeeds, FOREVER);
    sem_wait(&done); /* in vain, at once: what it waits for may have come */
    atomic_store(&succeeds, 1);
    later_poke(later);
    sem_wait(&done);
    ck_assert_int_eq(atomic_load(&result), 2);
}
END_TEST

START_TEST(an_attempt_has_a_deadline)
{
    atomic_int never = 0;

    try(&never, 1);
    while (atomic_load(&result) == 0) {
        sem_wait(&done);
    }
    ck_assert_int_eq(atomic_load(&result), 1);
}
END_TEST

START_TEST(the_end_does_not_wait_for_attempts)
{
    atomic_int never = 0;

    try(&never, FOREVER);
    try(&never, FOREVER);
    later_stop(later);
    ck_assert_int_eq(atomic_load(&result), 1);
    atomic_store(&result, 0);
    try(&never, FOREVER);
    ck_assert_int_eq(atomic_load(&result), 1);
}
END_TEST

START_TEST(without_a_thread_who_asks_serves_as_for_the_last_time)
{
    atomic_int never = 0;

    no_thread = true;
    ask(0);
    ck_assert_int_eq(atomic_load(&result), 1001);
    try(&never, FOREVER);
    ck_assert_int_eq(atomic_load(&result), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("later");
    TCase *tests = tcase_create("all");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, jobs_are_done_in_their_order);
    tcase_add_test(tests, what_comes_after_the_end_is_done_at_once);
    tcase_add_test(tests, an_attempt_is_made_again_when_it_is_told_to);
    tcase_add_test(tests, an_attempt_has_a_deadline);
    tcase_add_test(tests, the_end_does_not_wait_for_attempts);
    tcase_add_test(tests, without_a_thread_who_asks_serves_as_for_the_last_time);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
