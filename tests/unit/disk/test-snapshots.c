/* SPDX-License-Identifier: MIT */
/* Snapshots that are made and removed while the writer goes on, on a host that fails. */
#include "config.h"

#include "suite.h"
#include "writer_case.h"

#include "disk/snapshots.h"
#include "meta/format.h"

#include <errno.h>

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

/*
 * From its n-th write on the host fails, until the change has failed. False: it did not. What is
 * left may be anything that a repair puts in order, as long as the image says that it needs one.
 */
static bool survives(int (*change)(struct writer_case *), unsigned n, unsigned *dirty)
{
    struct writer_case subject;
    struct store *file;
    bool failed;
    int closed;

    open_case(&subject);
    memory_store_fail_from(subject.file, MEMORY_STORE_WRITE, n, EIO);
    failed = change(&subject) != 0;
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 0, 0);
    expect_pattern(&subject, 10 * CLUSTER, 20 * CLUSTER, 3, 0);
    expect_pattern(&subject, 600 * CLUSTER, 20 * CLUSTER, 2, 0);
    file = writer_case_end(&subject, &closed);
    if ((disk_u64(file, HEADER_INCOMPATIBLE_FEATURES) & INCOMPATIBLE_DIRTY) != 0) {
        ++*dirty;
        writer_case_open(&subject, file, &options); /* which repairs it */
        file = writer_case_end(&subject, NULL);
    }
    expect_sound(file, true);
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
    unsigned n = 1, dirty = 0;

    while (survives(changes[_i], n, &dirty)) {
        n++;
    }
    ck_assert_uint_gt(n, 5);
    ck_assert_uint_gt(dirty, 0);
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

START_TEST(references_that_were_not_added_are_not_taken_away_by_who_takes_back_the_others)
{
    unsigned n = 1;

    while (survives_two_failures(n)) {
        n++;
    }
    ck_assert_uint_gt(n, 3);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("snapshots");
    TCase *faults = tcase_create("faults");

    tcase_add_loop_test(faults, what_a_change_that_failed_leaves_is_in_order_or_says_that_it_is_not,
                        0, 2);
    tcase_add_test(faults, what_was_left_half_done_is_done_by_the_next_change);
    tcase_add_test(faults,
                   references_that_were_not_added_are_not_taken_away_by_who_takes_back_the_others);
    tcase_set_timeout(faults, 120);
    suite_add_tcase(suite, faults);
    return suite_main(suite);
}
