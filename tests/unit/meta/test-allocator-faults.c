/* SPDX-License-Identifier: MIT */
/* What the allocator leaves on a host that crashes, fails, or is full: R2 and R4. */
#include "config.h"

#include "owner_case.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* --- Random use
 * ------------------------------------------------------------------------------------- */

/* Gives one of the owned ranges back, in one of the two ways. */
static int give_back(struct owner *owner)
{
    unsigned which = (unsigned)rand_r(&owner->seed) % owner->count;
    struct owned range = owner->owned[which];

    owner->owned[which] = owner->owned[--owner->count];
    if (rand_r(&owner->seed) % 2 == 0) {
        allocator_return(owner_allocator(owner), range.first * CLUSTER, range.length);
        return 0;
    }
    return allocator_drop(owner_allocator(owner), range.first * CLUSTER, range.length,
                          owner->commit);
}

static int random_step(struct owner *owner)
{
    unsigned what = (unsigned)rand_r(&owner->seed) % 16;
    uint64_t want = (uint64_t)rand_r(&owner->seed) % 200 + 1;
    struct allocation allocation;

    if (what < 8) {
        return owner_take(owner, want, what < 2, &allocation);
    }
    if (what < 11) {
        return owner->count > 0 ? give_back(owner) : 0;
    }
    if (what < 13) {
        return allocator_dropped(owner_allocator(owner), owner->commit++);
    }
    return what < 15 ? owner_sync(owner) : allocator_write_back(owner_allocator(owner));
}

static void expect_counted(const struct owner *owner, size_t at, struct store *image,
                           const char *what)
{
    for (unsigned i = 0; i < owner->count; i++) {
        const struct owned *range = &owner->owned[i];

        for (uint64_t k = 0; range->stable != 0 && range->stable <= at && k < range->length; k++) {
            ck_assert_msg(
                write_case_count(image, owner->write_case.image.header, range->first + k) > 0,
                "cluster %llu is not counted %s, at entry %zu",
                (unsigned long long)(range->first + k), what, at);
        }
    }
}

/* What the disk may hold: all that was written, all until the last sync, or some of the rest. */
static void check_crashes(struct owner *owner, size_t from)
{
    struct write_case *write_case = &owner->write_case;
    size_t end = memory_log_count(write_case->log), at;
    struct store *all = memory_store_from(memory_store_data(write_case->before),
                                          memory_store_size(write_case->before));
    struct store *synced = memory_store_from(memory_store_data(write_case->before),
                                             memory_store_size(write_case->before));
    size_t last_sync = 0;

    for (at = 0; at < end; at++) {
        memory_log_replay(write_case->log, at, at + 1, write_case->file, all);
        if (memory_log_at(write_case->log, at)->kind == MEMORY_LOG_SYNC) {
            memory_log_replay(write_case->log, last_sync, at, write_case->file, synced);
            last_sync = at;
        }
        if (at + 1 < from || (at % 64 != 0 && at + 1 != end)) {
            continue;
        }
        expect_counted(owner, at + 1, all, "with all that was written");
        expect_counted(owner, at + 1, synced, "with what was synced");
        if (rand_r(&owner->seed) % 4 == 0) {
            struct store *some =
                memory_store_from(memory_store_data(synced), memory_store_size(synced));

            for (size_t i = last_sync; i <= at; i++) {
                if (rand_r(&owner->seed) % 2 == 0) {
                    memory_log_replay(write_case->log, i, i + 1, write_case->file, some);
                }
            }
            expect_counted(owner, at + 1, some, "with some of what was not synced");
            store_close(some);
        }
    }
    store_close(synced);
    store_close(all);
}

START_TEST(whatever_a_crash_leaves_counts_every_cluster_that_was_safe_to_use)
{
    struct owner owner;
    size_t checked = 0;

    owner_open(&owner, _i % 2 == 1);
    owner.seed = (unsigned)_i + 1;
    for (unsigned i = 0; i < 240; i++) {
        ck_assert_int_eq(random_step(&owner), 0);
        if (i % 60 == 59) {
            check_crashes(&owner, checked);
            checked = memory_log_count(owner.write_case.log);
        }
    }
    owner_close(&owner);
}
END_TEST

/* What is owned is counted, whatever went wrong; what is not is handed out again. */
static void expect_owned_is_counted(struct owner *owner)
{
    for (unsigned i = 0; i < owner->count; i++) {
        for (uint64_t k = 0; k < owner->owned[i].length; k++) {
            ck_assert_uint_ge(
                write_case_counted(&owner->write_case, (owner->owned[i].first + k) * CLUSTER), 1);
        }
    }
}

static bool fail_once(enum memory_store_call call, unsigned n, int error)
{
    struct owner owner;
    unsigned calls;

    owner_open(&owner, false);
    owner.seed = 7;
    calls = memory_store_calls(owner.write_case.file, call);
    memory_store_fail(owner.write_case.file, call, n, error);
    for (unsigned i = 0; i < 100; i++) {
        int result = random_step(&owner);

        ck_assert_msg(result == 0 || result == -error, "%d", result);
    }
    calls = memory_store_calls(owner.write_case.file, call) - calls;
    memory_store_fail(owner.write_case.file, call, 0, 0);
    expect_owned_is_counted(&owner);
    if (owner_sync(&owner) == 0) {
        check_crashes(&owner, memory_log_count(owner.write_case.log));
        ck_assert_int_eq(allocator_close(owner_allocator(&owner)), 0);
        expect_owned_is_counted(&owner);
        ck_assert_int_eq(allocator_write_back(owner_allocator(&owner)), 0);
    }
    owner_close(&owner);
    return calls >= n;
}

START_TEST(a_host_that_fails_once_at_any_call_makes_nothing_wrong)
{
    static const struct {
        enum memory_store_call call;
        int error;
    } kinds[] = {{MEMORY_STORE_WRITE, ENOSPC},
                 {MEMORY_STORE_RESIZE, EFBIG},
                 {MEMORY_STORE_READ, EIO},
                 {MEMORY_STORE_SYNC, EIO}};
    unsigned n = 1;

    while (fail_once(kinds[_i].call, n, kinds[_i].error)) {
        n += n < 12 ? 1 : 19;
    }
    ck_assert_uint_gt(n, 1);
}
END_TEST

/* What is handed out is within the file, and no table; and nobody else has it (owner_take()). */
static int take_what_is_free(struct owner *owner, uint64_t want, bool exactly)
{
    struct allocation taken;
    int result = owner_take(owner, want, exactly, &taken);

    if (result == 0) {
        ck_assert_ptr_null(gate_check(owner->write_case.gate, GATE_OTHER, taken.host_offset,
                                      taken.clusters * CLUSTER));
        ck_assert_uint_ge(owner_file_clusters(owner), taken.host_offset / CLUSTER + taken.clusters);
    }
    return result;
}

static void expect_counted_once(struct owner *owner)
{
    for (unsigned i = 0; i < owner->count; i++) {
        ck_assert_uint_eq(write_case_counted(&owner->write_case, owner->owned[i].first * CLUSTER),
                          1);
    }
}

/* Each write fails from the n-th on, for some steps; whether one did. */
static bool fail_for_a_while(unsigned n, unsigned steps)
{
    struct owner owner;
    unsigned calls;

    owner_open(&owner, false);
    owner.seed = 7;
    calls = memory_store_calls(owner.write_case.file, MEMORY_STORE_WRITE);
    memory_store_fail_from(owner.write_case.file, MEMORY_STORE_WRITE, n, ENOSPC);
    for (unsigned i = 0; i < steps; i++) {
        (void)random_step(&owner);
    }
    calls = memory_store_calls(owner.write_case.file, MEMORY_STORE_WRITE) - calls;
    memory_store_fail(owner.write_case.file, MEMORY_STORE_WRITE, 0, 0);
    for (unsigned i = 0; i < 60; i++) {
        ck_assert_int_eq(take_what_is_free(&owner, i < 3 ? 600 : i % 7 + 1, i % 3 < 2), 0);
    }
    expect_counted_once(&owner);
    owner_close(&owner);
    return calls >= n;
}

/* Some writes fail from the n-th on, and the next ones do not: also within one request. */
static bool fail_some_writes(unsigned n, unsigned times, int error)
{
    struct owner owner;
    unsigned calls;

    owner_open(&owner, false);
    calls = memory_store_calls(owner.write_case.file, MEMORY_STORE_WRITE);
    memory_store_fail_times(owner.write_case.file, MEMORY_STORE_WRITE, n, times, error);
    for (unsigned i = 0; i < 60; i++) {
        (void)take_what_is_free(&owner, i % 9 == 0 ? 300 : i % 7 + 1, i % 3 == 2);
    }
    calls = memory_store_calls(owner.write_case.file, MEMORY_STORE_WRITE) - calls;
    memory_store_fail(owner.write_case.file, MEMORY_STORE_WRITE, 0, 0);
    ck_assert_int_eq(allocator_write_back(owner_allocator(&owner)), 0); /* what was owed is paid */
    expect_counted_once(&owner);
    owner_close(&owner);
    return calls >= n;
}

START_TEST(a_host_that_fails_for_a_while_has_nothing_handed_out_twice)
{
    unsigned n = 1;

    while (fail_for_a_while(n, 1 + (unsigned)_i * 3)) {
        n++;
    }
    ck_assert_uint_gt(n, 1);
}
END_TEST

START_TEST(a_quota_that_is_exceeded_for_a_moment_has_nothing_handed_out_twice)
{
    static const unsigned some[] = {2, 5, 7};

    for (unsigned i = 0; i < 3; i++) {
        unsigned n = 1, times = some[i];

        while (fail_some_writes(n, times, _i == 0 ? EDQUOT : EFBIG)) {
            n++;
        }
        ck_assert_uint_gt(n, 1);
    }
}
END_TEST

START_TEST(a_host_that_is_full_for_long_gives_no_clusters_and_moves_no_end)
{
    struct builder_options options = write_case_options();
    struct write_case subject;
    struct allocation taken;
    uint64_t end;
    unsigned i;

    options.cluster_bits = 12; /* there is a block already that counts the run */
    write_case_open(&subject, builder_create(&options), false);
    end = refcounts_end(subject.refcounts);
    for (i = 0; i < 20; i++) {
        memory_store_fail(subject.file, MEMORY_STORE_RESIZE, 1, ENOSPC);
        ck_assert_int_eq(allocator_take(subject.allocator, 1, &taken), -ENOSPC);
        ck_assert_uint_eq(refcounts_end(subject.refcounts), end);
    }
    ck_assert_int_eq(allocator_take(subject.allocator, 1, &taken), 0);
    write_case_close(&subject);
}
END_TEST

START_TEST(near_a_limit_of_the_file_what_fits_is_taken)
{
    struct builder_options options = write_case_options();
    struct write_case subject;
    struct allocation taken;
    uint64_t end;

    options.cluster_bits = 12;
    write_case_open(&subject, builder_create(&options), false);
    end = refcounts_end(subject.refcounts);
    /* A run of 256 clusters does not fit, and one of 128 does. */
    memory_store_fail(subject.file, MEMORY_STORE_RESIZE, 1, _i == 0 ? EFBIG : EDQUOT);
    ck_assert_int_eq(allocator_take(subject.allocator, 300, &taken), 0);
    ck_assert_uint_eq(taken.host_offset, end << 12);
    ck_assert_uint_eq(taken.clusters, 128);
    ck_assert_uint_eq(memory_store_size(subject.file), (end + 128) << 12);
    for (uint64_t cluster = end; cluster < end + 256; cluster++) {
        ck_assert_uint_eq(write_case_counted(&subject, cluster << 12), cluster < end + 128);
    }
    write_case_close(&subject);
}
END_TEST

/* --- Damage that is met
 * --------------------------------------------------------------------------- */

#define DROPPED 6

static void *drop_all(void *context)
{
    struct owner *owner = context;

    ck_assert_int_eq(allocator_dropped(owner_allocator(owner), 1), -EIO);
    return NULL;
}

START_TEST(nothing_is_punched_any_more_when_damage_is_met_while_something_is)
{
    struct allocation dropped[DROPPED];
    uint8_t data[CLUSTER], found[CLUSTER];
    struct owner owner;
    struct store *file;
    pthread_t thread;

    owner_open(&owner, true);
    file = owner.write_case.file;
    memset(data, 0x5a, sizeof(data));
    for (unsigned i = 0; i < DROPPED; i++) {
        dropped[i] = owner_taken(&owner, 1);
        (void)owner_taken(&owner, 1); /* so that they do not follow each other */
        ck_assert_int_eq(store_write(file, dropped[i].host_offset, data, CLUSTER), 0);
        ck_assert_int_eq(allocator_drop(owner_allocator(&owner), dropped[i].host_offset, 1, 1), 0);
    }
    memory_store_block_punches(file);
    ck_assert_int_eq(pthread_create(&thread, NULL, drop_all, &owner), 0);
    memory_store_wait_punch(file);
    allocator_stop(owner_allocator(&owner));
    memory_store_release_punches(file);
    pthread_join(thread, NULL);
    for (unsigned i = 1; i < DROPPED; i++) {
        ck_assert_int_eq(store_read(file, dropped[i].host_offset, found, CLUSTER), 0);
        ck_assert_mem_eq(found, data, CLUSTER);
    }
    owner_close(&owner);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("allocator, faults");
    TCase *tcase = tcase_create("allocator, faults");

    tcase_add_loop_test(tcase, whatever_a_crash_leaves_counts_every_cluster_that_was_safe_to_use, 0,
                        4);
    tcase_add_loop_test(tcase, near_a_limit_of_the_file_what_fits_is_taken, 0, 2);
    tcase_add_test(tcase, a_host_that_is_full_for_long_gives_no_clusters_and_moves_no_end);
    tcase_add_loop_test(tcase, a_host_that_fails_once_at_any_call_makes_nothing_wrong, 0, 4);
    tcase_add_loop_test(tcase, a_host_that_fails_for_a_while_has_nothing_handed_out_twice, 0, 12);
    tcase_add_loop_test(tcase, a_quota_that_is_exceeded_for_a_moment_has_nothing_handed_out_twice,
                        0, 2);
    tcase_add_test(tcase, nothing_is_punched_any_more_when_damage_is_met_while_something_is);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
