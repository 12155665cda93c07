/* SPDX-License-Identifier: MIT */
/* In which order a commit writes and syncs (R1 to R3, R7), and when clusters are free (R4). */
#include "config.h"

#include "meta/format.h"
#include "suite.h"
#include "util/bytes.h"
#include "util/range_lock.h"
#include "write_case.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLUSTER UINT64_C(512)

static void open_empty(struct write_case *write_case)
{
    struct builder_options options = write_case_options();

    write_case_open(write_case, builder_create(&options), false);
}

/* Maps a guest cluster to the host cluster; the entry may be written after `epoch`. */
static void map(struct write_case *write_case, uint64_t guest_offset, uint64_t host_offset,
                uint64_t epoch)
{
    struct l2_value value = {.entry = host_offset == 0 ? 0 : host_offset | ENTRY_COPIED};
    struct mapping_fault fault = {0};
    int result = mapping_set(write_case->image.mapping, guest_offset, &value, 1, epoch, &fault);

    ck_assert_msg(result == 0, "%s", fault.text);
}

/* As a request does it: takes a cluster, writes it, maps it. Where that was. */
static uint64_t write_cluster(struct write_case *write_case, uint64_t guest_offset)
{
    struct allocation new;
    uint8_t data[CLUSTER];
    uint64_t epoch;

    builder_pattern(data, sizeof(data), (uint32_t)guest_offset);
    ck_assert_int_eq(allocator_take(write_case->allocator, 1, &new), 0);
    ck_assert_int_eq(store_write(write_case->file, new.host_offset, data, sizeof(data)), 0);
    epoch = barrier_epoch(write_case->barrier);
    map(write_case, guest_offset, new.host_offset, epoch > new.epoch ? epoch : new.epoch);
    return new.host_offset;
}

/* Takes the guest cluster away from its host cluster. */
static void unmap_cluster(struct write_case *write_case, uint64_t guest_offset,
                          uint64_t host_offset)
{
    map(write_case, guest_offset, 0, 0);
    ck_assert_int_eq(allocator_drop(write_case->allocator, host_offset, 1,
                                    atomic_load(&write_case->next_commit)),
                     0);
}

static void flush(struct write_case *write_case)
{
    ck_assert_int_eq(commit_flush(write_case->commit), 0);
}

static void *flush_it(void *commit)
{
    return (void *)(intptr_t)commit_flush(commit);
}

/* What the file says of a guest cluster: the host offset, 0 where it has none. */
static uint64_t on_disk(struct store *file, const struct header *header, uint64_t guest_offset)
{
    uint32_t bits = header->l2_bits + header->cluster_bits;
    uint64_t index = guest_offset >> header->cluster_bits & ((UINT64_C(1) << header->l2_bits) - 1);
    uint8_t entry[8];
    uint64_t table;

    ck_assert_int_eq(
        store_read(file, header->l1_offset + (guest_offset >> bits) * 8, entry, sizeof(entry)), 0);
    table = load_be64(entry) & ENTRY_HOST_OFFSET_MASK;
    if (table == 0) {
        return 0;
    }
    ck_assert_int_eq(store_read(file, table + index * 8, entry, sizeof(entry)), 0);
    return load_be64(entry) & ENTRY_HOST_OFFSET_MASK;
}

/* What a write to `later` must find stable: a sync lies between. */
static void expect_sync_between(struct write_case *write_case, size_t earlier, size_t later)
{
    ck_assert_uint_lt(earlier, memory_log_count(write_case->log));
    ck_assert_uint_lt(earlier, later);
    ck_assert_uint_lt(memory_log_find(write_case->log, earlier, MEMORY_LOG_SYNC, 0, 0), later);
}

static size_t find_write(struct write_case *write_case, size_t from, uint64_t offset,
                         uint64_t length)
{
    return memory_log_find(write_case->log, from, MEMORY_LOG_WRITE, offset, length);
}

/* --- Order ---------------------------------------------------------------------------------- */

START_TEST(data_then_entries_then_l1_entries_with_a_sync_between_each)
{
    struct write_case write_case;
    const struct header *header;
    size_t data, slice, l1, end;
    uint64_t host_offset, table;
    uint8_t entry[8];

    open_empty(&write_case);
    header = write_case.image.header;
    host_offset = write_cluster(&write_case, 7 * CLUSTER);
    flush(&write_case);
    end = memory_log_count(write_case.log);
    ck_assert_uint_eq(on_disk(write_case.file, header, 7 * CLUSTER), host_offset);
    ck_assert_int_eq(store_read(write_case.file, header->l1_offset, entry, sizeof(entry)), 0);
    ck_assert((load_be64(entry) & ENTRY_COPIED) != 0);
    table = load_be64(entry) & ENTRY_HOST_OFFSET_MASK;

    data = find_write(&write_case, 0, host_offset, CLUSTER);
    slice = find_write(&write_case, 0, table, CLUSTER);
    l1 = find_write(&write_case, 0, header->l1_offset, 8);
    ck_assert_uint_eq(memory_log_at(write_case.log, slice)->length, 512);
    expect_sync_between(&write_case, data, slice); /* R1, and R2: the counts came before */
    expect_sync_between(&write_case, slice, l1);   /* R3 */
    expect_sync_between(&write_case, l1, end);     /* R7 */
    write_case_close(&write_case);
}
END_TEST

START_TEST(in_steady_state_a_flush_is_one_sync)
{
    struct write_case write_case;
    struct allocation new;
    unsigned syncs;

    open_empty(&write_case);
    (void)write_cluster(&write_case, 0);
    flush(&write_case);
    for (uint64_t i = 1; i < 20; i++) {
        ck_assert_int_eq(allocator_take(write_case.allocator, 1, &new), 0);
        ck_assert(new.fresh);
        map(&write_case, i * CLUSTER, new.host_offset, new.epoch); /* R1: exempt */
        syncs = memory_store_calls(write_case.file, MEMORY_STORE_SYNC);
        flush(&write_case);
        ck_assert_uint_eq(memory_store_calls(write_case.file, MEMORY_STORE_SYNC), syncs + 1);
    }
    write_case_close(&write_case);
}
END_TEST

START_TEST(changes_during_a_commit_belong_to_the_next)
{
    struct write_case write_case;
    pthread_t thread;
    uint64_t first, second;
    void *result;

    open_empty(&write_case);
    (void)write_cluster(&write_case, 0);
    flush(&write_case);
    first = write_cluster(&write_case, CLUSTER);
    memory_store_block_syncs(write_case.file);
    pthread_create(&thread, NULL, flush_it, write_case.commit);
    memory_store_wait_syncs(write_case.file, 1); /* the slices are taken */
    second = write_cluster(&write_case, 2 * CLUSTER);
    memory_store_release_syncs(write_case.file);
    pthread_join(thread, &result);
    ck_assert_int_eq((int)(intptr_t)result, 0);
    ck_assert_uint_eq(on_disk(write_case.file, write_case.image.header, CLUSTER), first);
    ck_assert_uint_eq(on_disk(write_case.file, write_case.image.header, 2 * CLUSTER), 0);
    flush(&write_case);
    ck_assert_uint_eq(on_disk(write_case.file, write_case.image.header, 2 * CLUSTER), second);
    write_case_close(&write_case);
}
END_TEST

/* --- Failures --------------------------------------------------------------------------------- */

START_TEST(after_a_failed_write_all_is_still_there_for_the_next_commit)
{
    unsigned failed = 0;

    for (unsigned n = 1; n < 100; n++) {
        struct write_case write_case;
        uint64_t host_offsets[3]; /* in different L2 tables */
        int result;

        open_empty(&write_case);
        for (uint64_t i = 0; i < 3; i++) {
            host_offsets[i] = write_cluster(&write_case, i * 64 * CLUSTER);
        }
        memory_store_fail(write_case.file, MEMORY_STORE_WRITE, n, ENOSPC);
        result = commit_flush(write_case.commit);
        failed += result != 0;
        ck_assert(result == 0 || result == -ENOSPC);
        flush(&write_case);
        for (uint64_t i = 0; i < 3; i++) {
            ck_assert_uint_eq(on_disk(write_case.file, write_case.image.header, i * 64 * CLUSTER),
                              host_offsets[i]);
        }
        write_case_close(&write_case);
        if (result == 0) {
            break;
        }
    }
    ck_assert_uint_eq(failed, 6); /* three slices, three L1 entries */
}
END_TEST

START_TEST(after_a_failed_sync_no_flush_succeeds)
{
    for (unsigned n = 1; n <= 3; n++) {
        struct write_case write_case;

        open_empty(&write_case);
        (void)write_cluster(&write_case, 0);
        memory_store_fail(write_case.file, MEMORY_STORE_SYNC, n, EIO);
        ck_assert_int_eq(commit_flush(write_case.commit), -EIO);
        ck_assert_int_eq(commit_flush(write_case.commit), -EIO);
        write_case_close(&write_case);
    }
}
END_TEST

START_TEST(a_commit_that_failed_frees_nothing)
{
    struct write_case write_case;
    uint64_t old;

    open_empty(&write_case);
    old = write_cluster(&write_case, 0);
    flush(&write_case);
    unmap_cluster(&write_case, 0, old);
    memory_store_fail(write_case.file, MEMORY_STORE_WRITE, 1, EIO);
    ck_assert_int_eq(commit_flush(write_case.commit), -EIO);
    ck_assert_int_eq(commit_reap(write_case.commit), 0);
    ck_assert_uint_eq(write_case_counted(&write_case, old), 1);
    flush(&write_case);
    ck_assert_uint_eq(write_case_counted(&write_case, old), 0);
    write_case_close(&write_case);
}
END_TEST

/* --- Group commit --------------------------------------------------------------------------------
 */

#define THREADS 8

/* A moment in which other threads come to where they wait. Nothing is wrong when they do not. */
static void let_others_run(void)
{
    usleep(5000);
}

/* How many commits it takes when THREADS flush during one. */
static unsigned flush_together(void)
{
    struct write_case write_case;
    pthread_t first, threads[THREADS];
    unsigned commits;
    void *result;

    open_empty(&write_case);
    memory_store_block_syncs(write_case.file);
    pthread_create(&first, NULL, flush_it, write_case.commit);
    memory_store_wait_syncs(write_case.file, 1);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, flush_it, write_case.commit);
    }
    let_others_run();
    memory_store_release_syncs(write_case.file);
    pthread_join(first, &result);
    ck_assert_ptr_null(result);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], &result);
        ck_assert_ptr_null(result);
    }
    commits = (unsigned)atomic_load(&write_case.next_commit) - 1;
    write_case_close(&write_case);
    return commits;
}

START_TEST(all_who_flush_while_a_commit_runs_share_the_next)
{
    unsigned tries = 0;

    /* A thread that is late begins one more; that some always are, is no group. */
    while (flush_together() != 2) {
        ck_assert_uint_lt(++tries, 50);
    }
}
END_TEST

START_TEST(a_flush_during_a_commit_covers_what_that_commit_does_not)
{
    struct write_case write_case;
    pthread_t first, second;
    uint64_t host_offset;
    void *result;

    open_empty(&write_case);
    (void)write_cluster(&write_case, 0);
    memory_store_block_syncs(write_case.file);
    pthread_create(&first, NULL, flush_it, write_case.commit);
    memory_store_wait_syncs(write_case.file, 1);
    host_offset = write_cluster(&write_case, CLUSTER);
    pthread_create(&second, NULL, flush_it, write_case.commit);
    let_others_run();
    memory_store_release_syncs(write_case.file);
    pthread_join(second, &result);
    ck_assert_ptr_null(result);
    ck_assert_uint_eq(on_disk(write_case.file, write_case.image.header, CLUSTER), host_offset);
    pthread_join(first, &result);
    write_case_close(&write_case);
}
END_TEST

struct flusher {
    struct write_case *write_case;
    uint64_t number;
};

static void *write_and_flush(void *context)
{
    const struct flusher *flusher = context;
    struct write_case *write_case = flusher->write_case;

    for (uint64_t i = 0; i < 40; i++) {
        uint64_t guest_offset = (i * THREADS + flusher->number) * CLUSTER;
        unsigned generation = inflight_enter(&write_case->inflight);
        uint64_t host_offset = write_cluster(write_case, guest_offset);

        inflight_leave(&write_case->inflight, generation);
        ck_assert_int_eq(commit_flush(write_case->commit), 0);
        ck_assert_uint_eq(on_disk(write_case->file, write_case->image.header, guest_offset),
                          host_offset);
        if (i % 3 == 0) {
            generation = inflight_enter(&write_case->inflight);
            unmap_cluster(write_case, guest_offset, host_offset);
            inflight_leave(&write_case->inflight, generation);
        }
    }
    return NULL;
}

START_TEST(each_of_many_threads_finds_on_the_disk_what_it_has_flushed)
{
    struct write_case write_case;
    struct flusher flushers[THREADS];
    pthread_t threads[THREADS];

    open_empty(&write_case);
    for (unsigned i = 0; i < THREADS; i++) {
        flushers[i] = (struct flusher){&write_case, i};
        pthread_create(&threads[i], NULL, write_and_flush, &flushers[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    flush(&write_case);
    ck_assert_int_eq(commit_reap(write_case.commit), 0);
    ck_assert_int_eq(allocator_close(write_case.allocator), 0);
    flush(&write_case);
    write_case_close(&write_case);
}
END_TEST

/* --- R4
 * -------------------------------------------------------------------------------------------- */

START_TEST(a_request_under_way_keeps_what_was_dropped_from_being_freed)
{
    struct write_case write_case;
    unsigned early, late;
    uint64_t old;

    open_empty(&write_case);
    old = write_cluster(&write_case, 0);
    flush(&write_case);
    early = inflight_enter(&write_case.inflight);
    unmap_cluster(&write_case, 0, old);
    flush(&write_case);
    flush(&write_case);
    late = inflight_enter(&write_case.inflight);
    ck_assert_int_eq(commit_reap(write_case.commit), 0);
    ck_assert_uint_eq(write_case_counted(&write_case, old), 1);
    inflight_leave(&write_case.inflight, early);
    ck_assert_int_eq(commit_reap(write_case.commit), 0); /* `late` never saw it */
    ck_assert_uint_eq(write_case_counted(&write_case, old), 0);
    inflight_leave(&write_case.inflight, late);
    write_case_close(&write_case);
}
END_TEST

START_TEST(what_is_dropped_is_not_freed_before_a_commit_has_said_so_to_the_disk)
{
    struct write_case write_case;
    uint64_t old;

    open_empty(&write_case);
    old = write_cluster(&write_case, 0);
    flush(&write_case);
    unmap_cluster(&write_case, 0, old);
    ck_assert_int_eq(commit_reap(write_case.commit), 0);
    ck_assert_uint_eq(write_case_counted(&write_case, old), 1);
    flush(&write_case);
    ck_assert_uint_eq(write_case_counted(&write_case, old), 0);
    ck_assert_uint_eq(on_disk(write_case.file, write_case.image.header, 0), 0);
    write_case_close(&write_case);
}
END_TEST

START_TEST(what_is_dropped_during_a_commit_waits_for_the_next)
{
    struct write_case write_case;
    pthread_t thread;
    uint64_t old;
    void *result;

    open_empty(&write_case);
    old = write_cluster(&write_case, 0);
    flush(&write_case);
    memory_store_block_syncs(write_case.file);
    pthread_create(&thread, NULL, flush_it, write_case.commit);
    memory_store_wait_syncs(write_case.file, 1);
    unmap_cluster(&write_case, 0, old);
    memory_store_release_syncs(write_case.file);
    pthread_join(thread, &result);
    ck_assert_ptr_null(result);
    ck_assert_int_eq(commit_reap(write_case.commit), 0);
    ck_assert_uint_eq(on_disk(write_case.file, write_case.image.header, 0), old);
    ck_assert_uint_eq(write_case_counted(&write_case, old), 1);
    flush(&write_case);
    ck_assert_uint_eq(write_case_counted(&write_case, old), 0);
    write_case_close(&write_case);
}
END_TEST

/* --- inflight.h, range_lock.h
 * ------------------------------------------------------------------------ */

START_TEST(only_requests_from_before_the_flip_are_waited_for)
{
    struct inflight inflight = {0};
    unsigned before = inflight_enter(&inflight), after;

    inflight_flip(&inflight);
    ck_assert(!inflight_drained(&inflight));
    after = inflight_enter(&inflight);
    ck_assert_uint_ne(before % 2, after % 2);
    inflight_leave(&inflight, before);
    ck_assert(inflight_drained(&inflight));
    inflight_flip(&inflight);
    ck_assert(!inflight_drained(&inflight));
    inflight_leave(&inflight, after);
    ck_assert(inflight_drained(&inflight));
}
END_TEST

/* A cluster that all requests look up, and that is handed out again once they have ended. */
struct reused {
    struct inflight inflight;
    atomic_uint current;
    unsigned owners[2]; /* of the clusters: plain, so that ThreadSanitizer sees a race */
    atomic_bool stop;
};

static void *look_up(void *context)
{
    struct reused *reused = context;

    while (!atomic_load(&reused->stop)) {
        unsigned generation = inflight_enter(&reused->inflight);
        unsigned current = atomic_load(&reused->current);

        ck_assert_uint_eq(reused->owners[current % 2], current);
        /* The flip after the next would need ours to have drained. */
        ck_assert_uint_le(atomic_load(&reused->inflight.generation) - generation, 1);
        inflight_leave(&reused->inflight, generation);
    }
    return NULL;
}

START_TEST(no_request_is_on_its_way_to_a_cluster_that_was_drained)
{
    struct reused reused = {.owners = {0, 1}};
    pthread_t threads[3];

    for (unsigned i = 0; i < 3; i++) {
        pthread_create(&threads[i], NULL, look_up, &reused);
    }
    for (unsigned i = 1; i < 1000; i++) {
        atomic_store(&reused.current, i);
        inflight_flip(&reused.inflight);
        while (!inflight_drained(&reused.inflight)) {
            sched_yield();
        }
        reused.owners[(i + 1) % 2] = i + 1;
    }
    atomic_store(&reused.stop, true);
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
}
END_TEST

#define NUMBERS 16

struct locked {
    struct range_locks locks;
    unsigned holders[NUMBERS]; /* plain as well */
    atomic_uint next;
};

static void *lock_ranges(void *context)
{
    struct locked *locked = context;
    unsigned seed = atomic_fetch_add(&locked->next, 1);

    for (unsigned i = 0; i < 2000; i++) {
        uint64_t first = (uint64_t)rand_r(&seed) % NUMBERS;
        struct range_lock lock = {
            .first = first,
            .last = first + (uint64_t)rand_r(&seed) % (NUMBERS - first),
        };

        range_lock_take(&locked->locks, &lock);
        for (uint64_t n = lock.first; n <= lock.last; n++) {
            ck_assert_uint_eq(locked->holders[n]++, 0);
        }
        for (uint64_t n = lock.first; n <= lock.last; n++) {
            ck_assert_uint_eq(--locked->holders[n], 0);
        }
        range_lock_release(&locked->locks, &lock);
    }
    return NULL;
}

START_TEST(a_number_has_one_holder_at_a_time)
{
    struct locked locked = {0};
    pthread_t threads[4];

    range_locks_init(&locked.locks);
    for (unsigned i = 0; i < 4; i++) {
        pthread_create(&threads[i], NULL, lock_ranges, &locked);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    range_locks_destroy(&locked.locks);
}
END_TEST

struct taking {
    struct range_locks *locks;
    struct range_lock lock;
    atomic_bool has_it;
    pthread_t thread;
};

static void *take_and_release(void *context)
{
    struct taking *taking = context;

    range_lock_take(taking->locks, &taking->lock);
    atomic_store(&taking->has_it, true);
    range_lock_release(taking->locks, &taking->lock);
    return NULL;
}

START_TEST(who_waits_for_all_numbers_gets_them_before_who_comes_later)
{
    struct range_lock held = {.first = 3, .last = 3};
    struct range_locks locks;
    struct taking all = {.locks = &locks, .lock = {.first = 0, .last = UINT64_MAX}};
    struct taking later = {.locks = &locks, .lock = {.first = 7, .last = 7}};

    range_locks_init(&locks);
    range_lock_take(&locks, &held);
    pthread_create(&all.thread, NULL, take_and_release, &all);
    while (!range_locks_waited_for(&locks)) {
        sched_yield();
    }
    /* Nobody holds 7, but it has been asked for: else one could come after the other for ever. */
    ck_assert(range_locks_must_wait(&locks, &later.lock));
    pthread_create(&later.thread, NULL, take_and_release, &later);
    range_lock_release(&locks, &held);
    pthread_join(all.thread, NULL);
    pthread_join(later.thread, NULL);
    ck_assert(atomic_load(&all.has_it) && atomic_load(&later.has_it));
    range_locks_destroy(&locks);
}
END_TEST

START_TEST(ranges_that_share_nothing_are_held_at_once)
{
    struct range_lock low = {.first = 0, .last = 4}, high = {.first = 5, .last = UINT64_MAX};
    struct range_locks locks;

    range_locks_init(&locks);
    range_lock_take(&locks, &low);
    range_lock_take(&locks, &high); /* hangs when it waits */
    range_lock_release(&locks, &low);
    range_lock_take(&locks, &low);
    range_lock_release(&locks, &high);
    range_lock_release(&locks, &low);
    range_locks_destroy(&locks);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("commit");
    TCase *tcase = tcase_create("commit");

    tcase_add_test(tcase, data_then_entries_then_l1_entries_with_a_sync_between_each);
    tcase_add_test(tcase, in_steady_state_a_flush_is_one_sync);
    tcase_add_test(tcase, changes_during_a_commit_belong_to_the_next);
    tcase_add_test(tcase, after_a_failed_write_all_is_still_there_for_the_next_commit);
    tcase_add_test(tcase, after_a_failed_sync_no_flush_succeeds);
    tcase_add_test(tcase, a_commit_that_failed_frees_nothing);
    tcase_add_test(tcase, all_who_flush_while_a_commit_runs_share_the_next);
    tcase_add_test(tcase, a_flush_during_a_commit_covers_what_that_commit_does_not);
    tcase_add_test(tcase, each_of_many_threads_finds_on_the_disk_what_it_has_flushed);
    tcase_add_test(tcase, a_request_under_way_keeps_what_was_dropped_from_being_freed);
    tcase_add_test(tcase, what_is_dropped_is_not_freed_before_a_commit_has_said_so_to_the_disk);
    tcase_add_test(tcase, what_is_dropped_during_a_commit_waits_for_the_next);
    tcase_add_test(tcase, only_requests_from_before_the_flip_are_waited_for);
    tcase_add_test(tcase, no_request_is_on_its_way_to_a_cluster_that_was_drained);
    tcase_add_test(tcase, a_number_has_one_holder_at_a_time);
    tcase_add_test(tcase, ranges_that_share_nothing_are_held_at_once);
    tcase_add_test(tcase, who_waits_for_all_numbers_gets_them_before_who_comes_later);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
