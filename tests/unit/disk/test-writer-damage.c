/* SPDX-License-Identifier: MIT */
/* R8 of docs/design.md, and counts that are not believed: what a writer does with a damaged image.
 */
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

/* What counts that are too low lead to is to be seen. */
static const struct writer_options unchecked = {.check = WRITER_CHECK_OFF};
static const struct writer_options discard = {.check = WRITER_CHECK_OFF, .discard = true};

/* --- R8 ------------------------------------------------------------------------------------------
 */

/* What an entry of the disk points at that is no place of data. */
enum target {
    TARGET_L1_TABLE,
    TARGET_REFCOUNT_TABLE,
    TARGET_REFCOUNT_BLOCK,
    TARGET_L2_TABLE,
    TARGETS,
};

static uint64_t target_offset(struct store *file, enum target target)
{
    switch (target) {
    case TARGET_L1_TABLE:
        return disk_u64(file, HEADER_L1_TABLE_OFFSET);
    case TARGET_REFCOUNT_TABLE:
        return disk_u64(file, HEADER_REFCOUNT_TABLE_OFFSET);
    case TARGET_REFCOUNT_BLOCK:
        return disk_refcount_block(file);
    default:
        return l1_entry_table(disk_l1_entry(file, 0));
    }
}

/* Data at guest offset 0, and at 2 * CLUSTER an entry, with `flags`, that is wrong. */
static void open_damaged(struct writer_case *subject, uint32_t version, enum target target,
                         uint64_t flags)
{
    struct builder_options options = writer_case_large_disk();
    struct builder *builder;
    struct store *file;

    options.version = version;
    builder = builder_create(&options);
    writer_case_pattern(builder, 0, 1);
    file = builder_store(builder);
    builder_destroy(builder);
    disk_set_u64(file, disk_l2_place(file, 0) + 2 * L2_ENTRY_BYTES,
                 target_offset(file, target) | flags);
    writer_case_open(subject, file, &unchecked);
    /* The blocks that the cache knows are those that were used. */
    expect_write(subject, CLUSTER, 10, 5);
    expect_flush(subject);
}

/* The write fails, nothing of the target is touched, and from then on nothing is written. */
static void expect_refused(struct writer_case *subject, uint32_t version, uint64_t target)
{
    uint8_t *before = malloc(CLUSTER), byte = 1;
    unsigned writes;

    memcpy(before, memory_store_data(subject->file) + target, CLUSTER);
    ck_assert_int_eq(writer_write(subject->writer, 2 * CLUSTER + 100, &byte, 1), -EIO);
    ck_assert_mem_eq(memory_store_data(subject->file) + target, before, CLUSTER);
    if (version >= 3) {
        ck_assert_uint_eq(disk_u64(subject->file, HEADER_INCOMPATIBLE_FEATURES),
                          INCOMPATIBLE_CORRUPT);
    }
    writes = memory_store_calls(subject->file, MEMORY_STORE_WRITE);
    ck_assert_int_eq(writer_write(subject->writer, 5, &byte, 1), -EIO);
    ck_assert_int_eq(writer_zero(subject->writer, 0, CLUSTER, true, NULL), -EIO);
    ck_assert_int_eq(writer_preallocate(subject->writer, 0, CLUSTER, NULL), -EIO);
    ck_assert_int_eq(writer_resize(subject->writer, 512 * M, NULL), -EIO);
    ck_assert_uint_eq(memory_store_calls(subject->file, MEMORY_STORE_WRITE), writes);
    expect_pattern(subject, 0, CLUSTER, 1, 0);
    ck_assert_ptr_nonnull(strstr(subject->log.text, "writing stops"));
    free(before);
}

START_TEST(a_write_in_place_over_a_table_is_refused_and_the_image_marked_corrupt)
{
    struct writer_case subject;

    open_damaged(&subject, 3, (enum target)_i, ENTRY_COPIED);
    expect_refused(&subject, 3, target_offset(subject.file, (enum target)_i));
    store_close(writer_case_end(&subject, &(int){0}));
}
END_TEST

START_TEST(where_writing_has_stopped_closing_frees_and_cuts_nothing)
{
    struct writer_case subject;
    uint8_t bytes[CLUSTER] = {1};
    uint64_t size;
    struct store *file;
    int result;

    open_damaged(&subject, 3, TARGET_L1_TABLE, ENTRY_COPIED);
    ck_assert_int_eq(writer_write(subject.writer, 5 * CLUSTER, bytes, CLUSTER), 0);
    ck_assert_int_eq(writer_write(subject.writer, 2 * CLUSTER, bytes, 1), -EIO);
    size = memory_store_size(subject.file);
    file = writer_case_end(&subject, &result);
    ck_assert_int_eq(result, 0);
    ck_assert_uint_eq(memory_store_size(file), size);
    ck_assert_uint_eq(disk_l2_entry(file, 5 * CLUSTER) & ENTRY_COPIED, ENTRY_COPIED);
    store_close(file);
}
END_TEST

/* An L1 entry names another table, with the COPIED bit or without: nothing is written to it. */
START_TEST(an_l1_entry_that_names_another_table_is_refused)
{
    enum target target = (enum target)(_i / 2);
    struct builder_options options = writer_case_large_disk();
    struct builder *builder;
    struct writer_case subject;
    struct store *file;
    uint64_t host;
    uint8_t *before = malloc(CLUSTER), byte = 1;

    options.virtual_size = 1024 * M;
    builder = builder_create(&options);
    writer_case_pattern(builder, 0, 1);
    file = builder_store(builder);
    builder_destroy(builder);
    host = target_offset(file, target);
    memcpy(before, memory_store_data(file) + host, CLUSTER);
    disk_set_u64(file, disk_u64(file, HEADER_L1_TABLE_OFFSET) + L1_ENTRY_BYTES,
                 host | (_i % 2 == 0 ? ENTRY_COPIED : 0));
    if (target == TARGET_L1_TABLE) {
        memcpy(before, memory_store_data(file) + host, CLUSTER);
    }
    writer_case_open(&subject, file, &unchecked);
    ck_assert_int_eq(writer_write(subject.writer, 800 * M, &byte, 1), -EIO);
    ck_assert_uint_eq(disk_u64(file, HEADER_INCOMPATIBLE_FEATURES), INCOMPATIBLE_CORRUPT);
    (void)writer_flush(subject.writer);
    ck_assert_mem_eq(memory_store_data(file) + host, before, CLUSTER);
    file = writer_case_end(&subject, &(int){0});
    ck_assert_mem_eq(memory_store_data(file) + host, before, CLUSTER);
    store_close(file);
    free(before);
}
END_TEST

/* A cluster of a table, named by an entry without the COPIED bit, is not freed either. */
START_TEST(a_table_that_an_entry_names_as_shared_data_is_not_freed)
{
    struct writer_case subject;
    uint64_t host;

    open_damaged(&subject, 3, (enum target)_i, 0);
    host = target_offset(subject.file, (enum target)_i);
    ck_assert_int_eq(writer_zero(subject.writer, 2 * CLUSTER, CLUSTER, true, NULL), 0);
    (void)writer_flush(subject.writer);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_INCOMPATIBLE_FEATURES), INCOMPATIBLE_CORRUPT);
    ck_assert_uint_eq(disk_refcount(subject.file, host), 1);
    ck_assert_ptr_nonnull(strstr(subject.log.text, "writing stops"));
    store_close(writer_case_end(&subject, &(int){0}));
}
END_TEST

/* The refcount table names another table as a block. */
START_TEST(a_refcount_block_that_is_another_table_is_not_written)
{
    struct builder_options options = writer_case_large_disk();
    struct builder *builder = builder_create(&options);
    struct writer_case subject;
    struct store *file;
    uint64_t table;
    uint8_t *before = malloc(CLUSTER), byte = 1;

    writer_case_pattern(builder, 0, 1);
    file = builder_store(builder);
    builder_destroy(builder);
    table = target_offset(file, _i == 0 ? TARGET_L1_TABLE : TARGET_L2_TABLE);
    memcpy(before, memory_store_data(file) + table, CLUSTER);
    disk_set_u64(file, disk_u64(file, HEADER_REFCOUNT_TABLE_OFFSET), table);
    writer_case_open(&subject, file, &unchecked);
    ck_assert_int_eq(writer_write(subject.writer, 10 * CLUSTER, &byte, 1), -EIO);
    ck_assert_uint_eq(disk_u64(file, HEADER_INCOMPATIBLE_FEATURES), INCOMPATIBLE_CORRUPT);
    ck_assert_mem_eq(memory_store_data(file) + table, before, CLUSTER);
    store_close(writer_case_end(&subject, &(int){0}));
    free(before);
}
END_TEST

START_TEST(a_preallocated_cluster_whose_place_is_a_table_is_not_written)
{
    struct writer_case subject;

    open_damaged(&subject, 3, (enum target)_i, ENTRY_COPIED | L2_ENTRY_ZERO);
    expect_refused(&subject, 3, target_offset(subject.file, (enum target)_i));
    store_close(writer_case_end(&subject, &(int){0}));
}
END_TEST

START_TEST(in_version_2_which_has_no_corrupt_bit_writing_stops_too)
{
    struct writer_case subject;

    open_damaged(&subject, 2, TARGET_L1_TABLE, ENTRY_COPIED);
    expect_refused(&subject, 2, target_offset(subject.file, TARGET_L1_TABLE));
    store_close(writer_case_end(&subject, &(int){0}));
}
END_TEST

START_TEST(a_cluster_that_is_a_table_though_its_count_is_0_is_not_written)
{
    struct builder_options options = writer_case_large_disk();
    struct builder *builder = builder_create(&options);
    struct writer_case subject;
    struct store *file;
    uint64_t table;
    uint8_t byte = 1;

    writer_case_pattern(builder, 0, 1);
    file = builder_store(builder);
    builder_destroy(builder);
    table = target_offset(file, (enum target)_i);
    disk_set_refcount(file, table, 0);
    writer_case_open(&subject, file, &discard);
    ck_assert_int_eq(writer_write(subject.writer, CLUSTER, &byte, 1), -EIO);
    ck_assert_uint_eq(disk_u64(file, HEADER_INCOMPATIBLE_FEATURES), INCOMPATIBLE_CORRUPT);
    ck_assert_uint_eq(memory_store_calls(file, MEMORY_STORE_PUNCH), 0);
    expect_pattern(&subject, 0, CLUSTER, 1, 0);
    store_close(writer_case_end(&subject, &(int){0}));
}
END_TEST

/* The counts of a data cluster and of a table are 0: neither is handed out. */
static struct store *uncounted(void)
{
    struct builder_options options = writer_case_large_disk();
    struct builder *builder = builder_create(&options);
    uint64_t data = writer_case_pattern(builder, 0, 1);
    struct store *file = builder_store(builder);

    builder_destroy(builder);
    disk_set_refcount(file, data, 0);
    disk_set_refcount(file, target_offset(file, TARGET_L2_TABLE), 0);
    return file;
}

START_TEST(counts_that_are_too_low_leave_the_disk_read_only)
{
    const struct writer_options options = {.growable = true}; /* who says nothing has it checked */
    struct writer_case subject;
    uint8_t byte = 1;

    writer_case_open(&subject, uncounted(), &options);
    ck_assert_ptr_nonnull(
        strstr(subject.log.text, "2 of its clusters have refcounts that are too"));
    ck_assert_ptr_nonnull(strstr(subject.log.text, "qcow2ctl check --repair"));
    ck_assert_int_eq(writer_write(subject.writer, 0, &byte, 1), -EROFS);
    ck_assert_int_eq(writer_write(subject.writer, 512 * M, &byte, 1), -EROFS);
    ck_assert_int_eq(writer_zero(subject.writer, 0, CLUSTER, true, NULL), -EROFS);
    ck_assert_int_eq(writer_preallocate(subject.writer, 0, CLUSTER, NULL), -EROFS);
    ck_assert_int_eq(writer_resize(subject.writer, 512 * M, NULL), -EROFS);
    ck_assert_int_eq(writer_flush(subject.writer), 0);
    expect_pattern(&subject, 0, CLUSTER, 1, 0);
    ck_assert_uint_eq(memory_store_calls(subject.file, MEMORY_STORE_WRITE), 0);
    store_close(writer_case_end(&subject, NULL));
}
END_TEST

START_TEST(counts_that_are_too_low_are_repaired_where_that_is_wanted)
{
    const struct writer_options options = {.repair = true};
    struct writer_case subject;
    struct store *file;

    writer_case_open(&subject, uncounted(), &options);
    expect_write(&subject, 5 * CLUSTER, 3 * CLUSTER, 4);
    expect_pattern(&subject, 0, CLUSTER, 1, 0);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

/* Two entries name one data cluster, both with the COPIED bit; its count says 2, if it can. */
static struct store *shared_twice(uint32_t refcount_order)
{
    struct builder_options options = writer_case_large_disk();
    struct builder *builder;
    struct store *file;
    uint64_t data;

    options.refcount_order = refcount_order;
    builder = builder_create(&options);
    data = writer_case_pattern(builder, 0, 1);
    file = builder_store(builder);
    builder_destroy(builder);
    disk_set_u64(file, disk_l2_place(file, 0) + 2 * L2_ENTRY_BYTES, disk_l2_entry(file, 0));
    if (refcount_order == 4) {
        disk_set_refcount(file, data, 2);
    }
    return file;
}

/* Each change of one of them would be seen in the other, or free it. */
static void expect_only_read(struct writer_case *subject, const char *why)
{
    uint8_t byte = 1;

    ck_assert_msg(strstr(subject->log.text, why) != NULL, "%s", subject->log.text);
    ck_assert_int_eq(writer_write(subject->writer, 0, &byte, 1), -EROFS);
    ck_assert_int_eq(writer_zero(subject->writer, 0, CLUSTER, true, NULL), -EROFS);
    expect_pattern(subject, 2 * CLUSTER, CLUSTER, 1, 0);
    ck_assert_uint_eq(memory_store_calls(subject->file, MEMORY_STORE_WRITE), 0);
    ck_assert_uint_eq(memory_store_calls(subject->file, MEMORY_STORE_PUNCH), 0);
}

START_TEST(more_references_than_counts_can_say_leave_the_disk_read_only)
{
    const struct writer_options options = {.check = WRITER_CHECK_AUTO, .discard = true};
    struct writer_case subject;

    writer_case_open(&subject, shared_twice(0), &options);
    expect_only_read(&subject, "have 1 references more than refcounts of 1 bits can say");
    ck_assert_ptr_nonnull(strstr(subject.log.text, "copy it with qcow2ctl convert"));
    store_close(writer_case_end(&subject, NULL));
}
END_TEST

START_TEST(copied_bits_of_what_is_shared_leave_the_disk_read_only)
{
    const struct writer_options options = {.check = WRITER_CHECK_AUTO, .discard = true};
    struct writer_case subject;

    writer_case_open(&subject, shared_twice(4), &options);
    expect_only_read(&subject, "2 of its entries have the COPIED bit set, and others refer");
    ck_assert_ptr_nonnull(strstr(subject.log.text, "qcow2ctl check --repair"));
    store_close(writer_case_end(&subject, NULL));
}
END_TEST

START_TEST(copied_bits_of_what_is_shared_are_repaired_where_that_is_wanted)
{
    const struct writer_options options = {.check = WRITER_CHECK_AUTO, .repair = true};
    struct writer_case subject;

    writer_case_open(&subject, shared_twice(4), &options);
    expect_write(&subject, 0, CLUSTER, 4);
    expect_pattern(&subject, 2 * CLUSTER, CLUSTER, 1, 0);
    expect_write(&subject, 2 * CLUSTER, CLUSTER / 2, 5);
    expect_pattern(&subject, 0, CLUSTER, 4, 0);
    store_close(writer_case_end(&subject, NULL));
}
END_TEST

/* Only a leak: whose count is too high is shared with nobody. */
START_TEST(a_count_that_is_too_high_is_written_to_whatever_its_copied_bit)
{
    const struct writer_options options = {.check = WRITER_CHECK_AUTO};
    struct builder_options built = writer_case_large_disk();
    struct builder *builder = builder_create(&built);
    uint64_t data = writer_case_pattern(builder, 0, 1);
    struct store *file = builder_store(builder);
    struct writer_case subject;

    builder_destroy(builder);
    disk_set_refcount(file, data, 2);
    writer_case_open(&subject, file, &options);
    expect_write(&subject, 0, CLUSTER, 4);
    ck_assert_ptr_null(strstr(subject.log.text, "COPIED"));
    store_close(writer_case_end(&subject, NULL));
}
END_TEST

/* The repair of an image that is dirty gives the snapshot table what it lacks, at another place. */
START_TEST(snapshots_are_changed_after_a_repair_that_moved_their_table)
{
    struct builder_options options = writer_case_large_disk();
    struct writer_case subject;
    struct error error = {0};
    struct builder *builder;
    struct store *file;

    options.incompatible_features = INCOMPATIBLE_DIRTY;
    builder = builder_create(&options);
    writer_case_pattern(builder, 0, 1);
    builder_snapshot(builder, &(struct builder_snapshot){
                                  .id = "1", .name = "first", .l1 = builder_add_l1(builder, 1)});
    writer_case_build(&subject, builder, NULL);
    ck_assert_msg(writer_snapshot_make(subject.writer, "second", &error) == 0, "%s", error.text);
    expect_write(&subject, 0, CLUSTER, 4);
    ck_assert_msg(writer_snapshot_remove(subject.writer, 0, &error) == 0, "%s", error.text);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(an_image_in_order_is_written_whichever_check_is_made)
{
    const struct writer_options options = {.check = (enum writer_check)_i};
    struct builder_options built = writer_case_large_disk();
    struct builder *builder = builder_create(&built);
    struct writer_case subject;
    struct store *file;

    writer_case_pattern(builder, 0, 1);
    writer_case_build(&subject, builder, &options);
    expect_write(&subject, 5 * CLUSTER, 3 * CLUSTER, 4);
    file = writer_case_end(&subject, NULL);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(an_impossible_entry_met_by_a_write_stops_writing_too)
{
    struct writer_case subject;
    uint8_t byte = 1;

    /* Not at the beginning of a cluster. */
    open_damaged(&subject, 3, TARGET_L1_TABLE, ENTRY_COPIED | 512);
    ck_assert_int_eq(writer_write(subject.writer, 2 * CLUSTER, &byte, 1), -EIO);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_INCOMPATIBLE_FEATURES), INCOMPATIBLE_CORRUPT);
    ck_assert_int_eq(writer_write(subject.writer, 0, &byte, 1), -EIO);
    expect_pattern(&subject, 0, CLUSTER, 1, 0);
    store_close(writer_case_end(&subject, &(int){0}));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("writer, damage");
    TCase *r8 = tcase_create("R8");

    tcase_add_loop_test(r8, a_write_in_place_over_a_table_is_refused_and_the_image_marked_corrupt,
                        0, TARGETS);
    tcase_add_loop_test(r8, an_l1_entry_that_names_another_table_is_refused, 0,
                        2 * TARGET_L2_TABLE);
    tcase_add_loop_test(r8, a_table_that_an_entry_names_as_shared_data_is_not_freed, 0, TARGETS);
    tcase_add_loop_test(r8, a_refcount_block_that_is_another_table_is_not_written, 0, 2);
    tcase_add_test(r8, where_writing_has_stopped_closing_frees_and_cuts_nothing);
    tcase_add_loop_test(r8, a_preallocated_cluster_whose_place_is_a_table_is_not_written, 0,
                        TARGETS);
    tcase_add_test(r8, in_version_2_which_has_no_corrupt_bit_writing_stops_too);
    tcase_add_loop_test(r8, a_cluster_that_is_a_table_though_its_count_is_0_is_not_written, 0,
                        TARGET_L2_TABLE);
    tcase_add_test(r8, counts_that_are_too_low_leave_the_disk_read_only);
    tcase_add_test(r8, counts_that_are_too_low_are_repaired_where_that_is_wanted);
    tcase_add_test(r8, more_references_than_counts_can_say_leave_the_disk_read_only);
    tcase_add_test(r8, copied_bits_of_what_is_shared_leave_the_disk_read_only);
    tcase_add_test(r8, copied_bits_of_what_is_shared_are_repaired_where_that_is_wanted);
    tcase_add_test(r8, a_count_that_is_too_high_is_written_to_whatever_its_copied_bit);
    tcase_add_test(r8, snapshots_are_changed_after_a_repair_that_moved_their_table);
    tcase_add_loop_test(r8, an_image_in_order_is_written_whichever_check_is_made, 0, 3);
    tcase_add_test(r8, an_impossible_entry_met_by_a_write_stops_writing_too);
    suite_add_tcase(suite, r8);
    return suite_main(suite);
}
