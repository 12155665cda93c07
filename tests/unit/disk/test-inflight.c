/* SPDX-License-Identifier: MIT */
/* Nothing is reused under a request that is under way (R4), however the threads meet. */
#include "config.h"

#include "pause.h"
#include "suite.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

/* Nothing, a switch, or a longer wait: all of these by turns meet in the most ways. */
static void let_others_run(void)
{
    static _Thread_local unsigned turn;

    if (turn++ % 2 == 0) {
        sched_yield();
    }
    pause_now(7, 1);
}

/*
 * Before each addition of inflight.h: what can come between two of its steps
 * does so all the time, and not once in many hours.
 */
#undef atomic_fetch_add
#define atomic_fetch_add(object, operand) \
    (let_others_run(), atomic_fetch_add_explicit(object, operand, memory_order_seq_cst))

#include "disk/inflight.h"

#define THREADS 2
#define PLACES  4
#define MSECS   1500

START_TEST(what_began_before_a_flip_is_waited_for)
{
    struct inflight inflight = {0};
    unsigned before = inflight_enter(&inflight), after;

    inflight_flip(&inflight);
    after = inflight_enter(&inflight);
    ck_assert(!inflight_drained(&inflight));
    inflight_leave(&inflight, before);
    ck_assert(inflight_drained(&inflight));
    inflight_leave(&inflight, after);
}
END_TEST

/*
 * As the mapping and its clusters, made as small as can be: `place` is the
 * mapping, and a place that it no longer names is emptied when all requests
 * from before have ended. Who finds an empty place would have read foreign data.
 */
struct subject {
    struct inflight inflight;
    atomic_uint place;
    atomic_bool valid[PLACES];
    atomic_bool ends;
    atomic_uint wrong;
};

static void *look(void *context)
{
    struct subject *subject = context;

    while (!atomic_load(&subject->ends)) {
        unsigned generation = inflight_enter(&subject->inflight), i;
        unsigned place = atomic_load(&subject->place);

        for (i = 0; i < 10; i++) {
            let_others_run();
            if (!atomic_load(&subject->valid[place])) {
                atomic_fetch_add(&subject->wrong, 1);
            }
        }
        inflight_leave(&subject->inflight, generation);
    }
    return NULL;
}

/* What a commit does: drop, flip, wait, free. */
static void move_on(struct subject *subject)
{
    unsigned old = atomic_load(&subject->place), new = (old + 1) % PLACES;

    atomic_store(&subject->valid[new], true);
    atomic_store(&subject->place, new);
    inflight_flip(&subject->inflight);
    while (!inflight_drained(&subject->inflight)) {
        sched_yield();
    }
    atomic_store(&subject->valid[old], false);
}

START_TEST(nothing_is_freed_under_those_that_began_before)
{
    struct subject *subject = calloc(1, sizeof(*subject));
    int64_t end = now_msecs() + MSECS;
    pthread_t threads[THREADS];
    unsigned i;

    subject->valid[0] = true;
    for (i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, look, subject), 0);
    }
    while (now_msecs() < end && atomic_load(&subject->wrong) == 0) {
        for (i = 0; i < 100; i++) {
            move_on(subject);
        }
    }
    atomic_store(&subject->ends, true);
    for (i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    }
    ck_assert_uint_eq(atomic_load(&subject->wrong), 0);
    free(subject);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("inflight");
    TCase *tcase = tcase_create("inflight");

    tcase_add_test(tcase, what_began_before_a_flip_is_waited_for);
    tcase_add_test(tcase, nothing_is_freed_under_those_that_began_before);
    tcase_set_timeout(tcase, 60);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
