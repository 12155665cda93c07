/* SPDX-License-Identifier: MIT */
/* The numbers that the checker counts in. */
#include "config.h"

#include "meta/check_counts.h"
#include "suite.h"

#include <errno.h>

START_TEST(numbers_keep_their_values_while_their_width_grows)
{
    static const uint64_t values[] = {1, 2, 15, 16, 255, 65536, UINT64_MAX};
    const uint64_t far = UINT64_C(1) << 37;
    struct check_counts *counts;

    ck_assert_int_eq(check_counts_create(far + 1, &counts), 0);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        ck_assert_int_eq(check_counts_set(counts, far - i, values[i]), 0);
        for (size_t j = 0; j <= i; j++) {
            ck_assert_uint_eq(check_counts_get(counts, far - j), values[j]);
        }
    }
    ck_assert_uint_eq(check_counts_next(counts, 0, far + 1), far - 6);
    ck_assert_uint_eq(check_counts_next(counts, 0, far - 6), far - 6);
    ck_assert_uint_eq(check_counts_get(counts, far + 1), 0);
    ck_assert_int_eq(check_counts_set(counts, far + 1, 1), -ERANGE);
    ck_assert_int_eq(check_counts_grow(counts, far + 70000), 0);
    ck_assert_int_eq(check_counts_set(counts, far + 69999, 1), 0);
    ck_assert_uint_eq(check_counts_get(counts, far), 1);
    ck_assert_uint_eq(check_counts_next(counts, far + 1, far + 70000), far + 69999);
    check_counts_destroy(counts);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("check-counts");
    TCase *tcase = tcase_create("check-counts");

    tcase_add_test(tcase, numbers_keep_their_values_while_their_width_grows);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return suite_main(make_suite());
}
