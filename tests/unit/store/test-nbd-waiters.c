/* SPDX-License-Identifier: MIT */
/* Who is woken when, of those that wait for answers. */
#include "config.h"

#include "store/nbd_waiters.h"
#include "suite.h"

#include <pthread.h>

static struct nbd_waiters waiters;
static struct nbd_waiter waiter[3];

static void setup(void)
{
    waiters = (struct nbd_waiters){NULL, NULL};
    for (size_t i = 0; i < 3; i++) {
        nbd_waiter_init(&waiter[i]);
        waiter[i].pending = 2;
        nbd_waiters_add(&waiters, &waiter[i]);
    }
}

static void teardown(void)
{
    for (size_t i = 0; i < 3; i++) {
        nbd_waiter_destroy(&waiter[i]);
    }
}

static int times_woken(struct nbd_waiter *which)
{
    int times;

    ck_assert_int_eq(sem_getvalue(&which->wake, &times), 0);
    return times;
}

START_TEST(the_last_answer_wakes_who_waits_for_it_and_nobody_else)
{
    nbd_waiters_one_less(&waiters, &waiter[1]);
    ck_assert_ptr_null(nbd_waiters_take(&waiters));
    nbd_waiters_one_less(&waiters, &waiter[1]);
    ck_assert_int_eq(times_woken(&waiter[1]), 0); /* not before the mutex is free */
    nbd_waiters_wake(nbd_waiters_take(&waiters));
    ck_assert(nbd_waiter_wait(&waiter[1]));
    ck_assert_int_eq(times_woken(&waiter[0]) + times_woken(&waiter[2]), 0);
    ck_assert_ptr_eq(waiters.waiting, &waiter[2]);
    ck_assert_ptr_eq(waiter[2].next, &waiter[0]);
    ck_assert_ptr_null(waiter[0].next);
}
END_TEST

START_TEST(one_is_chosen_to_poll_and_waits_no_more)
{
    nbd_waiters_choose(&waiters);
    nbd_waiters_wake(nbd_waiters_take(&waiters));
    ck_assert(!nbd_waiter_wait(&waiter[2]));
    ck_assert_ptr_eq(waiters.waiting, &waiter[1]);
    ck_assert_int_eq(times_woken(&waiter[0]) + times_woken(&waiter[1]), 0);
}
END_TEST

START_TEST(who_was_chosen_is_not_woken_again_by_its_answers)
{
    nbd_waiters_choose(&waiters);
    nbd_waiters_one_less(&waiters, &waiter[2]);
    nbd_waiters_one_less(&waiters, &waiter[2]);
    nbd_waiters_wake(nbd_waiters_take(&waiters));
    ck_assert_int_eq(times_woken(&waiter[2]), 1);
    ck_assert(nbd_waiter_wait(&waiter[2])); /* and need not poll any more */
    ck_assert_ptr_null(nbd_waiters_take(&waiters));
}
END_TEST

START_TEST(all_that_end_at_once_are_woken)
{
    for (size_t i = 0; i < 3; i++) {
        nbd_waiters_one_less(&waiters, &waiter[i]);
        nbd_waiters_one_less(&waiters, &waiter[i]);
    }
    nbd_waiters_wake(nbd_waiters_take(&waiters));
    for (size_t i = 0; i < 3; i++) {
        ck_assert(nbd_waiter_wait(&waiter[i]));
    }
    nbd_waiters_choose(&waiters); /* nobody is there */
    ck_assert_ptr_null(nbd_waiters_take(&waiters));
}
END_TEST

/* --- With threads ------------------------------------------------------------------------------
 */

#define ROUNDS 2000
#define ASKERS 4

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct nbd_waiter *asked[ASKERS]; /* under the mutex: NULL, or who waits for one answer */

static void *ask_and_go(void *context)
{
    struct nbd_waiter **place = context;

    for (int i = 0; i < ROUNDS; i++) {
        struct nbd_waiter mine;

        nbd_waiter_init(&mine);
        pthread_mutex_lock(&mutex);
        mine.pending++;
        nbd_waiters_add(&waiters, &mine);
        *place = &mine;
        pthread_mutex_unlock(&mutex);
        ck_assert(nbd_waiter_wait(&mine)); /* needs no mutex, and nobody looks at it any more */
        nbd_waiter_destroy(&mine);
    }
    return NULL;
}

START_TEST(who_is_answered_may_be_gone_at_once)
{
    pthread_t threads[ASKERS];
    int answers = 0;

    waiters.waiting = NULL;
    for (size_t i = 0; i < ASKERS; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, ask_and_go, &asked[i]), 0);
    }
    while (answers < ROUNDS * ASKERS) {
        struct nbd_waiter *ended;

        pthread_mutex_lock(&mutex);
        for (size_t i = 0; i < ASKERS; i++) {
            if (asked[i] != NULL) {
                nbd_waiters_one_less(&waiters, asked[i]);
                asked[i] = NULL;
                answers++;
            }
        }
        ended = nbd_waiters_take(&waiters);
        pthread_mutex_unlock(&mutex);
        nbd_waiters_wake(ended);
    }
    for (size_t i = 0; i < ASKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    ck_assert_ptr_null(waiters.waiting);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nbd waiters");
    TCase *tcase = tcase_create("waiters");

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, the_last_answer_wakes_who_waits_for_it_and_nobody_else);
    tcase_add_test(tcase, one_is_chosen_to_poll_and_waits_no_more);
    tcase_add_test(tcase, who_was_chosen_is_not_woken_again_by_its_answers);
    tcase_add_test(tcase, all_that_end_at_once_are_woken);
    tcase_add_test(tcase, who_is_answered_may_be_gone_at_once);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
