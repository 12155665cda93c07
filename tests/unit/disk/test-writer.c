/* SPDX-License-Identifier: MIT */
/* What writing does to the image: which clusters it takes, copies, shares and gives up. */
#include "config.h"

#include "memory_store.h"
#include "suite.h"
#include "writer_case.h"

#include "meta/format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define K       UINT64_C(1024)
#define M       (UINT64_C(1) << 20)
#define CLUSTER (64 * K)

static struct builder *empty_builder(bool extended_l2)
{
    struct builder_options options = builder_defaults();

    options.virtual_size = 4 * M;
    options.extended_l2 = extended_l2;
    return builder_create(&options);
}

/* --- Opening --------------------------------------------------------------------------------- */

START_TEST(an_image_that_is_only_read_is_not_written)
{
    struct builder *builder = empty_builder(false);
    struct writer_case subject;
    struct store *before, *after;

    writer_case_pattern(builder, 0, 1);
    before = builder_store(builder);
    writer_case_open(&subject,
                     memory_store_from(memory_store_data(before), memory_store_size(before)), NULL);
    expect_pattern(&subject, 0, CLUSTER, 1, 0);
    expect_flush(&subject);
    ck_assert_uint_eq(memory_store_calls(subject.file, MEMORY_STORE_WRITE), 0);
    after = writer_case_end(&subject, NULL);
    ck_assert_uint_eq(memory_store_size(after), memory_store_size(before));
    ck_assert_mem_eq(memory_store_data(after), memory_store_data(before),
                     memory_store_size(before));
    store_close(before);
    store_close(after);
    builder_destroy(builder);
}
END_TEST

START_TEST(what_was_written_is_read_before_a_flush_and_after_the_next_opening)
{
    struct writer_case subject;
    struct store *file;

    writer_case_build(&subject, empty_builder(false), NULL);
    expect_write(&subject, 100 * K + 7, 200 * K, 1);
    expect_pattern(&subject, 100 * K + 7, 200 * K, 1, 0);
    expect_zeros(&subject, 0, 100 * K + 7);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    writer_case_open(&subject, file, NULL);
    expect_pattern(&subject, 100 * K + 7, 200 * K, 1, 0);
    expect_zeros(&subject, 300 * K + 7, M);
    writer_case_close(&subject);
}
END_TEST

START_TEST(an_image_marked_corrupt_is_not_written)
{
    struct builder_options options = builder_defaults();
    const struct writer_options none = {0};
    struct error error = {0};
    struct builder *builder;
    struct log_lines log;
    struct image *image;
    struct writer *writer;

    options.incompatible_features = INCOMPATIBLE_CORRUPT;
    builder = builder_create(&options);
    log_lines_init(&log);
    image = assemble_built(builder, 0, &log.log);
    assemble_cache(image, 0);
    ck_assert_int_eq(writer_open(image, &none, &writer, &error), -EROFS);
    ck_assert_ptr_nonnull(strstr(error.text, "corrupt"));
    image_close(image);
    log_release(&log.log);
}
END_TEST

/* --- Copy-on-write ------------------------------------------------------------------------------
 */

/* A raw disk of pattern 9 behind an empty image; it belongs to the image. */
static struct image *raw_base(struct store **store)
{
    uint8_t *bytes = malloc(4 * M);
    struct image *base;

    builder_pattern(bytes, 4 * M, 9);
    *store = memory_store_from(bytes, 4 * M);
    base = assemble_image(*store, IMAGE_RAW, 1, NULL);
    free(bytes);
    return base;
}

static void open_overlay(struct writer_case *subject, bool extended_l2, struct store **base_store)
{
    struct builder *builder = empty_builder(extended_l2);
    struct store *file = builder_store(builder);

    builder_destroy(builder);
    writer_case_open_on(subject, file, raw_base(base_store), NULL);
}

START_TEST(a_cluster_that_is_overwritten_as_a_whole_is_not_read)
{
    struct writer_case subject;
    struct store *base;

    open_overlay(&subject, false, &base);
    expect_write(&subject, CLUSTER, 3 * CLUSTER, 1);
    ck_assert_uint_eq(memory_store_calls(base, MEMORY_STORE_READ), 0);
    expect_pattern(&subject, CLUSTER, 3 * CLUSTER, 1, 0);
    writer_case_close(&subject);
}
END_TEST

START_TEST(around_a_part_that_is_overwritten_the_rest_is_copied)
{
    struct writer_case subject;
    struct store *base;

    open_overlay(&subject, false, &base);
    expect_write(&subject, CLUSTER + 100, 10 * K, 1);
    /* What is before, and what is behind it. */
    ck_assert_uint_eq(memory_store_calls(base, MEMORY_STORE_READ), 2);
    expect_flush(&subject);
    expect_pattern(&subject, 0, CLUSTER + 100, 9, 0);
    expect_pattern(&subject, CLUSTER + 100, 10 * K, 1, 0);
    expect_pattern(&subject, CLUSTER + 100 + 10 * K, CLUSTER, 9, CLUSTER + 100 + 10 * K);
    writer_case_close(&subject);
}
END_TEST

START_TEST(only_the_subclusters_that_are_touched_are_allocated)
{
    struct writer_case subject;
    struct store *base;

    open_overlay(&subject, true, &base);
    expect_write(&subject, 3 * 2 * K + 5, 10, 1);             /* in subcluster 3 */
    expect_write(&subject, 8 * 2 * K, 2 * 2 * K, 2);          /* 8 and 9 */
    expect_write(&subject, 12 * 2 * K - 1, 2 * 2 * K + 2, 3); /* 11 to 14 */
    expect_flush(&subject);
    ck_assert_uint_eq(disk_u64(subject.file, disk_l2_place(subject.file, 0) + 8),
                      1 << 3 | 3 << 8 | 15 << 11);
    expect_pattern(&subject, 0, 3 * 2 * K + 5, 9, 0);
    expect_pattern(&subject, 3 * 2 * K + 5, 10, 1, 0);
    expect_pattern(&subject, 3 * 2 * K + 15, 10 * K - 15, 9, 3 * 2 * K + 15);
    expect_pattern(&subject, 8 * 2 * K, 4 * K, 2, 0);
    expect_pattern(&subject, 12 * 2 * K - 1, 4 * K + 2, 3, 0);
    expect_pattern(&subject, 15 * 2 * K, CLUSTER, 9, 15 * 2 * K);
    writer_case_close(&subject);
}
END_TEST

START_TEST(a_subcluster_that_is_overwritten_as_a_whole_is_not_read)
{
    struct writer_case subject;
    struct store *base;

    open_overlay(&subject, true, &base);
    expect_write(&subject, 4 * 2 * K, 4 * K, 1);
    ck_assert_uint_eq(memory_store_calls(base, MEMORY_STORE_READ), 0);
    writer_case_close(&subject);
}
END_TEST

START_TEST(a_later_write_to_another_subcluster_uses_the_same_cluster)
{
    struct writer_case subject;
    uint64_t entry;

    writer_case_build(&subject, empty_builder(true), NULL);
    expect_write(&subject, 0, 2 * K, 1);
    expect_flush(&subject);
    entry = disk_l2_entry(subject.file, 0);
    expect_write(&subject, 10 * K, 2 * K, 2);
    expect_flush(&subject);
    ck_assert_uint_eq(disk_l2_entry(subject.file, 0), entry);
    expect_zeros(&subject, 2 * K, 8 * K);
    writer_case_close(&subject);
}
END_TEST

/* --- COPIED, and counts
 * --------------------------------------------------------------------------- */

START_TEST(entries_of_new_clusters_and_tables_have_the_copied_bit)
{
    struct writer_case subject;
    uint64_t l1, l2;

    writer_case_build(&subject, empty_builder(false), NULL);
    ck_assert_uint_eq(disk_l1_entry(subject.file, 0), 0);
    expect_write(&subject, 0, 1, 1);
    expect_flush(&subject);
    l1 = disk_l1_entry(subject.file, 0);
    l2 = disk_l2_entry(subject.file, 0);
    ck_assert_uint_eq(l1 & ENTRY_COPIED, ENTRY_COPIED);
    ck_assert_uint_eq(l2 & ENTRY_COPIED, ENTRY_COPIED);
    ck_assert_uint_eq(disk_refcount(subject.file, l1_entry_table(l1)), 1);
    ck_assert_uint_eq(disk_refcount(subject.file, l2_entry_host_offset(l2)), 1);
    writer_case_close(&subject);
}
END_TEST

/* Data at guest 0 and CLUSTER, in an L2 table that a snapshot shares; their host offsets. */
static struct store *shared_image(uint64_t host_offsets[2], uint64_t *table)
{
    struct builder *builder = empty_builder(false);
    struct builder_snapshot snapshot = {
        .id = "1", .name = "one", .disk_size = 4 * M, .extra_data_size = 16};
    struct store *file;

    host_offsets[0] = writer_case_pattern(builder, 0, 1);
    host_offsets[1] = writer_case_pattern(builder, CLUSTER, 2);
    *table = builder_l2_table(builder, 0);
    builder_set_l2_entry(builder, 0, host_offsets[0], 0);
    builder_set_l2_entry(builder, CLUSTER, host_offsets[1], 0);
    builder_set_l1_entry(builder, 0, *table);
    snapshot.l1 = builder_add_l1(builder, 1);
    builder_set_l1_entry(builder, 0, *table);
    builder_snapshot(builder, &snapshot);
    file = builder_store(builder);
    builder_destroy(builder);
    disk_set_refcount(file, host_offsets[0], 2);
    disk_set_refcount(file, host_offsets[1], 2);
    disk_set_refcount(file, *table, 2);
    expect_sound(file, false);
    return file;
}

static void expect_snapshot(struct writer_case *subject)
{
    struct writer_case snapshot = *subject;
    struct error error = {0};

    ck_assert_int_eq(view_open_snapshot(subject->image, 0, &snapshot.view, &error), 0);
    expect_pattern(&snapshot, 0, CLUSTER, 1, 0);
    expect_pattern(&snapshot, CLUSTER, CLUSTER, 2, 0);
    view_close(snapshot.view);
}

START_TEST(writing_where_a_snapshot_shares_makes_own_copies_and_leaves_the_snapshot_alone)
{
    struct writer_case subject;
    uint64_t hosts[2], table, l1, l2;
    struct store *file = shared_image(hosts, &table);

    writer_case_open(&subject, file, NULL);
    expect_write(&subject, 100, 1000, 3);
    expect_flush(&subject);
    expect_flush(&subject); /* brings the counts that fell */
    l1 = disk_l1_entry(file, 0);
    l2 = disk_l2_entry(file, 0);
    ck_assert_uint_ne(l1_entry_table(l1), table);
    ck_assert_uint_ne(l2_entry_host_offset(l2), hosts[0]);
    ck_assert_uint_eq(l2 & ENTRY_COPIED, ENTRY_COPIED);
    ck_assert_uint_eq(disk_l2_entry(file, CLUSTER), hosts[1]);
    ck_assert_uint_eq(disk_refcount(file, table), 1);
    ck_assert_uint_eq(disk_refcount(file, hosts[0]), 1);
    ck_assert_uint_eq(disk_refcount(file, hosts[1]), 2);
    ck_assert_uint_eq(disk_refcount(file, l1_entry_table(l1)), 1);
    ck_assert_uint_eq(disk_refcount(file, l2_entry_host_offset(l2)), 1);
    expect_pattern(&subject, 0, 100, 1, 0);
    expect_pattern(&subject, 100, 1000, 3, 0);
    expect_pattern(&subject, 1100, CLUSTER - 1100, 1, 1100);
    expect_pattern(&subject, CLUSTER, CLUSTER, 2, 0);
    expect_snapshot(&subject);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(discarding_what_a_snapshot_shares_leaves_it_to_the_snapshot)
{
    struct writer_case subject;
    uint64_t hosts[2], table;
    struct store *file = shared_image(hosts, &table);

    writer_case_open(&subject, file, &(struct writer_options){.discard = true});
    expect_zero(&subject, 0, 2 * CLUSTER, true);
    expect_flush(&subject);
    expect_flush(&subject);
    ck_assert_uint_eq(memory_store_calls(file, MEMORY_STORE_PUNCH), 0);
    ck_assert_uint_eq(disk_refcount(file, hosts[0]), 1);
    ck_assert_uint_eq(disk_refcount(file, hosts[1]), 1);
    expect_zeros(&subject, 0, 2 * CLUSTER);
    expect_snapshot(&subject);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(a_host_cluster_of_several_compressed_ones_is_free_when_the_last_of_them_is)
{
    struct builder *builder = empty_builder(false);
    uint8_t *bytes = malloc(CLUSTER);
    struct writer_case subject;
    uint64_t host, guest;
    struct store *file;

    host = builder_allocate(builder, 1);
    for (guest = 0; guest < 3 * CLUSTER; guest += CLUSTER) {
        memset(bytes, (int)(1 + guest / CLUSTER), CLUSTER);
        builder_compressed(builder, guest, bytes, host + guest / CLUSTER * 1000);
    }
    free(bytes);
    file = builder_store(builder);
    builder_destroy(builder);
    disk_set_refcount(file, host, 3);
    expect_sound(file, false);
    writer_case_open(&subject, file, NULL);
    for (guest = 0; guest < 3 * CLUSTER; guest += CLUSTER) {
        uint8_t first = 0, last = 0;

        expect_write(&subject, guest + 100, 10, 1);
        expect_flush(&subject);
        expect_flush(&subject);
        ck_assert_uint_eq(disk_refcount(file, host), 2 - guest / CLUSTER);
        ck_assert_int_eq(view_read(subject.view, guest, &first, 1), 0);
        ck_assert_int_eq(view_read(subject.view, 3 * CLUSTER - 1, &last, 1), 0);
        ck_assert_uint_eq(first, 1 + guest / CLUSTER);
        ck_assert_uint_eq(last, 3);
    }
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(zeros_over_a_cluster_keep_its_place_unless_it_is_to_be_unmapped)
{
    struct builder *builder = empty_builder(false);
    struct writer_case subject;
    uint64_t host = writer_case_pattern(builder, 0, 1);
    struct store *file;

    writer_case_pattern(builder, CLUSTER, 2);
    writer_case_build(&subject, builder, NULL);
    expect_zero(&subject, 0, CLUSTER, false);
    expect_zero(&subject, CLUSTER, CLUSTER, true);
    expect_flush(&subject);
    ck_assert_uint_eq(disk_l2_entry(subject.file, 0), host | ENTRY_COPIED | L2_ENTRY_ZERO);
    ck_assert_uint_eq(disk_l2_entry(subject.file, CLUSTER), L2_ENTRY_ZERO);
    expect_zeros(&subject, 0, 2 * CLUSTER);
    expect_write(&subject, 10, 10, 3); /* the old bytes must not show */
    expect_zeros(&subject, 20, 2 * CLUSTER);
    expect_zeros(&subject, 0, 10);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

/* --- What a closed image looks like -------------------------------------------------------------
 */

START_TEST(what_was_reserved_and_not_used_is_given_back_at_the_end)
{
    struct writer_case subject;
    struct store *file;

    writer_case_build(&subject, empty_builder(false), NULL);
    expect_write(&subject, 0, 1, 1);
    ck_assert_uint_ge(memory_store_size(subject.file), M);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    ck_assert_uint_le(memory_store_size(file), 10 * CLUSTER);
    store_close(file);
}
END_TEST

START_TEST(a_write_past_the_end_of_the_disk_fails)
{
    struct writer_case subject;
    uint8_t byte = 1;

    writer_case_build(&subject, empty_builder(false), NULL);
    ck_assert_int_eq(writer_write(subject.writer, 4 * M, &byte, 1), -ENOSPC);
    ck_assert_int_eq(writer_write(subject.writer, UINT64_MAX, &byte, 1), -EFBIG);
    ck_assert_int_eq(writer_write(subject.writer, INT64_MAX, &byte, 1), -EFBIG);
    ck_assert_int_lt(writer_zero(subject.writer, 4 * M - 1, 2, false, NULL), 0);
    ck_assert_int_lt(writer_preallocate(subject.writer, 4 * M - 1, 2, NULL), 0);
    expect_write(&subject, 4 * M - 1, 1, 1);
    writer_case_close(&subject);
}
END_TEST

START_TEST(a_write_past_the_end_of_a_growable_disk_makes_it_larger)
{
    const struct writer_options growable = {.growable = true};
    struct writer_case subject;
    struct store *file;

    writer_case_build(&subject, empty_builder(false), &growable);
    expect_write(&subject, 5 * M + 5, 1000, 1);
    ck_assert_uint_eq(view_size(subject.view), 5 * M + 1005);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_SIZE), 5 * M + 1024); /* whole sectors */
    expect_zeros(&subject, 4 * M - 5, M + 10);
    expect_pattern(&subject, 5 * M + 5, 1000, 1, 0);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(preallocation_gives_each_cluster_a_place_and_changes_nothing_that_shows)
{
    struct writer_case subject;
    struct store *base;
    uint64_t guest;

    open_overlay(&subject, false, &base);
    expect_zero(&subject, 2 * CLUSTER, CLUSTER, true);
    ck_assert_int_eq(writer_preallocate(subject.writer, 0, 4 * CLUSTER, NULL), 0);
    expect_flush(&subject);
    for (guest = 0; guest < 4 * CLUSTER; guest += CLUSTER) {
        ck_assert_uint_ne(l2_entry_host_offset(disk_l2_entry(subject.file, guest)), 0);
    }
    expect_pattern(&subject, 0, 2 * CLUSTER, 9, 0);
    expect_zeros(&subject, 2 * CLUSTER, CLUSTER);
    expect_pattern(&subject, 3 * CLUSTER, CLUSTER, 9, 3 * CLUSTER);
    writer_case_close(&subject);
}
END_TEST

/* Fresh clusters at the end of the file, and such as were something else's before. */
START_TEST(preallocation_that_is_sparse_writes_no_zeros)
{
    struct writer_case subject;
    struct store *base;
    size_t writes, punches;

    open_overlay(&subject, false, &base);
    expect_write(&subject, 0, 8 * CLUSTER, 3);
    expect_flush(&subject);
    expect_zero(&subject, 0, 8 * CLUSTER, true);
    expect_zero(&subject, 16 * CLUSTER, 40 * CLUSTER, true);
    expect_flush(&subject);
    writes = memory_store_calls(subject.file, MEMORY_STORE_WRITE);
    punches = memory_store_calls(subject.file, MEMORY_STORE_PUNCH);
    ck_assert_int_eq(writer_preallocate_sparse(subject.writer, 0, 8 * CLUSTER, NULL), 0);
    ck_assert_int_eq(writer_preallocate_sparse(subject.writer, 16 * CLUSTER, 40 * CLUSTER, NULL),
                     0);
    ck_assert_uint_lt(memory_store_calls(subject.file, MEMORY_STORE_WRITE) - writes, 8);
    ck_assert_uint_gt(memory_store_calls(subject.file, MEMORY_STORE_PUNCH), punches);
    ck_assert_int_eq(writer_preallocate_sparse(subject.writer, 8 * CLUSTER, 8 * CLUSTER, NULL), 0);
    expect_flush(&subject);
    for (uint64_t guest = 0; guest < 56 * CLUSTER; guest += CLUSTER) {
        ck_assert_uint_ne(l2_entry_host_offset(disk_l2_entry(subject.file, guest)), 0);
    }
    expect_zeros(&subject, 0, 8 * CLUSTER);
    expect_pattern(&subject, 8 * CLUSTER, 8 * CLUSTER, 9, 8 * CLUSTER);
    expect_zeros(&subject, 16 * CLUSTER, 40 * CLUSTER);
    writer_case_close(&subject);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("writer");
    TCase *opening = tcase_create("opening"), *copies = tcase_create("copy-on-write"),
          *counts = tcase_create("counts"), *limits = tcase_create("limits");

    tcase_add_test(opening, an_image_that_is_only_read_is_not_written);
    tcase_add_test(opening, what_was_written_is_read_before_a_flush_and_after_the_next_opening);
    tcase_add_test(opening, an_image_marked_corrupt_is_not_written);
    tcase_add_test(copies, a_cluster_that_is_overwritten_as_a_whole_is_not_read);
    tcase_add_test(copies, around_a_part_that_is_overwritten_the_rest_is_copied);
    tcase_add_test(copies, only_the_subclusters_that_are_touched_are_allocated);
    tcase_add_test(copies, a_subcluster_that_is_overwritten_as_a_whole_is_not_read);
    tcase_add_test(copies, a_later_write_to_another_subcluster_uses_the_same_cluster);
    tcase_add_test(counts, entries_of_new_clusters_and_tables_have_the_copied_bit);
    tcase_add_test(counts,
                   writing_where_a_snapshot_shares_makes_own_copies_and_leaves_the_snapshot_alone);
    tcase_add_test(counts, discarding_what_a_snapshot_shares_leaves_it_to_the_snapshot);
    tcase_add_test(counts,
                   a_host_cluster_of_several_compressed_ones_is_free_when_the_last_of_them_is);
    tcase_add_test(counts, zeros_over_a_cluster_keep_its_place_unless_it_is_to_be_unmapped);
    tcase_add_test(limits, what_was_reserved_and_not_used_is_given_back_at_the_end);
    tcase_add_test(limits, a_write_past_the_end_of_the_disk_fails);
    tcase_add_test(limits, a_write_past_the_end_of_a_growable_disk_makes_it_larger);
    tcase_add_test(limits, preallocation_gives_each_cluster_a_place_and_changes_nothing_that_shows);
    tcase_add_test(limits, preallocation_that_is_sparse_writes_no_zeros);
    suite_add_tcase(suite, opening);
    suite_add_tcase(suite, copies);
    suite_add_tcase(suite, counts);
    suite_add_tcase(suite, limits);
    return suite_main(suite);
}
