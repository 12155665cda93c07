/* SPDX-License-Identifier: MIT */
/*
 * Fields of the header, on a host whose writes fail and are done all the same, as where only the
 * answer of a server is lost: nobody believes that the file has what memory has.
 */
#include "config.h"

#include "suite.h"
#include "writer_case.h"

#include "disk/snapshots.h"
#include "disk/writer_internal.h"
#include "meta/format.h"

#include <errno.h>

#define CLUSTER UINT64_C(4096)
#define SIZE    (1024 * CLUSTER)

static void open_case(struct writer_case *subject, const struct writer_options *options)
{
    struct builder_options made = builder_defaults();

    made.cluster_bits = 12;
    made.virtual_size = SIZE;
    writer_case_build(subject, builder_create(&made), options);
    memory_store_set_lands(subject->file, true);
}

/* What a crash leaves now is in order, or says that it may not be. */
static void expect_sound_or_dirty(struct writer_case *subject)
{
    struct store *copy =
        memory_store_from(memory_store_data(subject->file), memory_store_size(subject->file));

    if ((disk_u64(copy, HEADER_INCOMPATIBLE_FEATURES) & INCOMPATIBLE_DIRTY) == 0) {
        expect_sound(copy, true);
    }
    store_close(copy);
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

static int go_back(struct writer_case *subject)
{
    struct error error = {0};

    return writer_snapshot_apply(subject->writer, 0, &error);
}

/* The n-th write of a change fails, and maybe all after it until that has failed. False: there are
   not so many. */
static bool survives(int (*change)(struct writer_case *), bool all, unsigned n)
{
    const struct writer_options lazy = {.lazy_refcounts = {true, true}, .discard = true};
    struct writer_case subject;
    struct error error = {0};
    static const uint8_t many[100 * CLUSTER];
    struct store *file;
    unsigned before;
    bool hit;

    open_case(&subject, &lazy);
    expect_write(&subject, 0, 20 * CLUSTER, 1);
    ck_assert_int_eq(writer_snapshot_make(subject.writer, "first", &error), 0);
    file = writer_case_end(&subject, NULL);
    writer_case_open(&subject, file, &lazy);
    memory_store_set_lands(subject.file, true);
    before = memory_store_calls(subject.file, MEMORY_STORE_WRITE);
    (all ? memory_store_fail_from : memory_store_fail)(subject.file, MEMORY_STORE_WRITE, n, EIO);
    (void)change(&subject);
    hit = memory_store_calls(subject.file, MEMORY_STORE_WRITE) - before >= n;
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 0, 0);
    (void)writer_write(subject.writer, 512 * CLUSTER, many, sizeof(many));
    if (writer_flush(subject.writer) == 0) {
        expect_sound_or_dirty(&subject);
    }
    writer_case_close(&subject);
    return hit;
}

/* `_i`: which change, and whether one write fails or many. */
START_TEST(an_image_says_that_it_is_dirty_whatever_write_of_a_change_had_failed)
{
    int (*const changes[])(struct writer_case *) = {make, remove_first, go_back};
    unsigned n = 1;

    while (survives(changes[_i / 2], _i % 2 != 0, n)) {
        n++;
    }
    ck_assert_uint_gt(n, 4);
}
END_TEST

/* `_i`: to half of its size, or twice as large; one write fails, or all until the host is asked to
   flush for the second time. */
START_TEST(a_disk_keeps_the_size_that_it_has_when_another_could_not_be_written)
{
    uint64_t size = _i / 2 == 0 ? SIZE / 2 : SIZE * 2;
    const struct writer_options defaults = {0};
    struct writer_case subject;
    struct store *file;
    unsigned n = 0;
    int resized;

    do {
        open_case(&subject, &defaults);
        expect_write(&subject, 0, CLUSTER, 1);
        expect_flush(&subject);
        (_i % 2 == 0 ? memory_store_fail : memory_store_fail_from)(subject.file, MEMORY_STORE_WRITE,
                                                                   ++n, EIO);
        resized = writer_resize(subject.writer, size, NULL);
        if (_i % 2 != 0 && disk_u64(subject.file, HEADER_SIZE) != view_size(subject.view)) {
            memory_store_fail_from(subject.file, MEMORY_STORE_WRITE, 1, EIO);
            memory_store_set_lands(subject.file, false);
            ck_assert_int_eq(writer_flush(subject.writer), -EIO);
        }
        memory_store_fail(subject.file, MEMORY_STORE_WRITE, 0, 0);
        if (resized != 0 && view_size(subject.view) == SIZE) {
            expect_write(&subject, SIZE - CLUSTER, CLUSTER, 2);
        }
        expect_flush(&subject);
        ck_assert_uint_eq(disk_u64(subject.file, HEADER_SIZE), view_size(subject.view));
        file = writer_case_end(&subject, NULL);
        expect_sound(file, false);
        writer_case_open(&subject, file, NULL);
        expect_pattern(&subject, 0, CLUSTER, 1, 0);
        if (resized != 0 && view_size(subject.view) == SIZE) {
            expect_pattern(&subject, SIZE - CLUSTER, CLUSTER, 2, 0);
        }
        writer_case_close(&subject);
    } while (resized != 0);
    ck_assert_uint_gt(n, 1);
}
END_TEST

/* `_i`: whether the write that failed was done. */
START_TEST(damage_is_marked_by_a_later_request_where_the_first_could_not)
{
    const struct writer_options defaults = {0};
    struct writer_case subject;
    struct store *file;
    int closed;

    open_case(&subject, &defaults);
    memory_store_set_lands(subject.file, _i != 0);
    expect_write(&subject, 0, CLUSTER, 1);
    expect_flush(&subject);
    writer_stop(subject.writer);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 1, EIO);
    writer_mark_corrupt(subject.writer);
    ck_assert_int_eq(writer_write(subject.writer, 0, "one", 4), -EIO);
    file = writer_case_end(&subject, &closed);
    ck_assert_uint_ne(disk_u64(file, HEADER_INCOMPATIBLE_FEATURES) & INCOMPATIBLE_CORRUPT, 0);
    store_close(file);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("header state");
    TCase *lost = tcase_create("lost answers");

    tcase_add_loop_test(lost, an_image_says_that_it_is_dirty_whatever_write_of_a_change_had_failed,
                        0, 6);
    tcase_add_loop_test(lost, a_disk_keeps_the_size_that_it_has_when_another_could_not_be_written,
                        0, 4);
    tcase_add_loop_test(lost, damage_is_marked_by_a_later_request_where_the_first_could_not, 0, 2);
    tcase_set_timeout(lost, 120);
    suite_add_tcase(suite, lost);
    return suite_main(suite);
}
