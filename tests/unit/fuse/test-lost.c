/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/lost.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct lost lost;

static void setup(void)
{
    lost_init(&lost);
}

static void teardown(void)
{
    lost_release(&lost);
}

START_TEST(nothing_is_lost_at_first)
{
    struct error error = {0};

    ck_assert_int_eq(lost_result(&lost), 0);
    ck_assert_int_eq(lost_explain(&lost, "i", &error), 0);
}
END_TEST

START_TEST(what_failed_is_told_until_all_of_it_was_written_again)
{
    struct error error = {0};

    lost_add(&lost, 1000, 2000, -ENOSPC);
    lost_add(&lost, 5000, 6000, -EIO);
    ck_assert_int_eq(lost_result(&lost), -ENOSPC);
    ck_assert_int_eq(lost_explain(&lost, "image", &error), -ENOSPC);
    ck_assert_ptr_nonnull(strstr(error.text, " 2000 bytes"));
    ck_assert_ptr_nonnull(strstr(error.text, "byte 1000 of"));
    lost_remove(&lost, 0, 1999);
    lost_remove(&lost, 5000, 7000);
    ck_assert_int_eq(lost_result(&lost), -ENOSPC);
    lost_remove(&lost, 2000, 3000); /* not the last byte */
    ck_assert_int_eq(lost_result(&lost), -ENOSPC);
    lost_remove(&lost, 1999, 2000);
    ck_assert_int_eq(lost_result(&lost), 0);
}
END_TEST

START_TEST(a_write_within_leaves_both_ends)
{
    lost_add(&lost, 0, 100, -EIO);
    lost_remove(&lost, 40, 60);
    lost_remove(&lost, 0, 40);
    ck_assert_int_eq(lost_result(&lost), -EIO);
    lost_remove(&lost, 60, 100);
    ck_assert_int_eq(lost_result(&lost), 0);
}
END_TEST

START_TEST(more_ranges_than_are_kept_are_lost_for_good)
{
    for (uint64_t i = 0; i <= LOST_RANGES_MAX; i++) {
        lost_add(&lost, i * 10, i * 10 + 5, -EIO);
    }
    lost_remove(&lost, 0, UINT64_MAX);
    ck_assert_int_eq(lost_result(&lost), -EIO);
}
END_TEST

START_TEST(it_agrees_with_a_map_of_bytes)
{
    uint8_t map[256] = {0};

    srandom(7);
    for (unsigned round = 0; round < 100000; round++) {
        uint64_t from = (uint64_t)random() % 256, to = from + (uint64_t)random() % (257 - from);
        bool adds = random() % 3 == 0;

        if (adds) {
            lost_add(&lost, from, to, -EIO);
        } else {
            lost_remove(&lost, from, to);
        }
        memset(map + from, adds, to - from);
        if (adds && from == to) {
            lost_remove(&lost, 0, 0); /* of no byte */
        }
        ck_assert_int_eq(lost_result(&lost) != 0, memchr(map, 1, sizeof(map)) != NULL);
        for (size_t i = 0; i < lost.count; i++) {
            ck_assert_uint_lt(lost.ranges[i].from, lost.ranges[i].to);
            ck_assert_ptr_null(
                memchr(map + lost.ranges[i].from, 0, lost.ranges[i].to - lost.ranges[i].from));
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lost");
    TCase *tests = tcase_create("all");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, nothing_is_lost_at_first);
    tcase_add_test(tests, what_failed_is_told_until_all_of_it_was_written_again);
    tcase_add_test(tests, a_write_within_leaves_both_ends);
    tcase_add_test(tests, more_ranges_than_are_kept_are_lost_for_good);
    tcase_add_test(tests, it_agrees_with_a_map_of_bytes);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
