/* SPDX-License-Identifier: MIT */
/* A disk that grows and shrinks. */
#include "config.h"

#include "memory_store.h"
#include "suite.h"
#include "writer_case.h"

#include "disk/snapshots.h"
#include "meta/format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define K       UINT64_C(1024)
#define M       (UINT64_C(1) << 20)
#define CLUSTER (64 * K)

static struct builder_options disk_of(uint64_t size)
{
    struct builder_options options = builder_defaults();

    options.virtual_size = size;
    return options;
}

static void open_disk(struct writer_case *subject, uint64_t size)
{
    struct builder_options options = disk_of(size);

    writer_case_build(subject, builder_create(&options), NULL);
}

static void expect_resize(struct writer_case *subject, uint64_t size)
{
    ck_assert_int_eq(writer_resize(subject->writer, size, NULL), 0);
    ck_assert_uint_eq(view_size(subject->view), (size + 511) / 512 * 512);
    ck_assert_uint_eq(disk_u64(subject->file, HEADER_SIZE), view_size(subject->view));
}

static void end_sound(struct writer_case *subject)
{
    struct store *file = writer_case_end(subject, NULL);

    expect_sound(file, false);
    store_close(file);
}

START_TEST(what_a_disk_gains_reads_as_zeros)
{
    struct writer_case subject;

    open_disk(&subject, M + 512);
    expect_write(&subject, 0, M + 512, 1);
    expect_resize(&subject, 3 * M);
    expect_pattern(&subject, 0, M + 512, 1, 0);
    expect_zeros(&subject, M + 512, 2 * M - 512);
    end_sound(&subject);
}
END_TEST

START_TEST(what_a_disk_lost_does_not_come_back)
{
    struct writer_case subject;

    open_disk(&subject, 2 * M);
    expect_write(&subject, 0, 2 * M, 1);
    expect_resize(&subject, M + 512);
    expect_resize(&subject, 2 * M);
    expect_pattern(&subject, 0, M + 512, 1, 0);
    expect_zeros(&subject, M + 512, M - 512);
    end_sound(&subject);
}
END_TEST

START_TEST(a_larger_disk_does_not_show_what_the_base_has_there)
{
    struct builder_options options = disk_of(M + 512);
    struct builder *builder = builder_create(&options);
    struct store *file = builder_store(builder), *base;
    struct writer_case subject;
    uint8_t *bytes = malloc(2 * M);

    builder_destroy(builder);
    builder_pattern(bytes, 2 * M, 9);
    base = memory_store_from(bytes, 2 * M);
    writer_case_open_on(&subject, file, assemble_image(base, IMAGE_RAW, 1, NULL), NULL);
    expect_resize(&subject, 3 * M);
    expect_pattern(&subject, 0, M + 512, 9, 0);
    expect_zeros(&subject, M + 512, 2 * M - 512);
    ck_assert_mem_eq(memory_store_data(base), bytes, 2 * M);
    end_sound(&subject);
    free(bytes);
}
END_TEST

START_TEST(the_clusters_behind_the_end_of_a_smaller_disk_are_free)
{
    struct writer_case subject;
    struct store *file;
    uint64_t host;

    open_disk(&subject, 4 * M);
    expect_write(&subject, 0, 4 * M, 1);
    expect_flush(&subject);
    host = l2_entry_host_offset(disk_l2_entry(subject.file, 2 * M));
    expect_resize(&subject, M);
    expect_flush(&subject); /* the resizing has ended: they are free (R4) */
    expect_flush(&subject); /* brings the counts */
    ck_assert_uint_eq(disk_l2_entry(subject.file, 2 * M), 0);
    ck_assert_uint_eq(disk_refcount(subject.file, host), 0);
    expect_pattern(&subject, 0, M, 1, 0);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    ck_assert_uint_lt(memory_store_size(file), 2 * M);
    store_close(file);
}
END_TEST

START_TEST(a_size_is_rounded_up_to_whole_sectors)
{
    struct writer_case subject;

    open_disk(&subject, M);
    expect_resize(&subject, M + 1);
    expect_resize(&subject, 1);
    expect_resize(&subject, 0);
    end_sound(&subject);
}
END_TEST

START_TEST(a_size_that_the_format_cannot_have_is_refused_and_nothing_changes)
{
    struct writer_case subject;

    open_disk(&subject, M);
    expect_write(&subject, 0, CLUSTER, 1);
    ck_assert_int_eq(writer_resize(subject.writer, UINT64_MAX, NULL), -EFBIG);
    ck_assert_int_eq(writer_resize(subject.writer, (uint64_t)INT64_MAX + 1, NULL), -EFBIG);
    ck_assert_int_eq(writer_resize(subject.writer, UINT64_C(1) << 62, NULL), -EFBIG); /* L1 limit */
    ck_assert_uint_eq(view_size(subject.view), M);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_SIZE), M);
    expect_pattern(&subject, 0, CLUSTER, 1, 0);
    end_sound(&subject);
}
END_TEST

START_TEST(an_l1_table_that_is_too_short_moves)
{
    struct writer_case subject;
    uint64_t table, size = UINT64_C(1) << 43;
    struct store *file;

    open_disk(&subject, M);
    expect_write(&subject, 0, CLUSTER, 1);
    expect_flush(&subject);
    table = disk_u64(subject.file, HEADER_L1_TABLE_OFFSET);
    expect_resize(&subject, size);
    ck_assert_uint_ne(disk_u64(subject.file, HEADER_L1_TABLE_OFFSET), table);
    ck_assert_uint_ge(disk_u32(subject.file, HEADER_L1_SIZE), size >> 29);
    expect_write(&subject, size - CLUSTER, CLUSTER, 2);
    expect_flush(&subject);
    expect_flush(&subject);
    ck_assert_uint_eq(disk_refcount(subject.file, table), 0);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    writer_case_open(&subject, file, NULL);
    expect_pattern(&subject, 0, CLUSTER, 1, 0);
    expect_pattern(&subject, size - CLUSTER, CLUSTER, 2, 0);
    writer_case_close(&subject);
}
END_TEST

/* An image of `version` with a snapshot of an empty disk, whose size it records where `records`. */
static void open_with_snapshot(struct writer_case *subject, uint32_t version, bool records)
{
    const struct writer_options writer = {.growable = true};
    struct builder_options options = disk_of(M);
    struct builder_snapshot snapshot = {
        .id = "1", .name = "one", .disk_size = M, .extra_data_size = records ? 16 : 8};
    struct builder *builder;

    options.version = version;
    builder = builder_create(&options);
    snapshot.l1 = builder_add_l1(builder, 1);
    builder_snapshot(builder, &snapshot);
    writer_case_build(subject, builder, &writer);
}

/* `_i`: of version 2, which records no sizes; of version 3 with such a snapshot in it. */
START_TEST(a_disk_whose_snapshots_do_not_know_its_size_keeps_it)
{
    struct writer_case subject;

    open_with_snapshot(&subject, _i == 0 ? 2 : 3, false);
    ck_assert_int_eq(writer_resize(subject.writer, 2 * M, NULL), -ENOTSUP);
    ck_assert_int_eq(writer_resize(subject.writer, 512, NULL), -ENOTSUP);
    ck_assert_int_eq(writer_write(subject.writer, M - 4, "12345678", 8), -ENOSPC);
    ck_assert_int_eq(writer_resize(subject.writer, M, NULL), 0);
    ck_assert_uint_eq(view_size(subject.view), M);
    writer_case_close(&subject); /* to the check, such a snapshot in version 3 is an error */
}
END_TEST

START_TEST(a_disk_whose_snapshots_do_is_resized)
{
    struct writer_case subject;

    open_with_snapshot(&subject, 3, true);
    expect_resize(&subject, 2 * M);
    expect_resize(&subject, 512);
    end_sound(&subject);
}
END_TEST

START_TEST(a_resize_that_fails_leaves_the_size_as_it_was)
{
    struct writer_case subject;

    open_disk(&subject, M);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 1, ENOSPC);
    ck_assert_int_eq(writer_resize(subject.writer, 2 * M, NULL), -ENOSPC);
    ck_assert_uint_eq(view_size(subject.view), M);
    expect_resize(&subject, 2 * M);
    end_sound(&subject);
}
END_TEST

START_TEST(what_a_shrink_left_behind_when_it_failed_does_not_come_back)
{
    struct builder_options options = disk_of(M);
    struct writer_case subject;
    struct store *file;

    options.cluster_bits = 9;
    writer_case_build(&subject, builder_create(&options), NULL);
    expect_write(&subject, 0, M, 1);
    ck_assert_int_eq(writer_flush(subject.writer), 0);
    file = writer_case_end(&subject, NULL);
    writer_case_open(&subject, file, NULL);
    /* The size is written, and then the entries behind it cannot be looked at. */
    memory_store_fail_reads(subject.file, disk_l2_place(subject.file, M / 2) / 512 * 512, 512, EIO);
    ck_assert_int_eq(writer_resize(subject.writer, 4 * K, NULL), -EIO);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_SIZE), 4 * K);
    memory_store_fail_reads(subject.file, 0, 0, 0);
    expect_resize(&subject, M);
    expect_pattern(&subject, 0, 4 * K, 1, 0);
    expect_zeros(&subject, 4 * K, M - 4 * K);
    end_sound(&subject);
}
END_TEST

START_TEST(an_l1_table_that_the_header_may_name_keeps_its_clusters)
{
    struct builder_options options = disk_of(M);
    struct store *file;
    unsigned syncs, n;

    options.cluster_bits = 9;
    /* Whichever sync of the move fails. */
    for (n = 1, syncs = 1; n <= syncs; n++) {
        struct writer_case subject;
        unsigned before;
        int closed;

        writer_case_build(&subject, builder_create(&options), NULL);
        expect_write(&subject, 0, 8 * K, 1);
        expect_flush(&subject);
        before = memory_store_calls(subject.file, MEMORY_STORE_SYNC);
        if (n > 1) {
            memory_store_fail(subject.file, MEMORY_STORE_SYNC, n - 1, EIO);
        }
        ck_assert_int_eq(writer_resize(subject.writer, 8 * M, NULL), n > 1 ? -EIO : 0);
        if (n == 1) {
            syncs = memory_store_calls(subject.file, MEMORY_STORE_SYNC) - before + 1;
        }
        (void)writer_write(subject.writer, 16 * K, "x", 1);
        file = writer_case_end(&subject, &closed);
        expect_sound(file, true);
        writer_case_open(&subject, file, NULL);
        expect_pattern(&subject, 0, 8 * K, 1, 0);
        writer_case_close(&subject);
    }
    ck_assert_uint_gt(syncs, 3);
}
END_TEST

/* Whichever write of a growing disk fails, it alone or all that follow until the host works again.
 */
START_TEST(an_l1_table_that_could_not_move_leaves_nothing_behind)
{
    struct builder_options options = disk_of(M);
    struct store *file;
    unsigned writes, n;

    options.cluster_bits = 9;
    for (n = 1, writes = 1; n <= writes; n++) {
        struct writer_case subject;
        unsigned before;

        writer_case_build(&subject, builder_create(&options), NULL);
        expect_write(&subject, 0, 8 * K, 1);
        expect_flush(&subject);
        before = memory_store_calls(subject.file, MEMORY_STORE_WRITE);
        if (n > 1) {
            (_i == 0 ? memory_store_fail : memory_store_fail_from)(subject.file, MEMORY_STORE_WRITE,
                                                                   n - 1, EIO);
        }
        ck_assert_int_eq(writer_resize(subject.writer, 8 * M, NULL), n > 1 ? -EIO : 0);
        memory_store_fail(subject.file, MEMORY_STORE_WRITE, 0, 0);
        if (n == 1) {
            writes = memory_store_calls(subject.file, MEMORY_STORE_WRITE) - before + 1;
        }
        expect_write(&subject, 16 * K, 512, 2);
        expect_flush(&subject);
        file = writer_case_end(&subject, NULL);
        expect_sound(file, false);
        writer_case_open(&subject, file, NULL);
        expect_pattern(&subject, 0, 8 * K, 1, 0);
        expect_pattern(&subject, 16 * K, 512, 2, 0);
        writer_case_close(&subject);
    }
    ck_assert_uint_gt(writes, 3);
}
END_TEST

/* --- What is stopped ---------------------------------------------------------------------- */

/* For stop_ask(): yes, once it was asked so often. */
static bool was_asked_often(const void *context)
{
    unsigned *left = (unsigned *)(uintptr_t)context;

    return *left == 0 || --*left == 0;
}

static void stop_at(struct stop *stop, unsigned *often)
{
    stop_init(stop, NULL);
    stop_ask(stop, was_asked_often, often);
}

/* `_i`: by a punch; by zeros. */
START_TEST(zeroing_that_is_stopped_has_done_whole_clusters_and_goes_on_when_asked_again)
{
    struct writer_case subject;
    unsigned often = 4;
    struct stop stop;

    open_disk(&subject, 2 * M);
    expect_write(&subject, 0, 2 * M, 1);
    stop_at(&stop, &often);
    ck_assert_int_eq(writer_zero(subject.writer, 0, 2 * M, _i == 0, &stop), -EINTR);
    expect_zeros(&subject, 0, 2 * CLUSTER);
    expect_pattern(&subject, M, M, 1, M);
    ck_assert_int_eq(writer_zero(subject.writer, 0, 2 * M, _i == 0, &stop), -EINTR);
    expect_pattern(&subject, M, M, 1, M);
    ck_assert_int_eq(writer_zero(subject.writer, 0, 2 * M, _i == 0, NULL), 0);
    expect_zeros(&subject, 0, 2 * M);
    end_sound(&subject);
}
END_TEST

START_TEST(a_preallocation_that_is_stopped_goes_on_when_asked_again)
{
    struct writer_case subject;
    unsigned often = 4;
    struct stop stop;

    open_disk(&subject, 2 * M);
    stop_at(&stop, &often);
    ck_assert_int_eq(writer_preallocate(subject.writer, 0, 2 * M, &stop), -EINTR);
    expect_flush(&subject);
    ck_assert_uint_ne(disk_l2_entry(subject.file, 0), 0);
    ck_assert_uint_eq(disk_l2_entry(subject.file, M), 0);
    ck_assert_int_eq(writer_preallocate(subject.writer, 0, 2 * M, NULL), 0);
    expect_flush(&subject);
    ck_assert_uint_ne(disk_l2_entry(subject.file, M), 0);
    end_sound(&subject);
}
END_TEST

/* `_i`: while it looks for what a longer disk left; while it hides what the base has there. */
START_TEST(growing_that_is_stopped_leaves_the_size_as_it_was)
{
    struct builder_options options = disk_of(M);
    struct builder *builder = builder_create(&options);
    struct store *file = builder_store(builder), *base;
    struct writer_case subject;
    uint8_t *bytes = malloc(4 * M);
    unsigned often = _i == 0 ? 1 : 9;
    struct stop stop;

    builder_destroy(builder);
    builder_pattern(bytes, 4 * M, 9);
    base = memory_store_from(bytes, 4 * M);
    writer_case_open_on(&subject, file, assemble_image(base, IMAGE_RAW, 1, NULL), NULL);
    stop_at(&stop, &often);
    ck_assert_int_eq(writer_grow(subject.writer, 3 * M, &stop), -EINTR);
    ck_assert_uint_eq(view_size(subject.view), M);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_SIZE), M);
    expect_resize(&subject, 3 * M);
    expect_pattern(&subject, 0, M, 9, 0);
    expect_zeros(&subject, M, 2 * M);
    end_sound(&subject);
    free(bytes);
}
END_TEST

START_TEST(growing_never_makes_a_disk_smaller)
{
    struct writer_case subject;

    open_disk(&subject, 2 * M);
    expect_write(&subject, 0, 2 * M, 1);
    ck_assert_int_eq(writer_grow(subject.writer, M, NULL), 0);
    expect_pattern(&subject, 0, 2 * M, 1, 0);
    end_sound(&subject);
}
END_TEST

/* --- Growable: to the byte ------------------------------------------------------------------ */

static const struct writer_options growable = {.growable = true};

static void open_growable(struct writer_case *subject, uint64_t size)
{
    struct builder_options options = disk_of(size);

    writer_case_build(subject, builder_create(&options), &growable);
}

static void expect_sizes(struct writer_case *subject, uint64_t shown, uint64_t in_header)
{
    ck_assert_uint_eq(view_size(subject->view), shown);
    ck_assert_uint_eq(disk_u64(subject->file, HEADER_SIZE), in_header);
}

static void end_and_open_again(struct writer_case *subject)
{
    struct store *file = writer_case_end(subject, NULL);

    expect_sound(file, false);
    writer_case_open(subject, file, &growable);
}

START_TEST(a_disk_that_grows_ends_where_it_was_written_to_and_the_headers_size_is_of_sectors)
{
    struct writer_case subject;

    open_growable(&subject, M);
    ck_assert_int_eq(writer_grow(subject.writer, M + 100, NULL), 0);
    expect_sizes(&subject, M + 100, M + 512);
    expect_write(&subject, 0, M + 300, 1); /* within the last sector */
    expect_sizes(&subject, M + 300, M + 512);
    expect_write(&subject, M + 300, 700, 2);
    expect_sizes(&subject, M + 1000, M + 1024);
    ck_assert_int_eq(writer_resize(subject.writer, M + 1000, NULL), 0); /* it has that */
    expect_sizes(&subject, M + 1000, M + 1024);
    expect_pattern(&subject, 0, M + 300, 1, 0);
    expect_pattern(&subject, M + 300, 700, 2, 0);
    end_and_open_again(&subject);
    expect_sizes(&subject, M + 1024, M + 1024);
    expect_pattern(&subject, M + 300, 700, 2, 0);
    expect_zeros(&subject, M + 1000, 24);
    end_sound(&subject);
}
END_TEST

/* As of any file: and what is cut off is not there when it is longer, or opened, again. */
START_TEST(a_growable_disk_is_made_smaller_to_the_byte_and_nothing_comes_back)
{
    static const uint64_t sizes[] = {M + 1024, M + 1000, M + 700, M + 512, M - 1};
    struct writer_case subject;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint64_t size = sizes[i], rounded = (size + 511) / 512 * 512;

        open_growable(&subject, M + 4096);
        expect_write(&subject, 0, M + 4096, 1);
        if (_i == 1) {
            expect_flush(&subject);
        }
        ck_assert_int_eq(writer_resize(subject.writer, M + 1024, NULL), 0);
        ck_assert_int_eq(writer_resize(subject.writer, size, NULL), 0);
        expect_sizes(&subject, size, rounded);
        if (_i == 2) {
            ck_assert_int_eq(writer_resize(subject.writer, size + 5, NULL), 0);
            rounded = (size + 5 + 511) / 512 * 512;
            expect_sizes(&subject, size + 5, rounded);
            expect_zeros(&subject, size, 5);
        }
        end_and_open_again(&subject);
        expect_sizes(&subject, rounded, rounded);
        ck_assert_int_eq(writer_grow(subject.writer, M + 4096, NULL), 0);
        expect_pattern(&subject, 0, size, 1, 0);
        expect_zeros(&subject, size, M + 4096 - size);
        end_sound(&subject);
    }
}
END_TEST

START_TEST(a_disk_cut_within_its_last_sector_hides_the_rest_also_where_that_could_not_be_zeroed)
{
    struct writer_case subject;
    int result;

    open_growable(&subject, M);
    expect_write(&subject, 0, M, 1);
    expect_flush(&subject);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, (unsigned)_i + 1, EIO);
    result = writer_resize(subject.writer, M - 300, NULL);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 0, 0);
    if (result == 0) {
        expect_sizes(&subject, M - 300, M);
    }
    ck_assert_int_eq(writer_resize(subject.writer, M - 400, NULL), 0);
    ck_assert_int_eq(writer_grow(subject.writer, M - 200, NULL), 0);
    expect_zeros(&subject, M - 400, 200);
    end_and_open_again(&subject);
    expect_pattern(&subject, 0, M - 400, 1, 0);
    expect_zeros(&subject, M - 400, 400);
    end_sound(&subject);
}
END_TEST

/* What could not be zeroed when the disk was made smaller is in no snapshot, and not there later.
 */
START_TEST(what_a_cut_within_a_sector_left_is_in_no_snapshot_and_is_gone_when_opened_again)
{
    struct error error = {0};
    struct writer_case subject;
    uint8_t bytes[512];
    struct view *saved;

    open_growable(&subject, M);
    expect_write(&subject, 0, M, 1);
    expect_flush(&subject);
    memory_store_fail_from(subject.file, MEMORY_STORE_WRITE, 1, EIO);
    ck_assert_int_eq(writer_resize(subject.writer, M - 300, NULL), -EIO);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 0, 0);
    expect_sizes(&subject, M - 300, M);
    if (_i == 1) {
        ck_assert_int_eq(writer_snapshot_make(subject.writer, "now", &error), 0);
        expect_write(&subject, M - 300, 300, 2);
        ck_assert_int_eq(view_open_saved(subject.image, &subject.image->snapshots->snapshots[0],
                                         false, &saved, &error),
                         0);
        ck_assert_int_eq(view_read(saved, M - 512, bytes, 512), 0);
        view_close(saved);
        for (unsigned i = 212; i < 512; i++) {
            ck_assert_uint_eq(bytes[i], 0);
        }
        ck_assert_int_eq(writer_resize(subject.writer, M - 300, NULL), 0);
    }
    end_and_open_again(&subject);
    expect_pattern(&subject, 0, M - 300, 1, 0);
    expect_zeros(&subject, M - 300, 300);
    end_sound(&subject);
}
END_TEST

/* The snapshot's size is the header's, which does not change. */
START_TEST(with_snapshots_of_version_2_a_disk_still_grows_within_its_last_sector)
{
    struct builder_options options = disk_of(M);
    struct error error = {0};
    struct writer_case subject;

    options.version = 2;
    writer_case_build(&subject, builder_create(&options), &growable);
    ck_assert_int_eq(writer_grow(subject.writer, M + 100, NULL), 0);
    ck_assert_int_eq(writer_snapshot_make(subject.writer, "now", &error), 0);
    expect_write(&subject, M + 100, 100, 1);
    expect_sizes(&subject, M + 200, M + 512);
    ck_assert_int_eq(writer_resize(subject.writer, M + 1, NULL), 0);
    ck_assert_int_eq(writer_resize(subject.writer, M, NULL), -ENOTSUP);
    ck_assert_int_eq(writer_grow(subject.writer, M + 513, NULL), -ENOSPC);
    expect_sizes(&subject, M + 1, M + 512);
    end_sound(&subject);
}
END_TEST

START_TEST(a_disk_whose_shrinking_is_stopped_is_smaller_and_frees_the_rest_later)
{
    struct writer_case subject;
    unsigned often = 4;
    struct stop stop;
    uint64_t host;

    open_disk(&subject, 4 * M);
    expect_write(&subject, 0, 4 * M, 1);
    expect_flush(&subject);
    host = l2_entry_host_offset(disk_l2_entry(subject.file, 4 * M - CLUSTER));
    stop_at(&stop, &often);
    ck_assert_int_eq(writer_resize(subject.writer, 2 * M, &stop), 0);
    ck_assert_uint_eq(view_size(subject.view), 2 * M);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_SIZE), 2 * M);
    ck_assert_uint_ne(disk_l2_entry(subject.file, 4 * M - CLUSTER), 0);
    /* Before it begins, nothing has happened. */
    ck_assert_int_eq(writer_resize(subject.writer, M, &stop), -EINTR);
    ck_assert_uint_eq(view_size(subject.view), 2 * M);
    expect_resize(&subject, M);
    ck_assert_uint_eq(disk_l2_entry(subject.file, 4 * M - CLUSTER), 0);
    expect_flush(&subject);
    expect_flush(&subject);
    ck_assert_uint_eq(disk_refcount(subject.file, host), 0);
    expect_resize(&subject, 4 * M);
    expect_pattern(&subject, 0, M, 1, 0);
    expect_zeros(&subject, M, 3 * M);
    end_sound(&subject);
}
END_TEST

/* `_i`: by a punch; by zeros. Who went cluster by cluster would make 2^21 L2 tables. */
START_TEST(zeros_where_the_disk_is_empty_make_no_tables)
{
    const uint64_t size = UINT64_C(1) << 50;
    struct builder_options options = disk_of(size);
    struct writer_case subject;
    uint64_t length;

    options.cluster_bits = 21;
    writer_case_build(&subject, builder_create(&options), NULL);
    expect_write(&subject, size / 2, 4 * M, 1);
    expect_write(&subject, size - 4 * M, 4 * M, 2);
    expect_flush(&subject);
    length = memory_store_size(subject.file);
    expect_zero(&subject, M, size - 2 * M, _i == 0);
    expect_flush(&subject);
    ck_assert_uint_le(memory_store_size(subject.file), length);
    expect_zeros(&subject, size / 2, 4 * M);
    expect_zeros(&subject, size - 4 * M, 3 * M);
    expect_pattern(&subject, size - M, M, 2, 3 * M);
    end_sound(&subject);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("resize");
    TCase *tcase = tcase_create("resize");

    tcase_add_test(tcase, what_a_disk_gains_reads_as_zeros);
    tcase_add_test(tcase, what_a_disk_lost_does_not_come_back);
    tcase_add_test(tcase, a_larger_disk_does_not_show_what_the_base_has_there);
    tcase_add_test(tcase, the_clusters_behind_the_end_of_a_smaller_disk_are_free);
    tcase_add_test(tcase, a_size_is_rounded_up_to_whole_sectors);
    tcase_add_test(tcase, a_size_that_the_format_cannot_have_is_refused_and_nothing_changes);
    tcase_add_test(tcase, an_l1_table_that_is_too_short_moves);
    tcase_add_loop_test(tcase, a_disk_whose_snapshots_do_not_know_its_size_keeps_it, 0, 2);
    tcase_add_test(tcase, a_disk_whose_snapshots_do_is_resized);
    tcase_add_test(tcase, a_resize_that_fails_leaves_the_size_as_it_was);
    tcase_add_test(tcase, what_a_shrink_left_behind_when_it_failed_does_not_come_back);
    tcase_add_test(tcase, an_l1_table_that_the_header_may_name_keeps_its_clusters);
    tcase_add_loop_test(
        tcase, zeroing_that_is_stopped_has_done_whole_clusters_and_goes_on_when_asked_again, 0, 2);
    tcase_add_test(tcase, a_preallocation_that_is_stopped_goes_on_when_asked_again);
    tcase_add_loop_test(tcase, growing_that_is_stopped_leaves_the_size_as_it_was, 0, 2);
    tcase_add_test(tcase, growing_never_makes_a_disk_smaller);
    tcase_add_test(
        tcase, a_disk_that_grows_ends_where_it_was_written_to_and_the_headers_size_is_of_sectors);
    tcase_add_loop_test(tcase, a_growable_disk_is_made_smaller_to_the_byte_and_nothing_comes_back,
                        0, 3);
    tcase_add_loop_test(
        tcase, a_disk_cut_within_its_last_sector_hides_the_rest_also_where_that_could_not_be_zeroed,
        0, 3);
    tcase_add_loop_test(
        tcase, what_a_cut_within_a_sector_left_is_in_no_snapshot_and_is_gone_when_opened_again, 0,
        2);
    tcase_add_test(tcase, with_snapshots_of_version_2_a_disk_still_grows_within_its_last_sector);
    tcase_add_test(tcase, a_disk_whose_shrinking_is_stopped_is_smaller_and_frees_the_rest_later);
    tcase_add_loop_test(tcase, zeros_where_the_disk_is_empty_make_no_tables, 0, 2);
    tcase_add_loop_test(tcase, an_l1_table_that_could_not_move_leaves_nothing_behind, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
