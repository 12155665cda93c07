/* SPDX-License-Identifier: MIT */
/* Requests that meet in the midst of a cluster. */
#include "config.h"

#include "disk/seams.h"
#include "pause.h"
#include "suite.h"

#include <errno.h>

#define CLUSTER UINT64_C(4096)

static const uint8_t bytes[CLUSTER];

static struct seam_part part_of(uint64_t cluster, uint64_t from, uint64_t to)
{
    return (struct seam_part){
        .cluster = cluster * CLUSTER, .from = from, .to = to, .data = bytes + from};
}

/* What the owner of a part that was offered is told, by a thread of his own. */
struct waiting {
    struct seams *seams;
    struct seam_part *part;
    int result;
    pthread_t thread;
};

static void *wait_for_answer(void *context)
{
    struct waiting *waiting = context;

    waiting->result = seams_end(waiting->seams, waiting->part);
    return NULL;
}

START_TEST(who_comes_second_gets_the_part_of_the_first_and_answers_it)
{
    struct seams *seams = seams_create(CLUSTER);
    struct seam_part one = part_of(3, 0, 1024), other = part_of(3, 1024, CLUSTER);
    struct seam_part *first = _i % 2 == 0 ? &one : &other;
    struct seam_part *second = _i % 2 == 0 ? &other : &one;
    struct waiting waiting = {.seams = seams, .part = first};
    int answer = _i < 2 ? 0 : _i < 4 ? -EIO : 1;

    ck_assert_ptr_null(seams_meet(seams, first));
    ck_assert_ptr_eq(seams_meet(seams, second), first);
    ck_assert_int_eq(pthread_create(&waiting.thread, NULL, wait_for_answer, &waiting), 0);
    pause_now(1, 2000); /* it waits, maybe: the answer is the same */
    seams_answer(seams, first, answer);
    ck_assert_int_eq(pthread_join(waiting.thread, NULL), 0);
    ck_assert_int_eq(waiting.result, answer);
    seams_destroy(seams);
}
END_TEST

START_TEST(a_part_that_nobody_takes_comes_back_and_is_not_to_be_had_any_more)
{
    struct seams *seams = seams_create(CLUSTER);
    struct seam_part one = part_of(3, 0, 1024), other = part_of(3, 1024, CLUSTER);

    ck_assert_ptr_null(seams_meet(seams, &one));
    ck_assert_int_eq(seams_end(seams, &one), 1);
    ck_assert_ptr_null(seams_meet(seams, &other));
    ck_assert_int_eq(seams_end(seams, &other), 1);
    seams_destroy(seams);
}
END_TEST

START_TEST(only_the_two_parts_of_one_cluster_meet)
{
    struct seams *seams = seams_create(CLUSTER);
    struct seam_part offered[] = {part_of(3, 0, 1024), part_of(4, 1024, CLUSTER)};
    struct seam_part others[] = {
        part_of(3, 2048, CLUSTER), /* there is something between them */
        part_of(3, 512, CLUSTER),  /* they overlap */
        part_of(3, 0, 1024),       /* the same */
        part_of(5, 1024, CLUSTER), /* of another one */
    };
    size_t count = sizeof(others) / sizeof(others[0]);

    ck_assert_ptr_null(seams_meet(seams, &offered[0]));
    ck_assert_ptr_null(seams_meet(seams, &offered[1]));
    for (size_t i = 0; i < count; i++) {
        ck_assert_ptr_null(seams_meet(seams, &others[i]));
    }
    for (size_t i = 0; i < count; i++) {
        ck_assert_int_eq(seams_end(seams, &others[i]), 1);
    }
    ck_assert_int_eq(seams_end(seams, &offered[0]), 1);
    ck_assert_int_eq(seams_end(seams, &offered[1]), 1);
    seams_destroy(seams);
}
END_TEST

static void meet_once(struct seams *seams)
{
    struct seam_part one = part_of(7, 0, 1024), other = part_of(7, 1024, CLUSTER);

    ck_assert_ptr_null(seams_meet(seams, &one));
    ck_assert_ptr_eq(seams_meet(seams, &other), &one);
    seams_answer(seams, &one, 0);
    ck_assert_int_eq(seams_end(seams, &one), 0);
}

/* Milliseconds that somebody waits for nobody. */
static int64_t wait_in_vain(struct seams *seams)
{
    struct seam_part one = part_of(3, 0, 1024);
    int64_t begin = now_msecs();

    ck_assert_ptr_null(seams_meet(seams, &one));
    ck_assert_int_eq(seams_end(seams, &one), 1);
    return now_msecs() - begin;
}

START_TEST(nobody_waits_unless_somebody_came_of_late)
{
    struct seams *seams = seams_create(CLUSTER);
    int64_t begin;

    begin = now_msecs();
    for (unsigned i = 0; i < 1000; i++) {
        (void)wait_in_vain(seams);
    }
    ck_assert_int_lt(now_msecs() - begin, 1000 * 50); /* which each of them would take */
    meet_once(seams);
    ck_assert_int_ge(wait_in_vain(seams), 40);
    for (unsigned i = 0; i < 3; i++) {
        (void)wait_in_vain(seams);
    }
    begin = now_msecs();
    for (unsigned i = 0; i < 1000; i++) {
        (void)wait_in_vain(seams);
    }
    ck_assert_int_lt(now_msecs() - begin, 1000 * 50);
    seams_destroy(seams);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("seams");
    TCase *tcase = tcase_create("seams");

    tcase_add_loop_test(tcase, who_comes_second_gets_the_part_of_the_first_and_answers_it, 0, 6);
    tcase_add_test(tcase, a_part_that_nobody_takes_comes_back_and_is_not_to_be_had_any_more);
    tcase_add_test(tcase, only_the_two_parts_of_one_cluster_meet);
    tcase_add_test(tcase, nobody_waits_unless_somebody_came_of_late);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
