/* SPDX-License-Identifier: MIT */
/* The rules R4 to R6 of docs/design.md, and how many syncs they cost, by what reaches the file, and
 * in which order. */
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
    const struct builder_bitmap bitmap = {
        .name = "backup", .flags = BITMAP_FLAG_AUTO, .granularity_bits = 16};
    struct builder_options options = writer_case_large_disk();
    struct builder *builder;

    options.autoclear_features = UINT64_C(1) << 40;
    builder = builder_create(&options);
    writer_case_pattern(builder, 0, 1);
    builder_bitmap(builder, &bitmap);
    writer_case_build(subject, builder, NULL);
    ck_assert_uint_eq(disk_u64(subject->file, HEADER_AUTOCLEAR_FEATURES),
                      UINT64_C(1) << 40 | AUTOCLEAR_BITMAPS);
}

static uint32_t bitmap_flags(const struct writer_case *subject)
{
    return disk_u32(subject->file, subject->image->header->bitmap_directory_offset + BITMAP_FLAGS);
}

START_TEST(bitmaps_are_in_use_and_unknown_features_cleared_stably_before_the_first_change)
{
    struct writer_case subject;
    struct memory_log *log;
    uint8_t byte = 1;

    open_with_bitmaps(&subject);
    log = start_log(&subject);
    ck_assert_int_eq(writer_write(subject.writer, 5, &byte, 1), 0); /* in place */
    expect_entry(log, 0, MEMORY_LOG_WRITE, subject.image->header->bitmap_directory_offset);
    expect_entry(log, 1, MEMORY_LOG_SYNC, 0);
    expect_entry(log, 2, MEMORY_LOG_WRITE, HEADER_AUTOCLEAR_FEATURES);
    expect_entry(log, 3, MEMORY_LOG_SYNC, 0);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_AUTOCLEAR_FEATURES), AUTOCLEAR_BITMAPS);
    ck_assert_uint_eq(bitmap_flags(&subject), BITMAP_FLAG_AUTO | BITMAP_FLAG_IN_USE);
    ck_assert_uint_eq(memory_log_count(log), 5);
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

START_TEST(a_request_that_cannot_say_so_fails_and_the_next_one_tries_again)
{
    struct writer_case subject;
    uint8_t byte = 1;

    open_with_bitmaps(&subject);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 1, EIO);
    ck_assert_int_eq(writer_write(subject.writer, 5, &byte, 1), -EIO);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 2, EIO);
    ck_assert_int_eq(writer_write(subject.writer, 5, &byte, 1), -EIO);
    expect_pattern(&subject, 0, CLUSTER, 1, 0);
    ck_assert_int_eq(writer_write(subject.writer, 5, &byte, 1), 0);
    ck_assert_uint_eq(disk_u64(subject.file, HEADER_AUTOCLEAR_FEATURES), AUTOCLEAR_BITMAPS);
    ck_assert_uint_eq(bitmap_flags(&subject), BITMAP_FLAG_AUTO | BITMAP_FLAG_IN_USE);
    writer_case_close(&subject);
}
END_TEST

/* --- R5 ------------------------------------------------------------------------------------------
 */

START_TEST(the_dirty_bit_is_set_and_synced_before_the_first_allocation_and_not_by_overwriting)
{
    struct builder_options options = writer_case_large_disk();
    struct builder *builder = builder_create(&options);
    struct writer_case subject;
    struct memory_log *log;
    size_t dirty;

    writer_case_pattern(builder, 0, 1);
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
    struct builder_options options = writer_case_large_disk();
    struct writer_case subject;
    struct memory_log *log;
    struct store *file;
    uint64_t block, guest;

    writer_case_build(&subject, builder_create(&options), &lazy);
    block = disk_refcount_block(subject.file);
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
    struct builder_options options = writer_case_large_disk();
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
    struct builder_options options = writer_case_large_disk();
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
    struct builder_options options = writer_case_large_disk();
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
    struct builder_options options = writer_case_large_disk();
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
    struct builder_options options = writer_case_large_disk();
    struct builder *builder = builder_create(&options);
    uint64_t host = writer_case_pattern(builder, 0, 1);
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
    struct builder_options options = writer_case_large_disk();
    struct builder *builder = builder_create(&options);
    uint64_t host = writer_case_pattern(builder, 0, 1), guest;
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

int main(void)
{
    Suite *suite = suite_create("writer, rules");
    TCase *r4 = tcase_create("R4"), *r5 = tcase_create("R5"), *r6 = tcase_create("R6"),
          *syncs = tcase_create("syncs");

    tcase_add_test(r4, a_discarded_cluster_is_free_after_the_flush_and_not_before);
    tcase_add_test(r4, a_cluster_is_not_free_while_a_read_that_began_before_is_under_way);
    tcase_add_test(
        r5, the_dirty_bit_is_set_and_synced_before_the_first_allocation_and_not_by_overwriting);
    tcase_add_test(r5, lazy_counts_are_written_at_the_end_and_not_by_flushes);
    tcase_add_test(r5, the_dirty_bit_is_cleared_last_when_all_counts_are_stable);
    tcase_add_test(r5, the_dirty_bit_stays_when_the_counts_cannot_be_written);
    tcase_add_test(r6,
                   bitmaps_are_in_use_and_unknown_features_cleared_stably_before_the_first_change);
    tcase_add_test(r6, they_stay_while_the_image_is_only_read);
    tcase_add_test(r6, a_request_that_cannot_say_so_fails_and_the_next_one_tries_again);
    tcase_add_test(syncs,
                   a_flush_of_a_new_cluster_makes_one_sync_with_exact_counts_as_with_lazy_ones);
    tcase_add_test(syncs, with_write_through_a_request_is_stable_when_it_returns);
    suite_add_tcase(suite, r4);
    suite_add_tcase(suite, r5);
    suite_add_tcase(suite, r6);
    suite_add_tcase(suite, syncs);
    return suite_main(suite);
}
