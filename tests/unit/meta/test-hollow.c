/* SPDX-License-Identifier: MIT */
/* Which free clusters read as zeros, beside a plain row of flags. */
#include "config.h"

#include "meta/hollow.h"
#include "suite.h"

#include <string.h>

#define CLUSTERS 300

static void check_look(const struct hollow *hollow, const bool *flags)
{
    for (uint64_t first = 0; first < CLUSTERS; first++) {
        uint64_t alike = 1, length = CLUSTERS - first, some = length > 3 ? 3 : length;

        while (first + alike < CLUSTERS && flags[first + alike] == flags[first]) {
            alike++;
        }
        ck_assert_int_eq(hollow_look(hollow, first, &length), flags[first]);
        ck_assert_uint_eq(length, alike);
        length = some;
        (void)hollow_look(hollow, first, &length);
        ck_assert_uint_eq(length, some < alike ? some : alike);
    }
}

static void check_order(const struct hollow *hollow)
{
    for (size_t i = 0; i < hollow->count; i++) {
        ck_assert_uint_lt(hollow->ranges[i].first, hollow->ranges[i].end);
        ck_assert(i == 0 || hollow->ranges[i - 1].end < hollow->ranges[i].first);
    }
}

START_TEST(what_is_known_is_what_was_added_and_not_removed_since)
{
    struct hollow hollow = {0};
    bool flags[CLUSTERS] = {false};
    unsigned seed = (unsigned)_i + 1;

    for (unsigned turn = 0; turn < 400; turn++) {
        uint64_t first, length;
        bool add;

        seed = seed * 1103515245 + 12345;
        first = (seed >> 8) % CLUSTERS;
        seed = seed * 1103515245 + 12345;
        length = (seed >> 8) % 8 == 0 ? (seed >> 12) % 100 : (seed >> 12) % 6;
        length = length < CLUSTERS - first ? length : CLUSTERS - first;
        add = (seed >> 24) % 2 == 0;
        if (add) {
            hollow_add(&hollow, first, length);
        } else {
            hollow_remove(&hollow, first, length);
        }
        for (uint64_t i = first; i < first + length; i++) {
            flags[i] = add;
        }
        check_order(&hollow);
        if (turn % 10 == 0) {
            check_look(&hollow, flags);
        }
    }
    hollow_destroy(&hollow);
    ck_assert_uint_eq(hollow.count, 0);
}
END_TEST

START_TEST(of_too_many_ranges_some_are_not_known_and_none_wrongly)
{
    struct hollow hollow = {0};
    uint64_t length, known = 0;

    for (uint64_t i = 0; i < 3 * HOLLOW_MAX; i++) {
        hollow_add(&hollow, 10 * i, 5);
    }
    ck_assert_uint_eq(hollow.count, HOLLOW_MAX);
    /* In the midst of one: there is no place for two. */
    hollow_remove(&hollow, 2, 1);
    for (uint64_t i = 0; i < 30 * HOLLOW_MAX; i++) {
        length = 1;
        if (hollow_look(&hollow, i, &length)) {
            ck_assert_uint_lt(i % 10, 5);
            ck_assert_uint_ne(i, 2);
            known++;
        }
    }
    ck_assert_uint_eq(known, 5 * HOLLOW_MAX - 3);
    hollow_remove(&hollow, 0, 30 * HOLLOW_MAX);
    ck_assert_uint_eq(hollow.count, 0);
    hollow_destroy(&hollow);
}
END_TEST

START_TEST(nothing_is_known_of_none)
{
    struct hollow hollow = {0};
    uint64_t length = 7;

    hollow_remove(&hollow, 0, UINT64_MAX);
    hollow_add(&hollow, 5, 0);
    ck_assert(!hollow_look(&hollow, 0, &length));
    ck_assert_uint_eq(length, 7);
    hollow_destroy(&hollow);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("hollow");
    TCase *tcase = tcase_create("hollow");

    tcase_add_loop_test(tcase, what_is_known_is_what_was_added_and_not_removed_since, 0, 8);
    tcase_add_test(tcase, of_too_many_ranges_some_are_not_known_and_none_wrongly);
    tcase_add_test(tcase, nothing_is_known_of_none);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
