/* SPDX-License-Identifier: MIT */
/* Who waits for a range, and in which order. */
#include "config.h"

#include "suite.h"
#include "util/range_lock.h"

#include <sched.h>
#include <stdatomic.h>

struct taker {
    struct range_locks *locks;
    struct range_lock lock;
    atomic_uint *turn; /* how many have had one so far */
    atomic_uint had;   /* which was ours, from 1 on */
    pthread_t thread;
};

static void *take(void *context)
{
    struct taker *taker = context;

    range_lock_take(taker->locks, &taker->lock);
    atomic_store(&taker->had, atomic_fetch_add(taker->turn, 1) + 1);
    range_lock_release(taker->locks, &taker->lock);
    return NULL;
}

static bool waits(struct range_locks *locks, const struct range_lock *wanted)
{
    const struct range_lock *lock;
    bool found = false;

    pthread_mutex_lock(&locks->mutex);
    for (lock = locks->queue; lock != NULL; lock = lock->next) {
        found = found || (lock == wanted && lock->waits);
    }
    pthread_mutex_unlock(&locks->mutex);
    return found;
}

/* Returns when it waits; or when it had its turn, which is an error. */
static void start_that_waits(struct taker *taker)
{
    ck_assert_int_eq(pthread_create(&taker->thread, NULL, take, taker), 0);
    while (!waits(taker->locks, &taker->lock)) {
        ck_assert_uint_eq(atomic_load(&taker->had), 0);
        sched_yield();
    }
}

START_TEST(ranges_that_do_not_overlap_are_held_at_once)
{
    struct range_locks locks;
    struct range_lock one = {.first = 0, .last = 4}, two = {.first = 5, .last = 5},
                      three = {.first = 6, .last = UINT64_MAX};

    range_locks_init(&locks);
    range_lock_take(&locks, &one);
    range_lock_take(&locks, &two);
    range_lock_take(&locks, &three);
    ck_assert(!range_locks_waited_for(&locks));
    range_lock_release(&locks, &two);
    range_lock_release(&locks, &one);
    range_lock_release(&locks, &three);
    ck_assert_ptr_null(locks.queue);
    range_locks_destroy(&locks);
}
END_TEST

START_TEST(a_large_range_has_its_turn_before_small_ones_that_came_later)
{
    struct range_locks locks;
    atomic_uint turn = 0;
    struct range_lock held = {.first = 0, .last = 4}, apart = {.first = 100, .last = 100};
    struct taker large = {.locks = &locks, .lock = {.first = 0, .last = 99}, .turn = &turn};
    struct taker small = {.locks = &locks, .lock = {.first = 50, .last = 50}, .turn = &turn};

    range_locks_init(&locks);
    range_lock_take(&locks, &held);
    start_that_waits(&large);
    start_that_waits(&small); /* for nobody but who waits himself */
    range_lock_take(&locks, &apart);
    range_lock_release(&locks, &apart);
    ck_assert_uint_eq(atomic_load(&turn), 0);
    range_lock_release(&locks, &held);
    pthread_join(large.thread, NULL);
    pthread_join(small.thread, NULL);
    ck_assert_uint_eq(atomic_load(&large.had), 1);
    ck_assert_uint_eq(atomic_load(&small.had), 2);
    ck_assert_ptr_null(locks.queue);
    range_locks_destroy(&locks);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("range-lock");
    TCase *tests = tcase_create("all");

    tcase_add_test(tests, ranges_that_do_not_overlap_are_held_at_once);
    tcase_add_test(tests, a_large_range_has_its_turn_before_small_ones_that_came_later);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
