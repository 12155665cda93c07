/* SPDX-License-Identifier: MIT */
/* What a lost connection can have cost (R7). */
#include "config.h"

#include "store/nbd_unflushed.h"
#include "suite.h"

#define SIZE    (UINT64_C(1) << 30)
#define GRANULE (UINT64_C(64) << 10)

static struct nbd_unflushed *unflushed;

static void setup(void)
{
    unflushed = nbd_unflushed_create(SIZE);
    ck_assert_ptr_nonnull(unflushed);
}

static void teardown(void)
{
    nbd_unflushed_destroy(unflushed);
}

static void write_at(uint64_t offset, uint64_t length)
{
    nbd_unflushed_write_begins(unflushed);
    nbd_unflushed_write_ends(unflushed, offset, length);
}

static void flush(bool success)
{
    nbd_unflushed_flush_begins(unflushed);
    nbd_unflushed_flush_ends(unflushed, success);
}

START_TEST(a_loss_while_all_is_flushed_costs_nothing)
{
    nbd_unflushed_lost(unflushed);
    write_at(0, SIZE);
    flush(true);
    ck_assert(!nbd_unflushed_at_stake(unflushed));
    nbd_unflushed_lost(unflushed);
    ck_assert(!nbd_unflushed_is_broken(unflushed));
    ck_assert(!nbd_unflushed_is_doubtful(unflushed, 0, SIZE));
}
END_TEST

START_TEST(a_loss_while_a_write_is_under_way_breaks_it)
{
    nbd_unflushed_write_begins(unflushed);
    ck_assert(nbd_unflushed_at_stake(unflushed));
    nbd_unflushed_lost(unflushed);
    nbd_unflushed_write_ends(unflushed, 5 * GRANULE, 1);
    ck_assert(nbd_unflushed_is_broken(unflushed));
    ck_assert(nbd_unflushed_is_doubtful(unflushed, 0, SIZE));
    ck_assert(!nbd_unflushed_is_doubtful(unflushed, 0, 5 * GRANULE));
    ck_assert(!nbd_unflushed_is_doubtful(unflushed, 6 * GRANULE, SIZE - 6 * GRANULE));
}
END_TEST

START_TEST(only_what_was_not_flushed_is_in_doubt)
{
    write_at(0, GRANULE);
    flush(true);
    write_at(SIZE - 1, 1);
    ck_assert(!nbd_unflushed_is_doubtful(unflushed, SIZE - 1, 1)); /* nothing is lost yet */
    nbd_unflushed_lost(unflushed);
    ck_assert(!nbd_unflushed_is_doubtful(unflushed, 0, SIZE - GRANULE));
    ck_assert(nbd_unflushed_is_doubtful(unflushed, SIZE - 1, 1));
    flush(true); /* comes too late */
    ck_assert(nbd_unflushed_is_broken(unflushed));
    ck_assert(nbd_unflushed_is_doubtful(unflushed, SIZE - 1, 1));
}
END_TEST

START_TEST(a_flush_does_not_cover_what_ended_after_it_began)
{
    nbd_unflushed_write_begins(unflushed);
    nbd_unflushed_flush_begins(unflushed);
    nbd_unflushed_write_ends(unflushed, 0, 1);
    nbd_unflushed_flush_ends(unflushed, true);
    ck_assert(nbd_unflushed_at_stake(unflushed));
    nbd_unflushed_lost(unflushed);
    ck_assert(nbd_unflushed_is_broken(unflushed));
}
END_TEST

START_TEST(a_loss_during_a_flush_leaves_in_doubt_what_it_was_to_cover)
{
    write_at(7 * GRANULE, 2 * GRANULE);
    nbd_unflushed_flush_begins(unflushed);
    nbd_unflushed_lost(unflushed);
    nbd_unflushed_flush_ends(unflushed, false);
    ck_assert(nbd_unflushed_is_doubtful(unflushed, 8 * GRANULE, 1));
    ck_assert(!nbd_unflushed_is_doubtful(unflushed, 0, 7 * GRANULE));
    ck_assert(!nbd_unflushed_is_doubtful(unflushed, 9 * GRANULE, GRANULE));
}
END_TEST

START_TEST(what_no_flush_has_covered_is_not_stable)
{
    ck_assert(nbd_unflushed_is_stable(unflushed, 0, SIZE));
    write_at(3 * GRANULE, 1);
    ck_assert(!nbd_unflushed_is_stable(unflushed, 3 * GRANULE, 1));
    ck_assert(!nbd_unflushed_is_stable(unflushed, 0, SIZE));
    ck_assert(nbd_unflushed_is_stable(unflushed, 4 * GRANULE, SIZE - 4 * GRANULE));
    nbd_unflushed_flush_begins(unflushed);
    ck_assert(!nbd_unflushed_is_stable(unflushed, 3 * GRANULE, 1));
    write_at(5 * GRANULE, 1);
    nbd_unflushed_flush_ends(unflushed, true);
    ck_assert(nbd_unflushed_is_stable(unflushed, 3 * GRANULE, 1));
    ck_assert(!nbd_unflushed_is_stable(unflushed, 5 * GRANULE, 1));
    ck_assert(nbd_unflushed_is_stable(NULL, 0, SIZE));
}
END_TEST

START_TEST(a_flush_that_fails_breaks_it)
{
    write_at(0, 1);
    flush(false);
    ck_assert(nbd_unflushed_is_broken(unflushed));
    ck_assert(nbd_unflushed_is_doubtful(unflushed, 0, 1));
}
END_TEST

START_TEST(the_largest_export_takes_no_more_memory)
{
    struct nbd_unflushed *large = nbd_unflushed_create(INT64_MAX);

    ck_assert_ptr_nonnull(large);
    nbd_unflushed_write_begins(large);
    nbd_unflushed_write_ends(large, (uint64_t)INT64_MAX - 1, 1);
    nbd_unflushed_lost(large);
    ck_assert(nbd_unflushed_is_doubtful(large, (uint64_t)INT64_MAX - 1, 1));
    ck_assert(!nbd_unflushed_is_doubtful(large, 0, GRANULE));
    nbd_unflushed_destroy(large);
}
END_TEST

START_TEST(where_nothing_is_written_nothing_is_lost)
{
    nbd_unflushed_lost(NULL);
    ck_assert(!nbd_unflushed_at_stake(NULL));
    ck_assert(!nbd_unflushed_is_broken(NULL));
    ck_assert(!nbd_unflushed_is_doubtful(NULL, 0, 1));
    nbd_unflushed_destroy(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nbd-unflushed");
    TCase *tcase = tcase_create("nbd-unflushed");

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, a_loss_while_all_is_flushed_costs_nothing);
    tcase_add_test(tcase, a_loss_while_a_write_is_under_way_breaks_it);
    tcase_add_test(tcase, only_what_was_not_flushed_is_in_doubt);
    tcase_add_test(tcase, a_flush_does_not_cover_what_ended_after_it_began);
    tcase_add_test(tcase, a_loss_during_a_flush_leaves_in_doubt_what_it_was_to_cover);
    tcase_add_test(tcase, what_no_flush_has_covered_is_not_stable);
    tcase_add_test(tcase, a_flush_that_fails_breaks_it);
    tcase_add_test(tcase, the_largest_export_takes_no_more_memory);
    tcase_add_test(tcase, where_nothing_is_written_nothing_is_lost);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
