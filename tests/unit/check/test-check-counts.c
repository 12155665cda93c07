/* SPDX-License-Identifier: MIT */
/* The numbers that the checker counts in. */
#include "config.h"

#include "check/counts.h"
#include "suite.h"
#include "util/checked.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

/* The same additions, one by one and in runs. */
START_TEST(runs_add_what_single_additions_add)
{
    enum {
        CLUSTERS = 200000,
        ROUNDS = 400
    };
    struct check_counts *runs, *singles;
    unsigned random = 1;
    uint64_t done;
    bool shared = false;

    ck_assert_int_eq(check_counts_create(CLUSTERS, &runs), 0);
    ck_assert_int_eq(check_counts_create(CLUSTERS, &singles), 0);
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t first = (uint64_t)rand_r(&random) % CLUSTERS;
        uint64_t length = min_u64((uint64_t)rand_r(&random) % 1500, CLUSTERS - first);

        ck_assert_int_eq(check_counts_add(runs, first, length, UINT64_MAX, &done, &shared), 0);
        ck_assert_uint_eq(done, length);
        for (uint64_t j = first; j < first + length; j++) {
            ck_assert_int_eq(check_counts_set(singles, j, check_counts_get(singles, j) + 1), 0);
        }
    }
    ck_assert(shared);
    for (uint64_t j = 0; j < CLUSTERS; j++) {
        ck_assert_uint_eq(check_counts_get(runs, j), check_counts_get(singles, j));
    }
    check_counts_destroy(runs);
    check_counts_destroy(singles);
}
END_TEST

START_TEST(a_run_stops_at_a_number_that_is_as_high_as_it_may_be)
{
    struct check_counts *counts;
    bool shared = false;
    uint64_t done;

    ck_assert_int_eq(check_counts_create(1000, &counts), 0);
    ck_assert_int_eq(check_counts_add(counts, 100, 100, 3, &done, &shared), 0);
    ck_assert(done == 100 && !shared);
    ck_assert_int_eq(check_counts_set(counts, 150, 3), 0);
    ck_assert_int_eq(check_counts_add(counts, 90, 100, 3, &done, &shared), 0);
    ck_assert(done == 60 && shared);
    ck_assert_uint_eq(check_counts_get(counts, 149), 2);
    ck_assert_uint_eq(check_counts_get(counts, 150), 3);
    ck_assert_uint_eq(check_counts_get(counts, 151), 1);
    ck_assert_int_eq(check_counts_add(counts, 990, 11, 3, &done, &shared), -ERANGE);
    check_counts_destroy(counts);
}
END_TEST

START_TEST(groups_are_called_alike_only_when_they_are)
{
    struct check_counts *counts;
    bool shared = false;
    uint64_t done;

    ck_assert_int_eq(check_counts_create(1 << 20, &counts), 0);
    ck_assert_int_eq(check_counts_group(counts, 0), CHECK_COUNTS_ZERO);
    ck_assert_int_eq(check_counts_add(counts, 60, 132, 9, &done, &shared), 0);
    ck_assert_int_eq(check_counts_group(counts, 0), CHECK_COUNTS_MIXED);
    ck_assert_int_eq(check_counts_group(counts, 64), CHECK_COUNTS_ONE);
    ck_assert_int_eq(check_counts_group(counts, 128), CHECK_COUNTS_ONE);
    ck_assert_int_eq(check_counts_group(counts, 192), CHECK_COUNTS_ZERO);
    ck_assert_int_eq(check_counts_set(counts, 70, 2), 0);
    ck_assert_int_eq(check_counts_group(counts, 64), CHECK_COUNTS_MIXED);
    check_counts_destroy(counts);
}
END_TEST

/* MiB of memory that this process holds now. */
static long resident(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    long size, pages;

    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fscanf(file, "%ld %ld", &size, &pages), 2);
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE) >> 20;
}

/* The documented bound: 64 TiB in clusters of 64 KiB, all in use. A sanitizer adds its own. */
START_TEST(a_full_file_of_64_tib_takes_128_mib)
{
    const uint64_t clusters = UINT64_C(1) << 30;
    struct check_counts *counts;
    bool shared = false;
    uint64_t done;
    long before = resident();

    ck_assert_int_eq(check_counts_create(clusters, &counts), 0);
    ck_assert_int_eq(check_counts_add(counts, 0, clusters, 9, &done, &shared), 0);
    ck_assert_uint_eq(done, clusters);
    ck_assert_int_eq(check_counts_group(counts, clusters - 64), CHECK_COUNTS_ONE);
    ck_assert_int_lt(resident() - before, 128 + 64);
    check_counts_destroy(counts);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("check-counts");
    TCase *tcase = tcase_create("check-counts");

    tcase_add_test(tcase, numbers_keep_their_values_while_their_width_grows);
    tcase_add_test(tcase, runs_add_what_single_additions_add);
    tcase_add_test(tcase, a_run_stops_at_a_number_that_is_as_high_as_it_may_be);
    tcase_add_test(tcase, groups_are_called_alike_only_when_they_are);
    tcase_add_test(tcase, a_full_file_of_64_tib_takes_128_mib);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return suite_main(make_suite());
}
