/* SPDX-License-Identifier: MIT */
/* Handing out host clusters and taking them back: R2 and R4. */
#include "config.h"

#include "owner_case.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>

/* --- Taking ------------------------------------------------------------------------------------
 */

START_TEST(clusters_come_in_runs_whose_counts_are_written_together)
{
    struct owner owner;
    struct allocation first, next;
    unsigned writes;

    owner_open(&owner, false);
    first = owner_taken(&owner, 1);
    ck_assert(first.fresh);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, first.host_offset), 1);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, first.host_offset + CLUSTER), 1);
    writes = memory_store_calls(owner.write_case.file, MEMORY_STORE_WRITE);
    for (unsigned i = 1; i < 100; i++) {
        next = owner_taken(&owner, 1);
        ck_assert_uint_eq(next.host_offset, first.host_offset + i * CLUSTER);
        ck_assert_uint_eq(next.epoch, first.epoch);
    }
    ck_assert_uint_eq(memory_store_calls(owner.write_case.file, MEMORY_STORE_WRITE), writes);
    ck_assert_uint_ge(owner_file_clusters(&owner), next.host_offset / CLUSTER + 1);
    owner_close(&owner);
}
END_TEST

START_TEST(the_next_run_is_reserved_before_this_one_is_used_up)
{
    struct owner owner;
    struct allocation allocation;
    unsigned unstable = 0;

    owner_open(&owner, false);
    (void)owner_taken(&owner, 1);
    ck_assert_int_eq(owner_sync(&owner), 0);
    for (unsigned i = 0; i < 300; i++) { /* some of the runs that there are end meanwhile */
        allocation = owner_taken(&owner, 64);
        unstable += !barrier_is_stable(owner.write_case.barrier, allocation.epoch);
        ck_assert_int_eq(owner_sync(&owner), 0);
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
        run = owner_taken(&owner, UINT32_MAX);
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
    used = owner_taken(&owner, 1);
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

        ck_assert_int_eq(owner_take(&owner, i % 5 + 1, i % 3 == 0, &one), 0);
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
            allocator_return(owner_allocator(&owner), one.host_offset, one.clusters);
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
    allocation = owner_taken(&owner, 8);
    ck_assert_uint_eq(allocation.host_offset, (first + 1) * CLUSTER);
    ck_assert_uint_eq(allocation.clusters, 2);
    ck_assert(!allocation.fresh);
    ck_assert_uint_eq(memory_store_size(owner.write_case.file), size);
    allocation = owner_taken(&owner, 8);
    ck_assert_uint_eq(allocation.host_offset, (first + 4) * CLUSTER);
    ck_assert_uint_eq(allocation.clusters, 1);
    ck_assert(!allocation.fresh);
    allocation = owner_taken(&owner, 8);
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
    a = owner_taken(&owner, 1);
    b = owner_taken(&owner, 1);
    ck_assert_int_eq(allocator_drop(owner_allocator(&owner), a.host_offset, 1, 5), 0);
    ck_assert_int_eq(allocator_drop(owner_allocator(&owner), b.host_offset, 1, 6), 0);
    ck_assert_int_eq(allocator_dropped(owner_allocator(&owner), 4), 0);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, a.host_offset), 1);
    ck_assert_int_eq(allocator_dropped(owner_allocator(&owner), 5), 0);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, a.host_offset), 0);
    ck_assert_uint_eq(write_case_counted(&owner.write_case, b.host_offset), 1);
    ck_assert_int_eq(allocator_dropped(owner_allocator(&owner), 7), 0);
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
    a = owner_taken(&owner, 1);
    ck_assert_int_eq(refcounts_add(owner.write_case.refcounts, a.host_offset / CLUSTER, 1, 1), 0);
    punches = memory_store_calls(owner.write_case.file, MEMORY_STORE_PUNCH);
    ck_assert_int_eq(allocator_drop(owner_allocator(&owner), a.host_offset, 1, 1), 0);
    ck_assert_int_eq(allocator_dropped(owner_allocator(&owner), 1), 0);
    ck_assert_uint_eq(memory_store_calls(owner.write_case.file, MEMORY_STORE_PUNCH), punches);
    ck_assert_int_eq(allocator_drop(owner_allocator(&owner), a.host_offset, 1, 2), 0);
    ck_assert_int_eq(allocator_dropped(owner_allocator(&owner), 2), 0);
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
    a = owner_taken(&owner, 30);
    first = a.host_offset / CLUSTER;
    for (uint64_t i = 0; i < 30; i += 3) { /* not in order, and not at once */
        ck_assert_int_eq(
            allocator_drop(owner_allocator(&owner), (first + (i + 15) % 30) * CLUSTER, 3, i % 2),
            0);
    }
    punches = memory_store_calls(owner.write_case.file, MEMORY_STORE_PUNCH);
    memory_store_block_punches(owner.write_case.file);
    ck_assert_int_eq(pthread_create(&thread, NULL, tell_of_commit, owner_allocator(&owner)), 0);
    memory_store_wait_punch(owner.write_case.file);
    while (length < 5000) {
        next = owner_taken(&owner, 64);
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

/* Takes until what has been reserved behind the end is used up, and something before it comes. */
static struct allocation take_again(struct owner *owner)
{
    uint64_t end = owner_taken(owner, 1).host_offset, clusters = 0;
    struct allocation next;

    do {
        next = owner_taken(owner, 100);
        clusters += next.clusters;
        ck_assert_uint_lt(clusters, 100000);
    } while (next.host_offset > end);
    return next;
}

START_TEST(what_was_given_back_is_handed_out_again_before_the_file_grows)
{
    struct owner owner;
    struct allocation back, next;

    owner_open(&owner, false);
    back = owner_taken(&owner, 50);
    owner.count = 0;
    allocator_return(owner_allocator(&owner), back.host_offset, back.clusters);
    next = take_again(&owner); /* what was reserved comes first */
    ck_assert_uint_eq(next.host_offset, back.host_offset);
    ck_assert_uint_eq(next.clusters, back.clusters);
    owner_close(&owner);
}
END_TEST

enum {
    PUNCHED,
    NOT_PUNCHED,
    PUNCH_FAILS,
    ZEROS_CASES
};

/* That a hole is there is known of who got it once: who has the cluster may write to it. */
START_TEST(what_was_punched_reads_as_zeros_for_whom_it_is_given_to_next)
{
    struct owner owner;
    struct allocation back, next;
    uint8_t data[CLUSTER], zeros[CLUSTER] = {0};

    memset(data, 0x5a, sizeof(data));
    owner_open(&owner, _i != NOT_PUNCHED);
    back = owner_taken(&owner, 50);
    ck_assert(back.fresh);
    for (unsigned turn = 0; turn < 3; turn++) {
        for (uint64_t i = 0; i < back.clusters; i++) {
            ck_assert_int_eq(
                store_write(owner.write_case.file, back.host_offset + i * CLUSTER, data, CLUSTER),
                0);
        }
        if (_i == PUNCH_FAILS) {
            memory_store_fail(owner.write_case.file, MEMORY_STORE_PUNCH, 1, EIO);
        }
        owner.count = 0;
        allocator_return(owner_allocator(&owner), back.host_offset, back.clusters);
        next = take_again(&owner);
        ck_assert_uint_eq(next.host_offset, back.host_offset);
        ck_assert_int_eq(next.fresh, _i == PUNCHED);
        ck_assert_int_eq(store_read(owner.write_case.file, next.host_offset, data, CLUSTER), 0);
        ck_assert(!next.fresh || memcmp(data, zeros, CLUSTER) == 0);
        memset(data, 0x5a, sizeof(data));
        back = next;
    }
    owner_close(&owner);
}
END_TEST

START_TEST(what_is_given_out_at_once_reads_as_zeros_as_a_whole_or_may_not)
{
    static const struct {
        uint64_t begin, length;
        bool punched;
    } given[] = {{0, 20, true}, {20, 20, false}, {40, 20, true}, {60, 3, false}, {63, 5, true}},
      taken[] = {{0, 20, true}, {20, 20, false}, {40, 20, true}, {60, 8, false}};
    struct owner owner;
    struct allocation back, next;

    owner_open(&owner, true);
    back = owner_taken(&owner, 68);
    ck_assert(back.untouched);
    owner.count = 0;
    for (unsigned i = 0; i < 5; i++) {
        if (!given[i].punched) {
            memory_store_fail(owner.write_case.file, MEMORY_STORE_PUNCH, 1, EIO);
        }
        allocator_return(owner_allocator(&owner), back.host_offset + given[i].begin * CLUSTER,
                         given[i].length);
    }
    for (unsigned i = 0; i < 4; i++) {
        next = i == 0 ? take_again(&owner) : owner_taken(&owner, 100);
        ck_assert_uint_eq(next.host_offset, back.host_offset + taken[i].begin * CLUSTER);
        ck_assert_uint_eq(next.clusters, taken[i].length);
        ck_assert_int_eq(next.fresh, taken[i].punched);
        ck_assert(!next.untouched);
    }
    owner_close(&owner);
}
END_TEST

/* R1: until the file is as long a crash leaves an entry that names nothing. */
START_TEST(what_lies_behind_the_end_of_the_file_is_not_taken_for_a_hole)
{
    struct owner owner;
    struct allocation next;
    uint64_t end;

    owner_open(&owner, true);
    end = refcounts_end(owner.write_case.refcounts);
    refcounts_set_end(owner.write_case.refcounts, end + 50); /* counted, and never written */
    for (unsigned i = 0; i < 2; i++) {
        next = owner_taken(&owner, 100);
        ck_assert_uint_eq(next.host_offset, end * CLUSTER);
        ck_assert_uint_eq(next.clusters, 50);
        ck_assert(!next.fresh);
        owner.count = 0;
        allocator_return(owner_allocator(&owner), next.host_offset, next.clusters);
    }
    owner_close(&owner);
}
END_TEST

START_TEST(what_was_behind_the_end_for_a_while_is_not_taken_for_a_hole)
{
    struct owner owner;
    struct allocation back, next;
    uint64_t end;

    owner_open(&owner, true);
    back = owner_taken(&owner, 50);
    end = refcounts_end(owner.write_case.refcounts);
    owner.count = 0;
    allocator_return(owner_allocator(&owner), back.host_offset, back.clusters);
    refcounts_set_end(owner.write_case.refcounts, back.host_offset / CLUSTER);
    refcounts_set_end(owner.write_case.refcounts, end);
    next = take_again(&owner);
    ck_assert_uint_eq(next.host_offset, back.host_offset);
    ck_assert(!next.fresh);
    owner_close(&owner);
}
END_TEST

START_TEST(closing_gives_all_of_the_reserve_back_and_cuts_the_file)
{
    struct owner owner;
    struct allocation kept, returned;
    uint64_t counted = 0, clusters;

    owner_open(&owner, false);
    kept = owner_taken(&owner, 3);
    for (unsigned i = 0; i < 3; i++) { /* the next run is reserved meanwhile */
        returned = owner_taken(&owner, 600);
        allocator_return(owner_allocator(&owner), returned.host_offset, returned.clusters);
    }
    ck_assert_int_eq(allocator_close(owner_allocator(&owner)), 0);
    ck_assert_int_eq(allocator_write_back(owner_allocator(&owner)), 0);
    clusters = owner_file_clusters(&owner);
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
    allocation = owner_taken(&owner, 3);
    ck_assert_int_eq(
        allocator_drop(owner_allocator(&owner), allocation.host_offset, allocation.clusters, 1), 0);
    size = memory_store_size(owner.write_case.file);
    allocator_stop(owner_allocator(&owner));
    ck_assert_int_eq(allocator_dropped(owner_allocator(&owner), 1), 0);
    allocator_return(owner_allocator(&owner), allocation.host_offset, 1);
    ck_assert_int_eq(allocator_close(owner_allocator(&owner)), 0);
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
    ck_assert_int_eq(allocator_close(owner_allocator(&owner)), 0);
    ck_assert_uint_eq(memory_log_count(owner.write_case.log), 0);
    owner_close(&owner);
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
    tcase_add_loop_test(tcase, what_was_punched_reads_as_zeros_for_whom_it_is_given_to_next, 0,
                        ZEROS_CASES);
    tcase_add_test(tcase, what_is_given_out_at_once_reads_as_zeros_as_a_whole_or_may_not);
    tcase_add_test(tcase, what_lies_behind_the_end_of_the_file_is_not_taken_for_a_hole);
    tcase_add_test(tcase, what_was_behind_the_end_for_a_while_is_not_taken_for_a_hole);
    tcase_add_test(tcase, closing_gives_all_of_the_reserve_back_and_cuts_the_file);
    tcase_add_loop_test(tcase, closing_cuts_nothing_that_the_file_had_when_it_was_opened, 0, 2);
    tcase_add_test(tcase, what_is_stopped_frees_and_cuts_nothing);
    tcase_add_test(tcase, closing_what_was_never_used_leaves_the_file_alone);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
