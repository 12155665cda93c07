/* SPDX-License-Identifier: MIT */
/* Runs that are filled with zeros before they are used: when, how, and what waits for that. */
#include "config.h"

#include "suite.h"
#include "write_case.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#define CLUSTER UINT64_C(65536)

static void open_case(struct write_case *subject)
{
    struct builder_options options = write_case_options();

    options.cluster_bits = 16;
    options.virtual_size = UINT64_C(64) << 20;
    write_case_open(subject, builder_create(&options), false);
    memory_store_set_fills(subject->file, true);
}

static uint64_t take(struct write_case *subject, struct allocation *taken)
{
    ck_assert_int_eq(allocator_take(subject->allocator, 1, taken), 0);
    return taken->host_offset;
}

/* Takes clusters, `each` before every sync, until a fill is wanted; how many that were. */
static unsigned take_until_wanted(struct write_case *subject, unsigned each, unsigned most)
{
    struct allocation taken;
    unsigned count;

    for (count = 0; count < most && subject->fills_wanted == 0; count++) {
        take(subject, &taken);
        if (count % each == each - 1) {
            ck_assert_int_eq(barrier_wait(subject->barrier, barrier_epoch(subject->barrier)), 0);
        }
    }
    return count;
}

/* The entry of the log that filled something, after `from`; its length is what a fill has. */
static const struct memory_log_entry *fill_after(struct write_case *subject, size_t from)
{
    for (; from < memory_log_count(subject->log); from++) {
        const struct memory_log_entry *entry = memory_log_at(subject->log, from);

        if (entry->kind == MEMORY_LOG_WRITE && entry->length > CLUSTER) {
            return entry;
        }
    }
    return NULL;
}

START_TEST(a_run_is_filled_before_it_is_used_where_each_sync_is_for_little)
{
    struct write_case subject;
    const struct memory_log_entry *filled;
    struct allocation taken;
    size_t before;
    uint64_t at;

    open_case(&subject);
    ck_assert_uint_lt(take_until_wanted(&subject, 1, 200), 100);
    before = memory_log_count(subject.log);
    allocator_fill(subject.allocator);
    filled = fill_after(&subject, before);
    ck_assert_ptr_nonnull(filled);
    /* What is taken from it is counted, and as stable as its zeros are. */
    do {
        at = take(&subject, &taken);
        ck_assert(taken.fresh);
    } while (at < filled->offset);
    ck_assert_uint_eq(at, filled->offset);
    ck_assert_uint_eq(write_case_counted(&subject, at), 1);
    ck_assert(!barrier_is_stable(subject.barrier, taken.epoch));
    write_case_close(&subject);
}
END_TEST

START_TEST(counts_that_are_stable_are_not_enough_for_a_run_that_is_filled_later)
{
    struct write_case subject;
    struct allocation taken;
    size_t before;
    uint64_t at;

    open_case(&subject);
    take_until_wanted(&subject, 1, 200);
    ck_assert_int_eq(barrier_wait(subject.barrier, barrier_epoch(subject.barrier)), 0);
    before = memory_log_count(subject.log);
    allocator_fill(subject.allocator);
    at = fill_after(&subject, before)->offset;
    while (take(&subject, &taken) < at) {
    }
    ck_assert(!barrier_is_stable(subject.barrier, taken.epoch));
    write_case_close(&subject);
}
END_TEST

START_TEST(nothing_is_filled_where_a_sync_is_for_much)
{
    struct write_case subject;

    open_case(&subject);
    ck_assert_uint_eq(take_until_wanted(&subject, 3, 1000), 1000);
    write_case_close(&subject);
}
END_TEST

START_TEST(a_run_that_nobody_fills_in_time_is_used_as_it_is)
{
    struct write_case subject;
    struct allocation taken;
    unsigned i;

    open_case(&subject);
    take_until_wanted(&subject, 1, 200);
    for (i = 0; i < 200; i++) {
        take(&subject, &taken);
        ck_assert(taken.fresh);
    }
    allocator_fill(subject.allocator); /* too late; and nobody has synced since */
    ck_assert_uint_eq(memory_store_calls(subject.file, MEMORY_STORE_FILL), 0);
    write_case_close(&subject);
}
END_TEST

/* No folio of the host's page cache is larger, nor has bytes on both sides of a multiple. */
#define BORDER (UINT64_C(2) << 20)

START_TEST(a_fill_begins_and_ends_where_no_folio_lies_across)
{
    struct write_case subject;
    struct allocation taken;
    size_t before;

    open_case(&subject);
    for (unsigned odd = 0; odd < 3; odd++) {
        const struct memory_log_entry *filled;

        subject.fills_wanted = 0;
        ck_assert_int_eq(allocator_take_exactly(subject.allocator, 2 + 4 * odd, &taken), 0);
        ck_assert_uint_lt(take_until_wanted(&subject, 1, 300), 300);
        before = memory_log_count(subject.log);
        allocator_fill(subject.allocator);
        filled = fill_after(&subject, before);
        ck_assert_ptr_nonnull(filled);
        ck_assert_uint_eq(filled->offset % BORDER, 0);
        ck_assert_uint_eq(filled->length, BORDER);
    }
    write_case_close(&subject);
}
END_TEST

static void *fill(void *context)
{
    struct write_case *subject = context;

    allocator_fill(subject->allocator);
    return NULL;
}

#define TAKEN 100

struct taker {
    struct write_case *subject;
    uint64_t at[TAKEN];
};

/* Takes clusters, and writes to each. */
static void *take_many(void *context)
{
    struct taker *taker = context;
    struct allocation taken;
    unsigned i;

    for (i = 0; i < TAKEN; i++) {
        taker->at[i] = take(taker->subject, &taken);
        ck_assert_int_eq(store_write(taker->subject->file, taker->at[i], "data", 4), 0);
    }
    return NULL;
}

START_TEST(what_is_written_to_a_run_comes_after_its_zeros)
{
    const struct timespec a_while = {.tv_nsec = 100000000};
    struct write_case subject;
    struct taker taker = {.subject = &subject};
    pthread_t filling, taking;
    unsigned i;

    open_case(&subject);
    take_until_wanted(&subject, 1, 200);
    memory_store_block_fills(subject.file);
    ck_assert_int_eq(pthread_create(&filling, NULL, fill, &subject), 0);
    memory_store_wait_fill(subject.file);
    ck_assert_int_eq(pthread_create(&taking, NULL, take_many, &taker), 0);
    nanosleep(&a_while, NULL); /* for it to come as far as it can */
    memory_store_release_fills(subject.file);
    ck_assert_int_eq(pthread_join(filling, NULL), 0);
    ck_assert_int_eq(pthread_join(taking, NULL), 0);
    for (i = 0; i < TAKEN; i++) {
        ck_assert_mem_eq(memory_store_data(subject.file) + taker.at[i], "data", 4);
    }
    write_case_close(&subject);
}
END_TEST

START_TEST(a_host_that_cannot_fill_is_asked_once_and_keeps_no_part_of_it)
{
    struct write_case subject;
    struct allocation taken;
    unsigned i;

    open_case(&subject);
    take_until_wanted(&subject, 1, 200);
    memory_store_fail(subject.file, MEMORY_STORE_FILL, 1, _i == 0 ? ENOSPC : EOPNOTSUPP);
    allocator_fill(subject.allocator);
    ck_assert_uint_eq(memory_store_calls(subject.file, MEMORY_STORE_PUNCH), _i == 0 ? 1 : 0);
    subject.fills_wanted = 0;
    ck_assert_uint_eq(take_until_wanted(&subject, 1, 300), 300);
    for (i = 0; i < 3; i++) {
        take(&subject, &taken);
        ck_assert(taken.fresh);
    }
    write_case_close(&subject);
}
END_TEST

START_TEST(closing_gives_a_run_back_that_was_filled)
{
    struct write_case subject;
    struct allocation taken;
    uint64_t last;

    open_case(&subject);
    last = take(&subject, &taken);
    take_until_wanted(&subject, 1, 200);
    allocator_fill(subject.allocator);
    last = take(&subject, &taken);
    ck_assert_int_eq(allocator_close(subject.allocator), 0);
    ck_assert_uint_eq(memory_store_size(subject.file), last + CLUSTER);
    write_case_close(&subject);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("allocator-fill");
    TCase *tcase = tcase_create("allocator-fill");

    tcase_add_test(tcase, a_run_is_filled_before_it_is_used_where_each_sync_is_for_little);
    tcase_add_test(tcase, counts_that_are_stable_are_not_enough_for_a_run_that_is_filled_later);
    tcase_add_test(tcase, nothing_is_filled_where_a_sync_is_for_much);
    tcase_add_test(tcase, a_run_that_nobody_fills_in_time_is_used_as_it_is);
    tcase_add_test(tcase, a_fill_begins_and_ends_where_no_folio_lies_across);
    tcase_add_test(tcase, what_is_written_to_a_run_comes_after_its_zeros);
    tcase_add_loop_test(tcase, a_host_that_cannot_fill_is_asked_once_and_keeps_no_part_of_it, 0, 2);
    tcase_add_test(tcase, closing_gives_a_run_back_that_was_filled);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
