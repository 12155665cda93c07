/* SPDX-License-Identifier: MIT */
/* The rules R4 to R8 of docs/design.md, by what reaches the file, and in which order. */
#include "config.h"

#include "memory_log.h"
#include "memory_store.h"
#include "suite.h"
#include "writer_case.h"

#include "meta/format.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define K       UINT64_C(1024)
#define M       (UINT64_C(1) << 20)
#define CLUSTER (64 * K)

static const struct writer_options lazy = {.lazy_refcounts = {.set = true, .value = true}};

static struct builder_options large_disk(void)
{
    struct builder_options options = builder_defaults();

    options.virtual_size = 256 * M;
    return options;
}

/* A cluster of builder_pattern() with seed 1 at guest offset 0; its host offset. */
static uint64_t add_pattern(struct builder *builder)
{
    uint8_t *bytes = malloc(CLUSTER);
    uint64_t host_offset;

    builder_pattern(bytes, CLUSTER, 1);
    host_offset = builder_data(builder, 0, bytes, CLUSTER);
    free(bytes);
    return host_offset;
}

/* From here on all that reaches the file is noted. */
static struct memory_log *start_log(struct writer_case *subject)
{
    struct memory_log *log = memory_log_create();

    memory_store_set_log(subject->file, log);
    return log;
}

static void expect_entry(struct memory_log *log, size_t index, enum memory_log_kind kind,
                         uint64_t offset)
{
    const struct memory_log_entry *entry;

    ck_assert_uint_lt(index, memory_log_count(log));
    entry = memory_log_at(log, index);
    ck_assert_int_eq(entry->kind, kind);
    if (kind == MEMORY_LOG_WRITE) {
        ck_assert_uint_eq(entry->offset, offset);
    }
}

/* --- R6 ------------------------------------------------------------------------------------------
 */

static void open_with_bitmaps(struct writer_case *subject)
{
    const struct builder_bitmap bitmap = {.name = "backup", .granularity_bits = 16};
    struct builder_options options = large_disk();
    struct builder *builder;

    options.autoclear_features = UINT64_C(1) << 40;
    builder = builder_create(&options);
    add_pattern(builder);
    builder_bitmap(builder, &bitmap);
    writer_case_build(subject, builder, NULL);
    ck_assert_uint_eq(disk_u64(subject->file, HEADER_AUTOCLEAR_FEATURES),
                      UINT64_C(1) << 40 | AUTOCLEAR_BITMAPS);
}

START_TEST(bitmaps_and_unknown_features_are_cleared_and_synced_before_the_first_change)
{
    struct writer_case subject;
    struct memory_log *log;
    uint8_t byte = 1;

    open_with_bitmaps(&subject);
    log = start_log(&subject);
    ck_assert_int_eq(writer_write(subject.writer, 5, &byte, 1), 0); /* in place */
    expect_entry(log, 0, MEMORY_LOG_WRITE, HEADER_AUTOCLEAR_FEATURES);
    expect_entry(log, 1, MEMORY_LOG_SYNC, 0);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_AUTOCLEAR_FEATURES), 0);
    ck_assert_uint_eq(memory_log_count(log), 3);
    writer_case_close(&subject);
    memory_log_destroy(log);
}
END_TEST

START_TEST(they_stay_while_the_image_is_only_read)
{
    struct writer_case subject;
    struct store *file;

    open_with_bitmaps(&subject);
    expect_pattern(&subject, 0, CLUSTER, 1, 0);
    expect_flush(&subject);
    file = writer_case_end(&subject, NULL);
    ck_assert_uint_eq(disk_u64(file, HEADER_AUTOCLEAR_FEATURES),
                      UINT64_C(1) << 40 | AUTOCLEAR_BITMAPS);
    store_close(file);
}
END_TEST

START_TEST(a_request_that_cannot_clear_them_fails_and_the_next_one_tries_again)
{
    struct writer_case subject;
    uint8_t byte = 1;

    open_with_bitmaps(&subject);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 1, EIO);
    ck_assert_int_eq(writer_write(subject.writer, 5, &byte, 1), -EIO);
    expect_pattern(&subject, 0, CLUSTER, 1, 0);
    ck_assert_int_eq(writer_write(subject.writer, 5, &byte, 1), 0);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_AUTOCLEAR_FEATURES), 0);
    writer_case_close(&subject);
}
END_TEST

/* --- R5 ------------------------------------------------------------------------------------------
 */

static uint64_t refcount_block(struct store *file)
{
    return disk_u64(file, disk_u64(file, HEADER_REFCOUNT_TABLE_OFFSET));
}

START_TEST(the_dirty_bit_is_set_and_synced_before_the_first_allocation_and_not_by_overwriting)
{
    struct builder_options options = large_disk();
    struct builder *builder = builder_create(&options);
    struct writer_case subject;
    struct memory_log *log;
    size_t dirty;

    add_pattern(builder);
    writer_case_build(&subject, builder, &lazy);
    log = start_log(&subject);
    expect_write(&subject, 10, 1000, 2);
    expect_flush(&subject);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_INCOMPATIBLE_FEATURES), 0);
    dirty = memory_log_count(log);
    expect_write(&subject, CLUSTER, CLUSTER, 3);
    expect_entry(log, dirty, MEMORY_LOG_WRITE, HEADER_INCOMPATIBLE_FEATURES);
    expect_entry(log, dirty + 1, MEMORY_LOG_SYNC, 0);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_INCOMPATIBLE_FEATURES), INCOMPATIBLE_DIRTY);
    writer_case_close(&subject);
    memory_log_destroy(log);
}
END_TEST

START_TEST(lazy_counts_are_written_at_the_end_and_not_by_flushes)
{
    struct builder_options options = large_disk();
    struct writer_case subject;
    struct memory_log *log;
    struct store *file;
    uint64_t block, guest;

    writer_case_build(&subject, builder_create(&options), &lazy);
    block = refcount_block(subject.file);
    log = start_log(&subject);
    for (guest = 0; guest < 20 * CLUSTER; guest += CLUSTER) {
        expect_write(&subject, guest, CLUSTER, 1);
        expect_flush(&subject);
    }
    expect_zero(&subject, 0, CLUSTER, true);
    expect_flush(&subject);
    ck_assert_uint_eq(memory_log_find(log, 0, MEMORY_LOG_WRITE, block, CLUSTER),
                      memory_log_count(log));
    file = writer_case_end(&subject, NULL);
    ck_assert_uint_lt(memory_log_find(log, 0, MEMORY_LOG_WRITE, block, CLUSTER),
                      memory_log_count(log));
    expect_sound(file, false);
    store_close(file);
    memory_log_destroy(log);
}
END_TEST

START_TEST(the_dirty_bit_is_cleared_last_when_all_counts_are_stable)
{
    struct builder_options options = large_disk();
    struct writer_case subject;
    struct memory_log *log;
    size_t count;

    writer_case_build(&subject, builder_create(&options), &lazy);
    expect_write(&subject, 0, CLUSTER, 1);
    log = start_log(&subject);
    writer_case_close(&subject);
    count = memory_log_count(log);
    ck_assert_uint_gt(count, 3);
    expect_entry(log, count - 3, MEMORY_LOG_SYNC, 0);
    expect_entry(log, count - 2, MEMORY_LOG_WRITE, HEADER_INCOMPATIBLE_FEATURES);
    expect_entry(log, count - 1, MEMORY_LOG_SYNC, 0);
    memory_log_destroy(log);
}
END_TEST

START_TEST(the_dirty_bit_stays_when_the_counts_cannot_be_written)
{
    struct builder_options options = large_disk();
    struct writer_case subject;
    struct store *file;
    int result;

    writer_case_build(&subject, builder_create(&options), &lazy);
    expect_write(&subject, 0, CLUSTER, 1);
    expect_flush(&subject);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 1, EIO);
    file = writer_case_end(&subject, &result);
    ck_assert_int_eq(result, -EIO);
    ck_assert_uint_eq(disk_u64(file, HEADER_INCOMPATIBLE_FEATURES), INCOMPATIBLE_DIRTY);
    store_close(file);
}
END_TEST

/* --- How many syncs ----------------------------------------------------------------------------
 */

/* Syncs that 200 flushes of one fresh cluster each make, the first flush not counted. */
static unsigned count_syncs(const struct writer_options *given)
{
    struct builder_options options = large_disk();
    struct writer_case subject;
    unsigned before, syncs;
    uint64_t guest;

    writer_case_build(&subject, builder_create(&options), given);
    expect_write(&subject, 0, CLUSTER, 1);
    expect_flush(&subject);
    before = memory_store_calls(subject.file, MEMORY_STORE_SYNC);
    for (guest = CLUSTER; guest <= 200 * CLUSTER; guest += CLUSTER) {
        expect_write(&subject, guest, CLUSTER, 1);
        expect_flush(&subject);
    }
    syncs = memory_store_calls(subject.file, MEMORY_STORE_SYNC) - before;
    writer_case_close(&subject);
    return syncs;
}

START_TEST(a_flush_of_a_new_cluster_makes_one_sync_with_exact_counts_as_with_lazy_ones)
{
    const struct writer_options exact = {.lazy_refcounts = {.set = true, .value = false}};

    ck_assert_uint_eq(count_syncs(&exact), 200);
    ck_assert_uint_eq(count_syncs(&lazy), 200);
}
END_TEST

START_TEST(with_write_through_a_request_is_stable_when_it_returns)
{
    const struct writer_options through = {.write_through = true};
    struct builder_options options = large_disk();
    struct writer_case subject;
    struct memory_log *log;

    writer_case_build(&subject, builder_create(&options), &through);
    log = start_log(&subject);
    expect_write(&subject, 0, CLUSTER, 1);
    expect_entry(log, memory_log_count(log) - 1, MEMORY_LOG_SYNC, 0);
    ck_assert_uint_ne(disk_l2_entry(subject.file, 0), 0);
    writer_case_close(&subject);
    memory_log_destroy(log);
}
END_TEST

/* --- R4 ------------------------------------------------------------------------------------------
 */

static const struct writer_options discard = {.discard = true};

START_TEST(a_discarded_cluster_is_free_after_the_flush_and_not_before)
{
    struct builder_options options = large_disk();
    struct builder *builder = builder_create(&options);
    uint64_t host = add_pattern(builder);
    struct writer_case subject;
    struct memory_log *log;
    size_t punched, entry;

    writer_case_build(&subject, builder, &discard);
    log = start_log(&subject);
    expect_zero(&subject, 0, CLUSTER, true);
    ck_assert_uint_eq(memory_store_calls(subject.file, MEMORY_STORE_PUNCH), 0);
    expect_flush(&subject);
    punched = memory_log_find(log, 0, MEMORY_LOG_PUNCH, host, CLUSTER);
    entry = memory_log_find(log, 0, MEMORY_LOG_WRITE, disk_l2_place(subject.file, 0), 8);
    ck_assert_uint_lt(punched, memory_log_count(log));
    ck_assert_uint_lt(entry, memory_log_find(log, entry, MEMORY_LOG_SYNC, 0, 0));
    ck_assert_uint_lt(memory_log_find(log, entry, MEMORY_LOG_SYNC, 0, 0), punched);
    expect_flush(&subject);
    ck_assert_uint_eq(disk_refcount(subject.file, host), 0);
    writer_case_close(&subject);
    memory_log_destroy(log);
}
END_TEST

struct reader {
    struct writer_case *subject;
    pthread_t thread;
    uint8_t bytes[CLUSTER];
    int result;
};

static void *read_cluster(void *context)
{
    struct reader *reader = context;

    reader->result = view_read(reader->subject->view, 0, reader->bytes, sizeof(reader->bytes));
    return NULL;
}

START_TEST(a_cluster_is_not_free_while_a_read_that_began_before_is_under_way)
{
    struct builder_options options = large_disk();
    struct builder *builder = builder_create(&options);
    uint64_t host = add_pattern(builder), guest;
    struct reader *reader = calloc(1, sizeof(*reader));
    struct writer_case subject;
    uint8_t *expected = malloc(CLUSTER);

    builder_pattern(expected, CLUSTER, 1);
    writer_case_build(&subject, builder, &discard);
    reader->subject = &subject;
    memory_store_block_reads(subject.file, host, CLUSTER);
    ck_assert_int_eq(pthread_create(&reader->thread, NULL, read_cluster, reader), 0);
    memory_store_wait_blocked(subject.file, 1);
    expect_zero(&subject, 0, CLUSTER, true);
    for (guest = CLUSTER; guest <= 40 * CLUSTER; guest += CLUSTER) {
        expect_write(&subject, guest, CLUSTER, 2);
        expect_flush(&subject);
        ck_assert_uint_ne(l2_entry_host_offset(disk_l2_entry(subject.file, guest)), host);
    }
    ck_assert_uint_eq(disk_refcount(subject.file, host), 1);
    ck_assert_uint_eq(memory_store_calls(subject.file, MEMORY_STORE_PUNCH), 0);
    memory_store_release_reads(subject.file);
    ck_assert_int_eq(pthread_join(reader->thread, NULL), 0);
    ck_assert_int_eq(reader->result, 0);
    ck_assert_mem_eq(reader->bytes, expected, CLUSTER);
    expect_flush(&subject); /* now it is */
    ck_assert_uint_eq(memory_store_calls(subject.file, MEMORY_STORE_PUNCH), 1);
    writer_case_close(&subject);
    free(reader);
    free(expected);
}
END_TEST

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
        return refcount_block(file);
    default:
        return l1_entry_table(disk_l1_entry(file, 0));
    }
}

/* Data at guest offset 0, and at 2 * CLUSTER an entry, with `flags`, that is wrong. */
static void open_damaged(struct writer_case *subject, uint32_t version, enum target target,
                         uint64_t flags)
{
    struct builder_options options = large_disk();
    struct builder *builder;
    struct store *file;

    options.version = version;
    builder = builder_create(&options);
    add_pattern(builder);
    file = builder_store(builder);
    builder_destroy(builder);
    disk_set_u64(file, disk_l2_place(file, 0) + 2 * L2_ENTRY_BYTES,
                 target_offset(file, target) | flags);
    writer_case_open(subject, file, NULL);
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
    ck_assert_int_eq(writer_zero(subject->writer, 0, CLUSTER, true), -EIO);
    ck_assert_int_eq(writer_preallocate(subject->writer, 0, CLUSTER), -EIO);
    ck_assert_int_eq(writer_resize(subject->writer, 512 * M), -EIO);
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
    struct builder_options options = large_disk();
    struct builder *builder;
    struct writer_case subject;
    struct store *file;
    uint64_t host;
    uint8_t *before = malloc(CLUSTER), byte = 1;

    options.virtual_size = 1024 * M;
    builder = builder_create(&options);
    add_pattern(builder);
    file = builder_store(builder);
    builder_destroy(builder);
    host = target_offset(file, target);
    memcpy(before, memory_store_data(file) + host, CLUSTER);
    disk_set_u64(file, disk_u64(file, HEADER_L1_TABLE_OFFSET) + L1_ENTRY_BYTES,
                 host | (_i % 2 == 0 ? ENTRY_COPIED : 0));
    if (target == TARGET_L1_TABLE) {
        memcpy(before, memory_store_data(file) + host, CLUSTER);
    }
    writer_case_open(&subject, file, NULL);
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
    ck_assert_int_eq(writer_zero(subject.writer, 2 * CLUSTER, CLUSTER, true), 0);
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
    struct builder_options options = large_disk();
    struct builder *builder = builder_create(&options);
    struct writer_case subject;
    struct store *file;
    uint64_t table;
    uint8_t *before = malloc(CLUSTER), byte = 1;

    add_pattern(builder);
    file = builder_store(builder);
    builder_destroy(builder);
    table = target_offset(file, _i == 0 ? TARGET_L1_TABLE : TARGET_L2_TABLE);
    memcpy(before, memory_store_data(file) + table, CLUSTER);
    disk_set_u64(file, disk_u64(file, HEADER_REFCOUNT_TABLE_OFFSET), table);
    writer_case_open(&subject, file, NULL);
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
    struct builder_options options = large_disk();
    struct builder *builder = builder_create(&options);
    struct writer_case subject;
    struct store *file;
    uint64_t table;
    uint8_t byte = 1;

    add_pattern(builder);
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
    struct builder_options options = large_disk();
    struct builder *builder = builder_create(&options);
    uint64_t data = add_pattern(builder);
    struct store *file = builder_store(builder);

    builder_destroy(builder);
    disk_set_refcount(file, data, 0);
    disk_set_refcount(file, target_offset(file, TARGET_L2_TABLE), 0);
    return file;
}

START_TEST(counts_that_are_too_low_leave_the_disk_read_only)
{
    const struct writer_options options = {.check = WRITER_CHECK_AUTO, .growable = true};
    struct writer_case subject;
    uint8_t byte = 1;

    writer_case_open(&subject, uncounted(), &options);
    ck_assert_ptr_nonnull(
        strstr(subject.log.text, "2 of its clusters have refcounts that are too"));
    ck_assert_ptr_nonnull(strstr(subject.log.text, "qcow2ctl check --repair"));
    ck_assert_int_eq(writer_write(subject.writer, 0, &byte, 1), -EROFS);
    ck_assert_int_eq(writer_write(subject.writer, 512 * M, &byte, 1), -EROFS);
    ck_assert_int_eq(writer_zero(subject.writer, 0, CLUSTER, true), -EROFS);
    ck_assert_int_eq(writer_preallocate(subject.writer, 0, CLUSTER), -EROFS);
    ck_assert_int_eq(writer_resize(subject.writer, 512 * M), -EROFS);
    ck_assert_int_eq(writer_flush(subject.writer), 0);
    expect_pattern(&subject, 0, CLUSTER, 1, 0);
    ck_assert_uint_eq(memory_store_calls(subject.file, MEMORY_STORE_WRITE), 0);
    store_close(writer_case_end(&subject, NULL));
}
END_TEST

START_TEST(counts_that_are_too_low_are_repaired_where_that_is_wanted)
{
    const struct writer_options options = {.check = WRITER_CHECK_AUTO, .repair = true};
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

START_TEST(an_image_in_order_is_written_whichever_check_is_made)
{
    const struct writer_options options = {.check = (enum writer_check)_i};
    struct builder_options built = large_disk();
    struct builder *builder = builder_create(&built);
    struct writer_case subject;
    struct store *file;

    add_pattern(builder);
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
    Suite *suite = suite_create("writer, rules");
    TCase *r4 = tcase_create("R4"), *r5 = tcase_create("R5"), *r6 = tcase_create("R6"),
          *r8 = tcase_create("R8"), *syncs = tcase_create("syncs");

    tcase_add_test(r4, a_discarded_cluster_is_free_after_the_flush_and_not_before);
    tcase_add_test(r4, a_cluster_is_not_free_while_a_read_that_began_before_is_under_way);
    tcase_add_test(
        r5, the_dirty_bit_is_set_and_synced_before_the_first_allocation_and_not_by_overwriting);
    tcase_add_test(r5, lazy_counts_are_written_at_the_end_and_not_by_flushes);
    tcase_add_test(r5, the_dirty_bit_is_cleared_last_when_all_counts_are_stable);
    tcase_add_test(r5, the_dirty_bit_stays_when_the_counts_cannot_be_written);
    tcase_add_test(r6, bitmaps_and_unknown_features_are_cleared_and_synced_before_the_first_change);
    tcase_add_test(r6, they_stay_while_the_image_is_only_read);
    tcase_add_test(r6, a_request_that_cannot_clear_them_fails_and_the_next_one_tries_again);
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
    tcase_add_loop_test(r8, an_image_in_order_is_written_whichever_check_is_made, 0, 3);
    tcase_add_test(r8, an_impossible_entry_met_by_a_write_stops_writing_too);
    tcase_add_test(syncs,
                   a_flush_of_a_new_cluster_makes_one_sync_with_exact_counts_as_with_lazy_ones);
    tcase_add_test(syncs, with_write_through_a_request_is_stable_when_it_returns);
    suite_add_tcase(suite, r4);
    suite_add_tcase(suite, r5);
    suite_add_tcase(suite, r6);
    suite_add_tcase(suite, r8);
    suite_add_tcase(suite, syncs);
    return suite_main(suite);
}
