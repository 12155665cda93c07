/* SPDX-License-Identifier: MIT */
/* Snapshots that are made and removed while the writer goes on, on a host that fails. */
#include "config.h"

#include "suite.h"
#include "writer_case.h"

#include "disk/snapshots.h"
#include "disk/writer_internal.h"
#include "meta/format.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#define CLUSTER UINT64_C(4096)

static const struct writer_options options = {.discard = true};

/* A disk with something in two L2 tables, and a snapshot that has some of it. */
static void open_case(struct writer_case *subject)
{
    struct builder_options made = builder_defaults();
    struct error error = {0};

    made.cluster_bits = 12;
    made.virtual_size = 1024 * CLUSTER;
    writer_case_build(subject, builder_create(&made), &options);
    expect_write(subject, 0, 20 * CLUSTER, 1);
    expect_write(subject, 600 * CLUSTER, 20 * CLUSTER, 2);
    ck_assert_int_eq(writer_snapshot_make(subject->writer, "first", &error), 0);
    expect_write(subject, 10 * CLUSTER, 20 * CLUSTER, 3);
    expect_flush(subject);
}

static int make(struct writer_case *subject)
{
    struct error error = {0};

    return writer_snapshot_make(subject->writer, "second", &error);
}

static int remove_first(struct writer_case *subject)
{
    struct error error = {0};

    return writer_snapshot_remove(subject->writer, 0, &error);
}

static int (*const changes[])(struct writer_case *) = {make, remove_first};

/* Nobody knows what the header says, and whoever wants a change is told so. */
static void expect_refusal(struct writer_case *subject)
{
    struct error error = {0};

    ck_assert_int_eq(writer_write(subject->writer, 0, "one", 1), -EROFS);
    ck_assert_int_eq(writer_snapshot_make(subject->writer, "third", &error), -EROFS);
    ck_assert_msg(strstr(error.text, "nobody knows what its header says") != NULL, "%s",
                  error.text);
}

/* Images that were dirty when they had been closed, and those that nothing could change any more.
 */
struct seen {
    unsigned dirty, refused;
};

/*
 * From its n-th write on the host fails, until the change has failed, or to the end. False: it did
 * not. What is left may be anything that a repair puts in order, as long as the image says that it
 * needs one. So it does where nobody knows what the header says.
 */
static bool survives(int (*change)(struct writer_case *), bool to_the_end, unsigned n,
                     struct seen *seen)
{
    struct writer_case subject;
    struct store *file;
    bool failed, refused;
    int closed;

    open_case(&subject);
    memory_store_fail_from(subject.file, MEMORY_STORE_WRITE, n, EIO);
    failed = change(&subject) != 0;
    refused = writer_is_refused(subject.writer);
    seen->refused += refused;
    if (!to_the_end) {
        memory_store_fail(subject.file, MEMORY_STORE_WRITE, 0, 0);
    }
    if (refused) {
        expect_refusal(&subject);
    }
    expect_pattern(&subject, 10 * CLUSTER, 20 * CLUSTER, 3, 0);
    expect_pattern(&subject, 600 * CLUSTER, 20 * CLUSTER, 2, 0);
    file = writer_case_end(&subject, &closed);
    memory_store_fail(file, MEMORY_STORE_WRITE, 0, 0);
    if ((disk_u64(file, HEADER_INCOMPATIBLE_FEATURES) & INCOMPATIBLE_DIRTY) != 0) {
        seen->dirty++;
        writer_case_open(&subject, file, &options); /* which repairs it */
        file = writer_case_end(&subject, NULL);
        expect_sound(file, false);
    } else {
        ck_assert(!refused);
        expect_sound(file, true);
    }
    writer_case_open(&subject, file, &options);
    expect_pattern(&subject, 10 * CLUSTER, 20 * CLUSTER, 3, 0);
    expect_write(&subject, 0, 40 * CLUSTER, 4);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, true);
    store_close(file);
    return failed;
}

START_TEST(what_a_change_that_failed_leaves_is_in_order_or_says_that_it_is_not)
{
    struct seen seen = {0};
    unsigned n = 1;

    while (survives(changes[_i], true, n, &seen)) {
        n++;
    }
    ck_assert_uint_gt(n, 5);
    ck_assert_uint_gt(seen.dirty, 0);
}
END_TEST

START_TEST(what_a_change_that_failed_leaves_is_in_order_when_it_is_closed_on_a_host_that_is)
{
    struct seen seen = {0};
    unsigned n = 1;

    while (survives(changes[_i], false, n, &seen)) {
        n++;
    }
    ck_assert_uint_gt(n, 5);
    ck_assert_uint_gt(seen.refused, 0);
    ck_assert_uint_eq(seen.dirty, seen.refused);
}
END_TEST

START_TEST(what_was_left_half_done_is_done_by_the_next_change)
{
    struct writer_case subject;
    struct store *file;
    unsigned n = 0;
    bool failed = true;

    while (failed) {
        open_case(&subject);
        memory_store_fail_from(subject.file, MEMORY_STORE_WRITE, ++n, EIO);
        failed = make(&subject) != 0;
        memory_store_fail(subject.file, MEMORY_STORE_WRITE, 0, 0);
        if (failed && make(&subject) == 0) {
            ck_assert_int_eq(remove_first(&subject), 0);
            file = writer_case_end(&subject, NULL);
            ck_assert_uint_eq(disk_u64(file, HEADER_INCOMPATIBLE_FEATURES) & INCOMPATIBLE_DIRTY, 0);
            expect_sound(file, true);
            store_close(file);
        } else {
            writer_case_close(&subject);
        }
    }
}
END_TEST

/*
 * Of a disk whose second L2 table, and what it maps, can have no reference more, while that of the
 * first can. The n-th read fails, once: maybe that of the first table when its references are to go
 * again. False: there are not so many.
 */
static bool survives_two_failures(unsigned n)
{
    struct builder_options made = builder_defaults();
    struct writer_case subject;
    struct error error = {0};
    struct store *file;
    unsigned before;
    bool failed;

    made.cluster_bits = 12;
    made.refcount_order = 1; /* counts up to 3 */
    made.virtual_size = 1024 * CLUSTER;
    writer_case_build(&subject, builder_create(&made), &options);
    expect_write(&subject, 600 * CLUSTER, 20 * CLUSTER, 2);
    ck_assert_int_eq(writer_snapshot_make(subject.writer, "a", &error), 0);
    ck_assert_int_eq(writer_snapshot_make(subject.writer, "b", &error), 0);
    expect_write(&subject, 0, 20 * CLUSTER, 1);
    expect_flush(&subject);
    before = memory_store_calls(subject.file, MEMORY_STORE_READ);
    memory_store_fail(subject.file, MEMORY_STORE_READ, n, EIO);
    ck_assert_int_ne(make(&subject), 0);
    failed = memory_store_calls(subject.file, MEMORY_STORE_READ) - before >= n;
    memory_store_fail(subject.file, MEMORY_STORE_READ, 0, 0);
    expect_pattern(&subject, 0, 20 * CLUSTER, 1, 0);
    expect_pattern(&subject, 600 * CLUSTER, 20 * CLUSTER, 2, 0);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, true);
    store_close(file);
    return failed;
}

START_TEST(where_a_disk_has_nothing_its_snapshot_waits_for_no_sync)
{
    const struct writer_options one_at_once = {.tables_at_once = 1};
    struct builder_options made = builder_defaults();
    struct writer_case subject;
    unsigned before;

    made.cluster_bits = 12;
    made.virtual_size = 512 * 512 * CLUSTER; /* as many L1 entries */
    writer_case_build(&subject, builder_create(&made), &one_at_once);
    expect_write(&subject, 0, CLUSTER, 1);
    before = memory_store_calls(subject.file, MEMORY_STORE_SYNC);
    ck_assert_int_eq(make(&subject), 0);
    ck_assert_uint_lt(memory_store_calls(subject.file, MEMORY_STORE_SYNC) - before, 20);
    writer_case_close(&subject);
}
END_TEST

/* Its L1 table has no entries, and no place. `_i`: it had 1 MiB once, and goes back to nothing. */
START_TEST(a_disk_of_no_bytes_leaves_no_cluster_when_its_snapshots_come_and_go)
{
    struct builder_options made = builder_defaults();
    struct error error = {0};
    struct writer_case subject;
    struct store *file;

    made.virtual_size = 0;
    writer_case_build(&subject, builder_create(&made), &options);
    ck_assert_int_eq(writer_snapshot_make(subject.writer, "first", &error), 0);
    if (_i > 0) {
        ck_assert_int_eq(writer_resize(subject.writer, UINT64_C(1) << 20, NULL), 0);
        expect_write(&subject, 0, CLUSTER, 1);
    }
    ck_assert_int_eq(writer_snapshot_apply(subject.writer, 0, &error), 0);
    ck_assert_uint_eq(view_size(subject.view), 0);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    writer_case_open(&subject, file, &options);
    ck_assert_int_eq(remove_first(&subject), 0);
    ck_assert_int_eq(writer_resize(subject.writer, UINT64_C(1) << 20, NULL), 0);
    expect_write(&subject, 0, CLUSTER, 2);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(references_that_were_not_added_are_not_taken_away_by_who_takes_back_the_others)
{
    unsigned n = 1;

    while (survives_two_failures(n)) {
        n++;
    }
    ck_assert_uint_gt(n, 3);
}
END_TEST

/* --- While it is written to --------------------------------------------------------------------
 */

#define TABLE (CLUSTER / 8 * CLUSTER) /* bytes of the disk that an L2 table maps */

static const struct writer_options one_table = {.discard = true, .tables_at_once = 1};

/* Something below each of the four L2 tables of a disk. */
static void open_four_with(struct writer_case *subject, uint64_t virtual_size,
                           const struct writer_options *with)
{
    struct builder_options made = builder_defaults();

    made.cluster_bits = 12;
    made.virtual_size = virtual_size;
    writer_case_build(subject, builder_create(&made), with);
    for (unsigned i = 0; i < 4; i++) {
        expect_write(subject, i * TABLE, 4 * CLUSTER, i + 1);
    }
    expect_flush(subject);
}

static void open_four(struct writer_case *subject)
{
    open_four_with(subject, 4 * TABLE, &one_table);
}

struct change {
    struct writer_case *subject;
    int (*change)(struct writer_case *);
    uint64_t guest_offset; /* of a write, where there is no change */
    pthread_t thread;
    int result;
    atomic_bool ended;
};

static void *perform(void *context)
{
    struct change *change = context;
    uint8_t bytes[CLUSTER];

    memset(bytes, 'w', sizeof(bytes));
    change->result =
        change->change != NULL
            ? change->change(change->subject)
            : writer_write(change->subject->writer, change->guest_offset, bytes, sizeof(bytes));
    atomic_store(&change->ended, true);
    return NULL;
}

static void begin(struct change *change)
{
    ck_assert_int_eq(pthread_create(&change->thread, NULL, perform, change), 0);
}

/* Begins it, and returns while it reads the third table; memory_store_release_reads() lets it. */
static void begin_and_hold(struct change *change)
{
    struct store *file = change->subject->file;

    memory_store_block_reads(file, l1_entry_table(disk_l1_entry(file, 2 * TABLE)), 1);
    begin(change);
    memory_store_wait_blocked(file, 1);
}

/* Of snapshot 0 what was there at first. */
static void expect_first_state(struct writer_case *subject)
{
    struct writer_case snapshot = *subject;
    struct error error = {0};

    ck_assert_int_eq(view_open_snapshot(subject->image, 0, &snapshot.view, &error), 0);
    for (unsigned i = 0; i < 4; i++) {
        expect_pattern(&snapshot, i * TABLE, 4 * CLUSTER, i + 1, 0);
    }
    view_close(snapshot.view);
}

static void end_four(struct writer_case *subject)
{
    struct store *file = writer_case_end(subject, NULL);

    expect_sound(file, false);
    writer_case_open(subject, file, &one_table);
    for (unsigned i = 0; i < 4; i++) {
        expect_pattern(subject, i * TABLE, CLUSTER, i == 2 ? 3 : 10 + i, 0);
        expect_pattern(subject, i * TABLE + CLUSTER, 3 * CLUSTER, i + 1, CLUSTER);
    }
}

/* The change is held at the third table; writes where it has been, and is to come, are done. */
static void write_meanwhile(struct writer_case *subject, int (*change)(struct writer_case *))
{
    struct change changing = {.subject = subject, .change = change};

    begin_and_hold(&changing);
    expect_write(subject, 0, CLUSTER, 10);
    expect_write(subject, TABLE, CLUSTER, 11);
    expect_write(subject, 3 * TABLE, CLUSTER, 13);
    expect_flush(subject);
    memory_store_release_reads(subject->file);
    pthread_join(changing.thread, NULL);
    ck_assert_int_eq(changing.result, 0);
}

START_TEST(writes_go_on_while_a_snapshot_is_made_and_it_is_what_the_disk_was)
{
    struct writer_case subject;

    open_four(&subject);
    write_meanwhile(&subject, make);
    expect_first_state(&subject);
    end_four(&subject);
    expect_first_state(&subject);
    writer_case_close(&subject);
}
END_TEST

START_TEST(writes_go_on_while_a_snapshot_is_removed)
{
    struct writer_case subject;

    open_four(&subject);
    ck_assert_int_eq(make(&subject), 0);
    write_meanwhile(&subject, remove_first);
    end_four(&subject);
    ck_assert_uint_eq(subject.image->header->snapshot_count, 0);
    writer_case_close(&subject);
}
END_TEST

START_TEST(a_write_where_the_snapshot_is_just_being_made_waits_and_is_not_in_it)
{
    struct writer_case subject;
    struct change changing = {.subject = &subject, .change = make};
    struct change writing = {.subject = &subject, .guest_offset = 2 * TABLE};
    struct store *file;

    open_four(&subject);
    begin_and_hold(&changing);
    begin(&writing);
    memory_store_release_reads(subject.file);
    pthread_join(changing.thread, NULL);
    pthread_join(writing.thread, NULL);
    ck_assert_int_eq(changing.result, 0);
    ck_assert_int_eq(writing.result, 0);
    expect_first_state(&subject);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

static int make_two(struct writer_case *subject)
{
    struct error error = {0};
    int result = make(subject);

    return result != 0 ? result : writer_snapshot_make(subject->writer, "third", &error);
}

static int zero_first_table(struct writer_case *subject)
{
    return writer_zero(subject->writer, 0, TABLE, false, NULL);
}

/* Until it waits for the end of the pause. */
static void expect_waiting(struct change *change)
{
    struct writer *writer = change->subject->writer;
    unsigned waiting = 0;

    while (waiting == 0) {
        sched_yield();
        ck_assert(!atomic_load(&change->ended));
        pthread_mutex_lock(&writer->paused_mutex);
        waiting = writer->waiting;
        pthread_mutex_unlock(&writer->paused_mutex);
    }
}

/* So nobody can be kept out for ever by who makes one snapshot after the other. */
START_TEST(what_waited_for_a_snapshot_is_done_before_the_next_one)
{
    struct writer_case subject, snapshot;
    struct change changing = {.subject = &subject, .change = make_two};
    struct change zeroing = {.subject = &subject, .change = zero_first_table};
    struct error error = {0};

    open_four(&subject);
    begin_and_hold(&changing);
    begin(&zeroing);
    expect_waiting(&zeroing);
    memory_store_release_reads(subject.file);
    pthread_join(changing.thread, NULL);
    pthread_join(zeroing.thread, NULL);
    ck_assert_int_eq(changing.result, 0);
    ck_assert_int_eq(zeroing.result, 0);
    expect_first_state(&subject);
    snapshot = subject;
    ck_assert_int_eq(view_open_snapshot(subject.image, 1, &snapshot.view, &error), 0);
    expect_zeros(&snapshot, 0, 4 * CLUSTER);
    expect_pattern(&snapshot, TABLE, 4 * CLUSTER, 2, 0);
    view_close(snapshot.view);
    writer_case_close(&subject);
}
END_TEST

START_TEST(a_write_that_makes_the_disk_larger_waits_until_its_snapshot_is_made)
{
    static const struct writer_options growing = {.tables_at_once = 1, .growable = true};
    const uint64_t size = 4 * TABLE - 8 * CLUSTER;
    struct writer_case subject;
    struct change changing = {.subject = &subject, .change = make};
    struct change writing = {.subject = &subject, .guest_offset = size - CLUSTER / 2};
    struct store *file;

    open_four_with(&subject, size, &growing);
    begin_and_hold(&changing);
    begin(&writing);
    expect_waiting(&writing);
    ck_assert_uint_eq(view_size(subject.view), size);
    memory_store_release_reads(subject.file);
    pthread_join(changing.thread, NULL);
    pthread_join(writing.thread, NULL);
    ck_assert_int_eq(changing.result, 0);
    ck_assert_int_eq(writing.result, 0);
    ck_assert_uint_eq(view_size(subject.view), size + CLUSTER / 2);
    ck_assert_uint_eq(subject.image->snapshots->snapshots[0].disk_size, size);
    expect_first_state(&subject);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

/* Counts cannot be written, and then they can: all is as it was but for what was written. */
START_TEST(a_snapshot_that_fails_while_it_is_written_to_leaves_nothing)
{
    struct writer_case subject;
    struct change changing = {.subject = &subject, .change = make};

    open_four(&subject);
    begin_and_hold(&changing);
    expect_write(&subject, 0, CLUSTER, 10);
    expect_write(&subject, TABLE, CLUSTER, 11);
    expect_write(&subject, 3 * TABLE, CLUSTER, 13);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 1, EIO);
    memory_store_release_reads(subject.file);
    pthread_join(changing.thread, NULL);
    ck_assert_int_eq(changing.result, -EIO);
    ck_assert_uint_eq(subject.image->header->snapshot_count, 0);
    end_four(&subject);
    writer_case_close(&subject);
}
END_TEST

static const enum memory_store_call calls[] = {MEMORY_STORE_WRITE, MEMORY_STORE_READ};

/*
 * The same with the n-th such call failing, from when the third table is under way, or all from
 * then on until the change has ended: also those that write what others did meanwhile. False: there
 * are not so many.
 */
static bool survives_meanwhile(int (*change)(struct writer_case *), enum memory_store_call call,
                               bool once, unsigned n)
{
    struct writer_case subject;
    struct change changing = {.subject = &subject, .change = change};
    struct store *file;
    unsigned before;
    bool failed, refused, dirty;

    open_four(&subject);
    if (change == remove_first) {
        ck_assert_int_eq(make(&subject), 0);
    }
    begin_and_hold(&changing);
    expect_write(&subject, 0, CLUSTER, 10); /* not so many that the cache has them flushed */
    expect_write(&subject, 3 * TABLE, CLUSTER, 13);
    before = memory_store_calls(subject.file, call);
    (once ? memory_store_fail : memory_store_fail_from)(subject.file, call, n, EIO);
    memory_store_release_reads(subject.file);
    pthread_join(changing.thread, NULL);
    failed = memory_store_calls(subject.file, call) - before >= n;
    memory_store_fail(subject.file, call, 0, 0);
    expect_flush(&subject);
    refused = writer_is_refused(subject.writer);
    file = writer_case_end(&subject, NULL);
    dirty = (disk_u64(file, HEADER_INCOMPATIBLE_FEATURES) & INCOMPATIBLE_DIRTY) != 0;
    ck_assert_int_eq(dirty, refused);
    expect_sound(file, true);
    writer_case_open(&subject, file, &one_table);
    for (unsigned i = 0; i < 4; i++) {
        expect_pattern(&subject, i * TABLE, CLUSTER, i % 3 == 0 ? 10 + i : i + 1, 0);
        expect_pattern(&subject, i * TABLE + CLUSTER, 3 * CLUSTER, i + 1, CLUSTER);
    }
    if (subject.image->snapshots->count > 0) {
        expect_first_state(&subject);
    }
    writer_case_close(&subject);
    return failed;
}

START_TEST(what_is_written_while_a_change_fails_is_kept)
{
    unsigned n = 1;

    while (survives_meanwhile(changes[_i % 2], calls[_i / 2 % 2], _i < 4, n)) {
        n++;
    }
    ck_assert_uint_gt(n, 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("snapshots");
    TCase *faults = tcase_create("faults"), *meanwhile = tcase_create("meanwhile");

    tcase_add_loop_test(faults, what_a_change_that_failed_leaves_is_in_order_or_says_that_it_is_not,
                        0, 2);
    tcase_add_loop_test(
        faults, what_a_change_that_failed_leaves_is_in_order_when_it_is_closed_on_a_host_that_is, 0,
        2);
    tcase_add_test(faults, what_was_left_half_done_is_done_by_the_next_change);
    tcase_add_test(faults,
                   references_that_were_not_added_are_not_taken_away_by_who_takes_back_the_others);
    tcase_add_test(faults, where_a_disk_has_nothing_its_snapshot_waits_for_no_sync);
    tcase_add_loop_test(faults, a_disk_of_no_bytes_leaves_no_cluster_when_its_snapshots_come_and_go,
                        0, 2);
    tcase_set_timeout(faults, 120);
    suite_add_tcase(suite, faults);
    tcase_add_test(meanwhile, writes_go_on_while_a_snapshot_is_made_and_it_is_what_the_disk_was);
    tcase_add_test(meanwhile, writes_go_on_while_a_snapshot_is_removed);
    tcase_add_test(meanwhile, a_write_where_the_snapshot_is_just_being_made_waits_and_is_not_in_it);
    tcase_add_loop_test(meanwhile, what_waited_for_a_snapshot_is_done_before_the_next_one, 0, 16);
    tcase_add_test(meanwhile, a_write_that_makes_the_disk_larger_waits_until_its_snapshot_is_made);
    tcase_add_test(meanwhile, a_snapshot_that_fails_while_it_is_written_to_leaves_nothing);
    tcase_add_loop_test(meanwhile, what_is_written_while_a_change_fails_is_kept, 0, 8);
    tcase_set_timeout(meanwhile, 120);
    suite_add_tcase(suite, meanwhile);
    return suite_main(suite);
}
