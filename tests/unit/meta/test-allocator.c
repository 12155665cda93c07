/* SPDX-License-Identifier: MIT */
/* Handing out host clusters and taking them back: R2 and R4, also when the host fails. */
#include "config.h"

#include "suite.h"
#include "util/checked.h"
#include "write_case.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CLUSTER UINT64_C(512)

/* Clusters that were handed out, and that nobody has given back. */
struct owned {
    uint64_t first, length; /* cluster numbers */
    uint64_t epoch;
    size_t stable; /* entries of the log when the epoch was; 0: it is not yet */
};

#define OWNED_MAX 400

struct owner {
    struct write_case write_case;
    struct owned owned[OWNED_MAX];
    unsigned count;
    uint64_t commit; /* of what is dropped */
    unsigned seed;
};

static void owner_open(struct owner *owner, bool discard)
{
    struct builder_options options = write_case_options();

    memset(owner, 0, sizeof(*owner));
    owner->commit = 1;
    write_case_open(&owner->write_case, builder_create(&options), discard);
}

static void owner_close(struct owner *owner)
{
    write_case_close(&owner->write_case);
}

static struct allocator *allocator_of(struct owner *owner)
{
    return owner->write_case.allocator;
}

static int take(struct owner *owner, uint64_t want, bool exactly, struct allocation *taken)
{
    int result = exactly ? allocator_take_exactly(allocator_of(owner), want, taken)
                         : allocator_take(allocator_of(owner), want, taken);
    struct owned new;

    if (result < 0) {
        return result;
    }
    new = (struct owned){
        .first = taken->host_offset / CLUSTER,
        .length = taken->clusters,
        .epoch = taken->epoch,
    };
    if (barrier_is_stable(owner->write_case.barrier, new.epoch)) {
        new.stable = max_u64(memory_log_count(owner->write_case.log), 1);
    }
    ck_assert_uint_eq(taken->host_offset % CLUSTER, 0);
    ck_assert_uint_ge(new.length, 1);
    ck_assert_uint_le(new.length, want);
    ck_assert(!exactly || new.length == want);
    for (unsigned i = 0; i < owner->count; i++) {
        ck_assert_msg(
            !ranges_overlap(owner->owned[i].first, owner->owned[i].length, new.first, new.length),
            "cluster %llu was handed out twice", (unsigned long long)new.first);
    }
    ck_assert_uint_lt(owner->count, OWNED_MAX);
    owner->owned[owner->count++] = new;
    return 0;
}

static struct allocation taken(struct owner *owner, uint64_t want)
{
    struct allocation allocation;

    ck_assert_int_eq(take(owner, want, false, &allocation), 0);
    return allocation;
}

/* A sync that somebody wanted. */
static int sync_all(struct owner *owner)
{
    struct barrier *barrier = owner->write_case.barrier;
    int result = barrier_wait(barrier, barrier_epoch(barrier));

    for (unsigned i = 0; i < owner->count && result == 0; i++) {
        if (owner->owned[i].stable == 0) {
            owner->owned[i].stable = memory_log_count(owner->write_case.log);
        }
    }
    return result;
}

static uint64_t file_clusters(struct owner *owner)
{
    return memory_store_size(owner->write_case.file) / CLUSTER;
}

/* --- Taking ------------------------------------------------------------------------------------
 */

START_TEST(clusters_come_in_runs_whose_counts_are_written_together)
{
    struct owner owner;
    struct allocation first, next;
    unsigned writes;

    owner_open(&owner, false);
    first = taken(&owner, 1);
    ck_assert(first.fresh);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, first.host_offset), 1);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, first.host_offset + CLUSTER), 1);
    writes = memory_store_calls(owner.write_case.file, MEMORY_STORE_WRITE);
    for (unsigned i = 1; i < 100; i++) {
        next = taken(&owner, 1);
        ck_assert_uint_eq(next.host_offset, first.host_offset + i * CLUSTER);
        ck_assert_uint_eq(next.epoch, first.epoch);
    }
    ck_assert_uint_eq(memory_store_calls(owner.write_case.file, MEMORY_STORE_WRITE), writes);
    ck_assert_uint_ge(file_clusters(&owner), next.host_offset / CLUSTER + 1);
    owner_close(&owner);
}
END_TEST

START_TEST(the_next_run_is_reserved_before_this_one_is_used_up)
{
    struct owner owner;
    struct allocation allocation;
    unsigned unstable = 0;

    owner_open(&owner, false);
    (void)taken(&owner, 1);
    ck_assert_int_eq(sync_all(&owner), 0);
    for (unsigned i = 0; i < 300; i++) { /* some of the runs that there are end meanwhile */
        allocation = taken(&owner, 64);
        unstable += !barrier_is_stable(owner.write_case.barrier, allocation.epoch);
        ck_assert_int_eq(sync_all(&owner), 0);
    }
    ck_assert_uint_eq(unstable, 0);
    owner_close(&owner);
}
END_TEST

START_TEST(runs_become_longer_also_for_who_takes_them_whole)
{
    struct owner owner;
    struct allocation run;
    uint64_t before = 0;

    owner_open(&owner, false);
    for (unsigned i = 0; i < 5; i++) {
        run = taken(&owner, UINT32_MAX);
        ck_assert_uint_gt(run.clusters, before);
        before = run.clusters;
    }
    owner_close(&owner);
}
END_TEST

START_TEST(what_was_only_reserved_is_given_back_without_a_punch)
{
    struct owner owner;
    struct allocation used;
    unsigned punches;

    owner_open(&owner, true);
    used = taken(&owner, 1);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, used.host_offset + CLUSTER), 1);
    punches = memory_store_calls(owner.write_case.file, MEMORY_STORE_PUNCH);
    ck_assert_int_eq(allocator_close(owner.write_case.allocator), 0);
    ck_assert_int_eq(allocator_write_back(owner.write_case.allocator), 0);
    ck_assert_uint_eq(memory_store_calls(owner.write_case.file, MEMORY_STORE_PUNCH), punches);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, used.host_offset), 1);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, used.host_offset + CLUSTER), 0);
    owner_close(&owner);
}
END_TEST

START_TEST(fresh_clusters_read_as_zeros_and_lie_in_the_file)
{
    struct owner owner;
    uint8_t bytes[CLUSTER], zeros[CLUSTER] = {0};

    owner_open(&owner, false);
    for (unsigned i = 0; i < 200; i++) {
        struct allocation one;

        ck_assert_int_eq(take(&owner, i % 5 + 1, i % 3 == 0, &one), 0);
        ck_assert_uint_le(one.host_offset + one.clusters * CLUSTER,
                          memory_store_size(owner.write_case.file));
        for (uint64_t k = 0; one.fresh && k < one.clusters; k++) {
            ck_assert_int_eq(
                store_read(owner.write_case.file, one.host_offset + k * CLUSTER, bytes, CLUSTER),
                0);
            ck_assert_int_eq(memcmp(bytes, zeros, CLUSTER), 0);
            memset(bytes, 1, CLUSTER);
            ck_assert_int_eq(
                store_write(owner.write_case.file, one.host_offset + k * CLUSTER, bytes, CLUSTER),
                0);
        }
        if (i % 4 == 0) {
            allocator_return(allocator_of(&owner), one.host_offset, one.clusters);
            owner.count--;
        }
    }
    owner_close(&owner);
}
END_TEST

/* Opens the image once more, as it is, so that runs are looked for from its beginning. */
static void reopen(struct owner *owner)
{
    struct builder_options options = write_case_options();
    struct builder *builder = builder_create(&options);
    uint64_t holes = builder_allocate(builder, 6);

    owner_close(owner);
    memset(owner, 0, sizeof(*owner));
    write_case_open(&owner->write_case, builder, false);
    owner->commit = 1;
    owner->seed = (unsigned)(holes / CLUSTER);
}

START_TEST(holes_are_found_and_used_before_the_file_grows)
{
    struct owner owner;
    struct allocation allocation;
    uint64_t first, size;

    owner_open(&owner, false);
    reopen(&owner);
    first = owner.seed;
    /* A hole of two clusters and one of one: free on the disk before anything is asked for. */
    ck_assert_int_eq(refcounts_add(owner.write_case.refcounts, first + 1, 2, -1), 0);
    ck_assert_int_eq(refcounts_add(owner.write_case.refcounts, first + 4, 1, -1), 0);
    size = memory_store_size(owner.write_case.file);
    allocation = taken(&owner, 8);
    ck_assert_uint_eq(allocation.host_offset, (first + 1) * CLUSTER);
    ck_assert_uint_eq(allocation.clusters, 2);
    ck_assert(!allocation.fresh);
    ck_assert_uint_eq(memory_store_size(owner.write_case.file), size);
    allocation = taken(&owner, 8);
    ck_assert_uint_eq(allocation.host_offset, (first + 4) * CLUSTER);
    ck_assert_uint_eq(allocation.clusters, 1);
    ck_assert(!allocation.fresh);
    allocation = taken(&owner, 8);
    ck_assert(allocation.fresh);
    ck_assert_uint_ge(allocation.host_offset, size);
    owner_close(&owner);
}
END_TEST

/* --- Giving back ---------------------------------------------------------------------------------
 */

START_TEST(what_was_dropped_waits_for_its_commit)
{
    struct owner owner;
    struct allocation a, b;

    owner_open(&owner, false);
    a = taken(&owner, 1);
    b = taken(&owner, 1);
    ck_assert_int_eq(allocator_drop(allocator_of(&owner), a.host_offset, 1, 5), 0);
    ck_assert_int_eq(allocator_drop(allocator_of(&owner), b.host_offset, 1, 6), 0);
    ck_assert_int_eq(allocator_dropped(allocator_of(&owner), 4), 0);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, a.host_offset), 1);
    ck_assert_int_eq(allocator_dropped(allocator_of(&owner), 5), 0);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, a.host_offset), 0);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, b.host_offset), 1);
    ck_assert_int_eq(allocator_dropped(allocator_of(&owner), 7), 0);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, b.host_offset), 0);
    owner_close(&owner);
}
END_TEST

START_TEST(only_the_last_reference_frees_a_cluster_and_its_host_space)
{
    struct owner owner;
    struct allocation a;
    unsigned punches;

    owner_open(&owner, true);
    a = taken(&owner, 1);
    ck_assert_int_eq(refcounts_add(owner.write_case.refcounts, a.host_offset / CLUSTER, 1, 1), 0);
    punches = memory_store_calls(owner.write_case.file, MEMORY_STORE_PUNCH);
    ck_assert_int_eq(allocator_drop(allocator_of(&owner), a.host_offset, 1, 1), 0);
    ck_assert_int_eq(allocator_dropped(allocator_of(&owner), 1), 0);
    ck_assert_uint_eq(memory_store_calls(owner.write_case.file, MEMORY_STORE_PUNCH), punches);
    ck_assert_int_eq(allocator_drop(allocator_of(&owner), a.host_offset, 1, 2), 0);
    ck_assert_int_eq(allocator_dropped(allocator_of(&owner), 2), 0);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, a.host_offset), 0);
    ck_assert_uint_lt(
        memory_log_find(owner.write_case.log, 0, MEMORY_LOG_PUNCH, a.host_offset, CLUSTER),
        memory_log_count(owner.write_case.log));
    owner_close(&owner);
}
END_TEST

static void *tell_of_commit(void *context)
{
    ck_assert_int_eq(allocator_dropped(context, 1), 0);
    return NULL;
}

/* R4: nor are they handed out before they are punched, which would take what is written there. */
START_TEST(neighbours_are_punched_at_once_and_nobody_waits_for_that)
{
    struct owner owner;
    struct allocation a, next;
    uint64_t first, length = 0;
    unsigned punches;
    pthread_t thread;

    owner_open(&owner, true);
    a = taken(&owner, 30);
    first = a.host_offset / CLUSTER;
    for (uint64_t i = 0; i < 30; i += 3) { /* not in order, and not at once */
        ck_assert_int_eq(
            allocator_drop(allocator_of(&owner), (first + (i + 15) % 30) * CLUSTER, 3, i % 2), 0);
    }
    punches = memory_store_calls(owner.write_case.file, MEMORY_STORE_PUNCH);
    memory_store_block_punches(owner.write_case.file);
    ck_assert_int_eq(pthread_create(&thread, NULL, tell_of_commit, allocator_of(&owner)), 0);
    memory_store_wait_punch(owner.write_case.file);
    while (length < 5000) {
        next = taken(&owner, 64);
        length += next.clusters;
        ck_assert(next.host_offset >= (first + 30) * CLUSTER ||
                  next.host_offset + next.clusters * CLUSTER <= a.host_offset);
    }
    memory_store_release_punches(owner.write_case.file);
    pthread_join(thread, NULL);
    ck_assert_uint_eq(memory_store_calls(owner.write_case.file, MEMORY_STORE_PUNCH), punches + 1);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, a.host_offset), 0);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, a.host_offset + 29 * CLUSTER), 0);
    owner_close(&owner);
}
END_TEST

START_TEST(what_was_given_back_is_handed_out_again_before_the_file_grows)
{
    struct owner owner;
    struct allocation back, next;
    uint64_t clusters = 0;

    owner_open(&owner, false);
    back = taken(&owner, 50);
    owner.count = 0;
    allocator_return(allocator_of(&owner), back.host_offset, back.clusters);
    do {
        next = taken(&owner, 100);
        clusters += next.clusters;
        ck_assert_uint_lt(clusters, 3 * 2048); /* what was reserved comes first */
    } while (next.fresh);
    ck_assert_uint_eq(next.host_offset, back.host_offset);
    ck_assert_uint_eq(next.clusters, back.clusters);
    owner_close(&owner);
}
END_TEST

START_TEST(closing_gives_all_of_the_reserve_back_and_cuts_the_file)
{
    struct owner owner;
    struct allocation kept, returned;
    uint64_t counted = 0, clusters;

    owner_open(&owner, false);
    kept = taken(&owner, 3);
    for (unsigned i = 0; i < 3; i++) { /* the next run is reserved meanwhile */
        returned = taken(&owner, 600);
        allocator_return(allocator_of(&owner), returned.host_offset, returned.clusters);
    }
    ck_assert_int_eq(allocator_close(allocator_of(&owner)), 0);
    ck_assert_int_eq(allocator_write_back(allocator_of(&owner)), 0);
    clusters = file_clusters(&owner);
    for (uint64_t i = 0; i < clusters; i++) {
        counted += write_case_count(owner.write_case.file, owner.write_case.image.header, i) > 0;
        /* What is counted in the file is what the image had, tables, and what was kept. */
        if (i >= kept.host_offset / CLUSTER + kept.clusters &&
            i < kept.host_offset / CLUSTER + 2048) {
            ck_assert_uint_eq(
                write_case_count(owner.write_case.file, owner.write_case.image.header, i), 0);
        }
    }
    ck_assert_uint_gt(
        write_case_count(owner.write_case.file, owner.write_case.image.header, clusters - 1), 0);
    ck_assert_uint_lt(counted, 100);
    owner_close(&owner);
}
END_TEST

/* The last clusters of the file have the count 0, as in a copy that was made of a running machine.
 */
START_TEST(closing_cuts_nothing_that_the_file_had_when_it_was_opened)
{
    struct builder_options options = write_case_options();
    struct builder *builder = builder_create(&options);
    struct write_case subject;
    struct allocation taken;
    uint64_t before;

    for (unsigned i = 0; i < 40; i++) {
        builder_allocate(builder, 1);
    }
    write_case_open(&subject, builder, false);
    before = memory_store_size(subject.file);
    for (uint64_t cluster = before / CLUSTER - 30; cluster < before / CLUSTER; cluster++) {
        ck_assert_int_eq(refcounts_add(subject.refcounts, cluster, 1, -1), 0);
    }
    if (_i == 0) { /* only reserved */
        ck_assert_int_eq(allocator_take_exactly(subject.allocator, 100, &taken), 0);
        allocator_return(subject.allocator, taken.host_offset, taken.clusters);
    } else { /* only freed */
        ck_assert_int_eq(allocator_drop(subject.allocator, before - 31 * CLUSTER, 1, 1), 0);
        ck_assert_int_eq(allocator_dropped(subject.allocator, 1), 0);
    }
    ck_assert_int_eq(allocator_close(subject.allocator), 0);
    ck_assert_uint_eq(memory_store_size(subject.file), before);
    write_case_close(&subject);
}
END_TEST

START_TEST(what_is_stopped_frees_and_cuts_nothing)
{
    struct owner owner;
    struct allocation allocation;
    uint64_t size;

    owner_open(&owner, true);
    allocation = taken(&owner, 3);
    ck_assert_int_eq(
        allocator_drop(allocator_of(&owner), allocation.host_offset, allocation.clusters, 1), 0);
    size = memory_store_size(owner.write_case.file);
    allocator_stop(allocator_of(&owner));
    ck_assert_int_eq(allocator_dropped(allocator_of(&owner), 1), 0);
    allocator_return(allocator_of(&owner), allocation.host_offset, 1);
    ck_assert_int_eq(allocator_close(allocator_of(&owner)), 0);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, allocation.host_offset), 1);
    ck_assert_uint_eq(memory_store_calls(owner.write_case.file, MEMORY_STORE_PUNCH), 0);
    ck_assert_uint_eq(memory_store_size(owner.write_case.file), size);
    owner_close(&owner);
}
END_TEST

START_TEST(closing_what_was_never_used_leaves_the_file_alone)
{
    struct owner owner;

    owner_open(&owner, false);
    ck_assert_int_eq(allocator_close(allocator_of(&owner)), 0);
    ck_assert_uint_eq(memory_log_count(owner.write_case.log), 0);
    owner_close(&owner);
}
END_TEST

/* --- Random use
 * ------------------------------------------------------------------------------------- */

/* Gives one of the owned ranges back, in one of the two ways. */
static int give_back(struct owner *owner)
{
    unsigned which = (unsigned)rand_r(&owner->seed) % owner->count;
    struct owned range = owner->owned[which];

    owner->owned[which] = owner->owned[--owner->count];
    if (rand_r(&owner->seed) % 2 == 0) {
        allocator_return(allocator_of(owner), range.first * CLUSTER, range.length);
        return 0;
    }
    return allocator_drop(allocator_of(owner), range.first * CLUSTER, range.length, owner->commit);
}

static int random_step(struct owner *owner)
{
    unsigned what = (unsigned)rand_r(&owner->seed) % 16;
    uint64_t want = (uint64_t)rand_r(&owner->seed) % 200 + 1;
    struct allocation allocation;

    if (what < 8) {
        return take(owner, want, what < 2, &allocation);
    }
    if (what < 11) {
        return owner->count > 0 ? give_back(owner) : 0;
    }
    if (what < 13) {
        return allocator_dropped(allocator_of(owner), owner->commit++);
    }
    return what < 15 ? sync_all(owner) : allocator_write_back(allocator_of(owner));
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
    if (sync_all(&owner) == 0) {
        check_crashes(&owner, memory_log_count(owner.write_case.log));
        ck_assert_int_eq(allocator_close(allocator_of(&owner)), 0);
        expect_owned_is_counted(&owner);
        ck_assert_int_eq(allocator_write_back(allocator_of(&owner)), 0);
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

int main(void)
{
    Suite *suite = suite_create("allocator");
    TCase *tcase = tcase_create("allocator");

    tcase_add_test(tcase, clusters_come_in_runs_whose_counts_are_written_together);
    tcase_add_test(tcase, the_next_run_is_reserved_before_this_one_is_used_up);
    tcase_add_test(tcase, runs_become_longer_also_for_who_takes_them_whole);
    tcase_add_test(tcase, what_was_only_reserved_is_given_back_without_a_punch);
    tcase_add_test(tcase, fresh_clusters_read_as_zeros_and_lie_in_the_file);
    tcase_add_test(tcase, holes_are_found_and_used_before_the_file_grows);
    tcase_add_test(tcase, what_was_dropped_waits_for_its_commit);
    tcase_add_test(tcase, only_the_last_reference_frees_a_cluster_and_its_host_space);
    tcase_add_test(tcase, neighbours_are_punched_at_once_and_nobody_waits_for_that);
    tcase_add_test(tcase, what_was_given_back_is_handed_out_again_before_the_file_grows);
    tcase_add_test(tcase, closing_gives_all_of_the_reserve_back_and_cuts_the_file);
    tcase_add_loop_test(tcase, closing_cuts_nothing_that_the_file_had_when_it_was_opened, 0, 2);
    tcase_add_test(tcase, what_is_stopped_frees_and_cuts_nothing);
    tcase_add_test(tcase, closing_what_was_never_used_leaves_the_file_alone);
    tcase_add_loop_test(tcase, whatever_a_crash_leaves_counts_every_cluster_that_was_safe_to_use, 0,
                        4);
    tcase_add_loop_test(tcase, near_a_limit_of_the_file_what_fits_is_taken, 0, 2);
    tcase_add_test(tcase, a_host_that_is_full_for_long_gives_no_clusters_and_moves_no_end);
    tcase_add_loop_test(tcase, a_host_that_fails_once_at_any_call_makes_nothing_wrong, 0, 4);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
