/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/team.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define STEPS   64
#define CALLERS 4
#define ROUNDS  200

/* Which steps were done how often, and by whom. */
struct work {
    _Atomic unsigned done[STEPS];
    pthread_t caller;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned wanted, begun, by_others; /* `wanted`: so many are begun before the first ends */
    int result;                        /* of one step */
    size_t fails;                      /* the step that has it */
};

static struct work fresh(void)
{
    return (struct work){
        .caller = pthread_self(),
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .changed = PTHREAD_COND_INITIALIZER,
    };
}

static int count(void *context, size_t index)
{
    struct work *work = context;

    atomic_fetch_add(&work->done[index], 1);
    return work->result < 0 && index == work->fails ? work->result : 0;
}

/* The same, by as many threads at a time as are wanted. */
static int meet(void *context, size_t index)
{
    struct work *work = context;

    pthread_mutex_lock(&work->mutex);
    work->begun++;
    work->by_others += !pthread_equal(pthread_self(), work->caller);
    pthread_cond_broadcast(&work->changed);
    while (work->begun < work->wanted) {
        pthread_cond_wait(&work->changed, &work->mutex);
    }
    pthread_mutex_unlock(&work->mutex);
    return count(context, index);
}

static void check_each_once(const struct work *work, size_t steps)
{
    for (size_t i = 0; i < STEPS; i++) {
        ck_assert_uint_eq(atomic_load(&work->done[i]), i < steps);
    }
}

START_TEST(each_step_is_done_once_with_a_team_and_without)
{
    struct team *team;

    ck_assert_int_eq(team_create(3, &team), 0);
    for (size_t steps = 0; steps <= STEPS; steps++) {
        struct work with = fresh(), without = fresh();

        ck_assert_int_eq(team_run(team, count, &with, steps), 0);
        check_each_once(&with, steps);
        ck_assert_int_eq(team_run(NULL, count, &without, steps), 0);
        check_each_once(&without, steps);
    }
    team_destroy(team);
    team_destroy(NULL);
}
END_TEST

static const unsigned processors[] = {1, 2, 3};

/* Each step waits until all that there shall be are at it; none waits for more. */
START_TEST(as_many_threads_as_processors_are_at_it_at_the_same_time)
{
    struct work work = fresh();
    struct team *team;

    work.wanted = processors[_i];
    ck_assert_int_eq(team_create(processors[_i], &team), 0);
    ck_assert_int_eq(team_run(team, meet, &work, STEPS), 0);
    check_each_once(&work, STEPS);
    ck_assert_uint_ge(work.by_others, processors[_i] - 1);
    ck_assert(processors[_i] > 1 || work.by_others == 0);
    team_destroy(team);
}
END_TEST

START_TEST(what_failed_first_is_the_result_and_no_step_is_begun_then)
{
    struct work alone = fresh(), shared = fresh();
    struct team *team;

    alone.fails = shared.fails = 5;
    alone.result = shared.result = -EIO;
    ck_assert_int_eq(team_run(NULL, count, &alone, STEPS), -EIO);
    check_each_once(&alone, 6);
    ck_assert_int_eq(team_create(4, &team), 0);
    ck_assert_int_eq(team_run(team, count, &shared, STEPS), -EIO);
    ck_assert_int_eq(team_run(team, count, &(struct work){0}, STEPS), 0); /* it is as before */
    team_destroy(team);
}
END_TEST

static void *run_many(void *argument)
{
    struct team *team = argument;

    for (unsigned i = 0; i < ROUNDS; i++) {
        struct work work = fresh();
        size_t steps = i % STEPS;

        work.fails = STEPS / 2;
        work.result = i % 3 == 0 ? -ENOSPC : 0;
        ck_assert_int_eq(team_run(team, count, &work, steps), steps > work.fails ? work.result : 0);
        if (work.result == 0 || steps <= work.fails) {
            check_each_once(&work, steps);
        }
    }
    return NULL;
}

/* Each loop is on the stack of its caller: who still knew it would be seen by a sanitizer. */
START_TEST(many_callers_have_loops_at_the_same_time)
{
    pthread_t callers[CALLERS];
    struct team *team;

    ck_assert_int_eq(team_create(CALLERS + 2, &team), 0);
    for (unsigned i = 0; i < CALLERS; i++) {
        ck_assert_int_eq(pthread_create(&callers[i], NULL, run_many, team), 0);
    }
    for (unsigned i = 0; i < CALLERS; i++) {
        ck_assert_int_eq(pthread_join(callers[i], NULL), 0);
    }
    team_destroy(team);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("team");
    TCase *tcase = tcase_create("team");

    tcase_add_test(tcase, each_step_is_done_once_with_a_team_and_without);
    tcase_add_loop_test(tcase, as_many_threads_as_processors_are_at_it_at_the_same_time, 0,
                        (int)(sizeof(processors) / sizeof(processors[0])));
    tcase_add_test(tcase, what_failed_first_is_the_result_and_no_step_is_begun_then);
    tcase_add_test(tcase, many_callers_have_loops_at_the_same_time);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
