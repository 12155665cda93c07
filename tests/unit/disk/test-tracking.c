/* SPDX-License-Identifier: MIT */
/* Persistent bitmaps of a disk that is written: what is set, what is stored, what is given up. */
#include "config.h"

#include "memory_store.h"
#include "suite.h"
#include "writer_case.h"

#include "disk/bitmaps.h"
#include "disk/changed.h"
#include "disk/snapshots.h"
#include "meta/bitmap.h"
#include "meta/format.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define K       UINT64_C(1024)
#define M       (UINT64_C(1) << 20)
#define CLUSTER (64 * K)
#define THREADS 4
#define BITS    4096 /* of a disk of 256 MiB, a bit for 64 KiB */

static void open_with(struct writer_case *subject, const struct writer_options *options,
                      uint32_t flags, uint32_t extra_data_size)
{
    const struct builder_bitmap first = {
        .name = "first",
        .flags = BITMAP_FLAG_AUTO | flags,
        .granularity_bits = 16,
        .extra_data_size = extra_data_size,
    };
    const struct builder_bitmap second = {
        .name = "second", .flags = BITMAP_FLAG_AUTO, .granularity_bits = 20};
    struct builder_options image = writer_case_large_disk();
    struct builder *builder = builder_create(&image);

    writer_case_pattern(builder, 0, 1);
    builder_bitmap(builder, &first);
    builder_bitmap(builder, &second);
    writer_case_build(subject, builder, options);
}

/* What the file has of a bitmap. */
static struct bitmap_directory *directory_of(struct store *file, struct header **header)
{
    struct bitmap_directory *directory;
    struct store_info info;
    struct error error;

    ck_assert_int_eq(store_info(file, &info), 0);
    ck_assert_int_eq(header_read(file, info.size, "image", header, &error), 0);
    ck_assert_int_eq(bitmap_directory_read(file, *header, "image", &directory, &error), 0);
    return directory;
}

static uint32_t flags_of(struct store *file, size_t index)
{
    struct header *header;
    struct bitmap_directory *directory = directory_of(file, &header);
    uint32_t flags = directory->bitmaps[index].flags;

    bitmap_directory_free(directory);
    header_free(header);
    return flags;
}

/* The first BITS bits of a bitmap that is in order. */
static void bits_of(struct store *file, size_t index, uint8_t bits[BITS / 8])
{
    struct header *header;
    struct bitmap_directory *directory = directory_of(file, &header);
    struct error error;
    uint64_t *table;

    memset(bits, 0, BITS / 8);
    ck_assert_int_eq(
        bitmap_table_read(file, header, "image", &directory->bitmaps[index], false, &table, &error),
        0);
    if (table[0] != 0) {
        ck_assert_int_eq(store_read(file, table[0], bits, BITS / 8), 0);
    }
    free(table);
    bitmap_directory_free(directory);
    header_free(header);
}

static bool is_set(const uint8_t *bits, uint64_t index)
{
    return (bits[index / 8] >> (index % 8) & 1) != 0;
}

START_TEST(what_is_written_and_zeroed_is_set_and_what_is_only_given_a_place_is_not)
{
    struct writer_case subject;
    uint8_t bits[BITS / 8];
    struct store *file;

    open_with(&subject, NULL, 0, 0);
    expect_write(&subject, 10 * CLUSTER - 1, 2, 2);
    expect_zero(&subject, 100 * CLUSTER, CLUSTER, true);
    ck_assert_int_eq(writer_preallocate(subject.writer, 200 * CLUSTER, M, NULL), 0);
    file = writer_case_end(&subject, NULL);
    bits_of(file, 0, bits);
    for (uint64_t i = 0; i < BITS; i++) {
        ck_assert_int_eq(is_set(bits, i), i == 9 || i == 10 || i == 100);
    }
    bits_of(file, 1, bits);
    ck_assert(is_set(bits, 0) && is_set(bits, 6) && !is_set(bits, 12));
    ck_assert_uint_eq(flags_of(file, 0), BITMAP_FLAG_AUTO);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(a_request_that_fails_in_its_midst_is_set_as_well)
{
    struct writer_case subject;
    uint8_t bits[BITS / 8], byte = 7;
    struct store *file;

    open_with(&subject, NULL, 0, 0);
    expect_write(&subject, 5 * CLUSTER, 2, 2);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 1, EIO);
    ck_assert_int_eq(writer_write(subject.writer, 5, &byte, 1), -EIO);
    file = writer_case_end(&subject, NULL);
    bits_of(file, 0, bits);
    ck_assert(is_set(bits, 0) && is_set(bits, 5));
    store_close(file);
}
END_TEST

struct worker {
    struct writer *writer;
    unsigned number;
};

/* Neighbours share words of the bitmap. */
static void *work(void *context)
{
    const struct worker *worker = context;
    uint8_t bytes[512];

    memset(bytes, 1, sizeof(bytes));
    for (unsigned i = worker->number; i < 1000; i += THREADS) {
        ck_assert_int_eq(writer_write(worker->writer, (uint64_t)i * 3 * CLUSTER, bytes, 512), 0);
    }
    return NULL;
}

START_TEST(many_threads_lose_no_bit)
{
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    struct writer_case subject;
    uint8_t bits[BITS / 8];
    struct store *file;

    open_with(&subject, NULL, 0, 0);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){subject.writer, i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    file = writer_case_end(&subject, NULL);
    bits_of(file, 0, bits);
    for (uint64_t i = 0; i < BITS; i++) {
        ck_assert_int_eq(is_set(bits, i), i < 3000 && i % 3 == 0);
    }
    store_close(file);
}
END_TEST

START_TEST(one_for_which_there_is_no_memory_is_inconsistent_and_the_other_is_kept)
{
    const struct writer_options options = {.bitmaps_memory = 100};
    struct writer_case subject;
    struct store *file;

    open_with(&subject, &options, 0, 0);
    expect_write(&subject, 0, 512, 2);
    file = writer_case_end(&subject, NULL);
    ck_assert_uint_eq(flags_of(file, 0), BITMAP_FLAG_AUTO | BITMAP_FLAG_IN_USE);
    ck_assert_uint_eq(flags_of(file, 1), BITMAP_FLAG_AUTO);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

#define SECTORS_DISK  (UINT64_C(4) << 30)
#define SECTORS_EMPTY (128 * K + 4 * 8) /* bytes of memory, with nothing set */

/* A bit for each sector: a page of memory is for 16 MiB of the disk. */
static void open_with_sectors(struct writer_case *subject, const struct writer_options *options)
{
    const struct builder_bitmap sectors = {
        .name = "sectors", .flags = BITMAP_FLAG_AUTO, .granularity_bits = 9};
    struct builder_options image = writer_case_large_disk();
    struct builder *builder;

    image.virtual_size = SECTORS_DISK;
    image.cluster_bits = 20; /* one has all bits */
    builder = builder_create(&image);
    builder_bitmap(builder, &sectors);
    writer_case_build(subject, builder, options);
}

/* Each into another page, for three of which there is memory. */
static void expect_writes(struct writer_case *subject, unsigned pages)
{
    for (unsigned i = 0; i < pages; i++) {
        expect_write(subject, i * 32 * M, 512, 2);
        expect_write(subject, i * 32 * M + 8 * M, 512, 2);
    }
}

START_TEST(memory_is_for_what_has_changed_not_for_the_disk)
{
    const struct writer_options options = {.bitmaps_memory = SECTORS_EMPTY + 3 * 4096};
    struct writer_case subject;
    uint8_t bits[BITS / 8];
    struct changed *changed;
    uint64_t room = SECTORS_EMPTY + 3 * 4096, begin, end;
    struct error error;
    struct store *file;

    open_with_sectors(&subject, &options);
    expect_writes(&subject, 3);
    ck_assert_int_eq(
        changed_copy(subject.image, subject.writer, "sectors", &room, &changed, &error), 0);
    ck_assert_uint_eq(room, 0);
    ck_assert(changed_next(changed, 33 * M, SECTORS_DISK, &begin, &end));
    ck_assert_uint_eq(begin, 40 * M);
    changed_free(changed, &room);
    ck_assert_uint_eq(room, SECTORS_EMPTY + 3 * 4096);
    file = writer_case_end(&subject, NULL);
    ck_assert_uint_eq(flags_of(file, 0), BITMAP_FLAG_AUTO);
    bits_of(file, 0, bits);
    ck_assert(is_set(bits, 0) && !is_set(bits, 1));
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(one_that_changes_more_than_there_is_memory_for_is_inconsistent)
{
    const struct writer_options options = {.bitmaps_memory = SECTORS_EMPTY + 3 * 4096};
    uint64_t room = M;
    struct writer_case subject;
    struct changed *changed;
    struct error error;
    struct store *file;

    open_with_sectors(&subject, &options);
    expect_writes(&subject, 4);
    ck_assert_int_eq(
        changed_copy(subject.image, subject.writer, "sectors", &room, &changed, &error), -ENOMEM);
    file = writer_case_end(&subject, NULL);
    ck_assert_uint_eq(flags_of(file, 0), BITMAP_FLAG_AUTO | BITMAP_FLAG_IN_USE);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

START_TEST(one_that_cannot_grow_with_its_disk_is_inconsistent)
{
    const struct writer_options options = {.bitmaps_memory = 600};
    struct writer_case subject;
    struct store *file;

    open_with(&subject, &options, 0, 0);
    ck_assert_int_eq(writer_resize(subject.writer, 300 * M, NULL), 0);
    expect_write(&subject, 299 * M, 512, 2);
    file = writer_case_end(&subject, NULL);
    ck_assert_uint_eq(flags_of(file, 0), BITMAP_FLAG_AUTO | BITMAP_FLAG_IN_USE);
    ck_assert_uint_eq(flags_of(file, 1), BITMAP_FLAG_AUTO);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

/* Of the first bitmap, which is disabled: what a disk of 100 MiB gained, and nothing else. */
static void expect_gained_set(struct store *file)
{
    uint8_t bits[BITS / 8];

    bits_of(file, 0, bits);
    for (uint64_t i = 0; i < BITS; i++) {
        ck_assert_int_eq(is_set(bits, i), i >= 1600);
    }
    ck_assert_uint_eq(flags_of(file, 0), 0);
    expect_sound(file, false);
}

START_TEST(what_a_smaller_disk_has_forgotten_is_set_when_it_is_larger_again)
{
    const struct builder_bitmap disabled = {.name = "disabled", .granularity_bits = 16};
    struct builder_options image = writer_case_large_disk();
    struct builder *builder = builder_create(&image);
    struct writer_case subject;
    uint8_t bits[BITS / 8];
    struct store *file;

    builder_bitmap(builder, &disabled);
    writer_case_build(&subject, builder, NULL);
    ck_assert_int_eq(writer_resize(subject.writer, 100 * M, NULL), 0);
    file = writer_case_end(&subject, NULL);
    bits_of(file, 0, bits);
    ck_assert(!is_set(bits, 0) && !is_set(bits, 1599));
    writer_case_open(&subject, file, NULL);
    expect_write(&subject, 0, CLUSTER, 1);
    ck_assert_int_eq(writer_resize(subject.writer, 256 * M, NULL), 0);
    file = writer_case_end(&subject, NULL);
    expect_gained_set(file);
    store_close(file);
}
END_TEST

/* `_i`: whether the disabled bitmap is that of a disk that nobody had written since it was opened.
 */
START_TEST(what_a_disk_gains_that_goes_back_to_a_larger_snapshot_is_set)
{
    const struct builder_bitmap disabled = {.name = "disabled", .granularity_bits = 16};
    struct builder_options image = writer_case_large_disk();
    struct builder *builder = builder_create(&image);
    struct error error = {0};
    struct writer_case subject;
    struct store *file;

    builder_bitmap(builder, &disabled);
    writer_case_build(&subject, builder, NULL);
    ck_assert_int_eq(writer_snapshot_make(subject.writer, "large", &error), 0);
    ck_assert_int_eq(writer_resize(subject.writer, 100 * M, NULL), 0);
    file = writer_case_end(&subject, NULL);
    writer_case_open(&subject, file, NULL);
    if (_i == 0) {
        expect_write(&subject, 0, CLUSTER, 1);
    }
    ck_assert_int_eq(writer_snapshot_apply(subject.writer, 0, &error), 0);
    file = writer_case_end(&subject, NULL);
    expect_gained_set(file);
    store_close(file);
}
END_TEST

START_TEST(what_a_smaller_disk_loses_of_its_last_sector_is_set)
{
    const struct builder_bitmap fine = {
        .name = "fine", .flags = BITMAP_FLAG_AUTO, .granularity_bits = 9};
    const struct writer_options growable = {.growable = true};
    struct builder_options image = writer_case_large_disk();
    struct builder *builder = builder_create(&image);
    struct writer_case subject;
    uint8_t bits[BITS / 8];
    struct store *file;

    builder_bitmap(builder, &fine);
    writer_case_build(&subject, builder, &growable);
    expect_write(&subject, M, 2 * K, 1);
    ck_assert_int_eq(writer_bitmap_clear(subject.writer, "fine", &(struct error){0}), 0);
    ck_assert_int_eq(writer_resize(subject.writer, M + 700, NULL), 0);
    file = writer_case_end(&subject, NULL);
    bits_of(file, 0, bits);
    for (uint64_t i = 0; i < BITS;
         i++) { /* the disk ends with that sector, of which it was a part */
        ck_assert_int_eq(is_set(bits, i), i == M / 512 + 1);
    }
    expect_sound(file, false);
    store_close(file);
}
END_TEST

/* After `count` writes that are flushed each, so that it pays to fill runs ahead. */
static void expect_bits_are_stored_after(uint64_t count)
{
    const struct writer_options options = {.interval = 3600};
    struct writer_case subject;
    uint8_t bits[BITS / 8];
    struct store *file;

    open_with(&subject, &options, 0, 0);
    ck_assert_int_eq(writer_start(subject.writer), 0);
    for (uint64_t i = 0; i < count; i++) {
        expect_write(&subject, (100 + i) * CLUSTER, 512, 2);
        expect_flush(&subject);
    }
    file = writer_case_end(&subject, NULL);
    bits_of(file, 0, bits);
    ck_assert(!is_set(bits, 99) && is_set(bits, 100) && is_set(bits, 99 + count));
    ck_assert(!is_set(bits, 100 + count));
    store_close(file);
}

/* One of them ends where the clusters of the bits are the first ones of a run. */
START_TEST(bits_are_stored_after_the_thread_that_fills_ahead_has_ended)
{
    for (uint64_t count = 16; count < 45; count++) {
        expect_bits_are_stored_after(count);
    }
}
END_TEST

START_TEST(extra_data_is_left_alone_and_allows_a_bitmap_to_be_used_where_it_says_so)
{
    struct writer_case subject;
    struct store *file;

    open_with(&subject, NULL, BITMAP_FLAG_EXTRA_DATA_COMPATIBLE, 8);
    expect_write(&subject, 0, 512, 2);
    file = writer_case_end(&subject, NULL);
    ck_assert_uint_eq(flags_of(file, 0), BITMAP_FLAG_AUTO | BITMAP_FLAG_EXTRA_DATA_COMPATIBLE);
    store_close(file);

    open_with(&subject, NULL, 0, 8);
    expect_write(&subject, 0, 512, 2);
    file = writer_case_end(&subject, NULL);
    ck_assert_uint_eq(flags_of(file, 0), BITMAP_FLAG_AUTO | BITMAP_FLAG_IN_USE);
    ck_assert_uint_eq(flags_of(file, 1), BITMAP_FLAG_AUTO);
    store_close(file);
}
END_TEST

START_TEST(bits_that_cannot_be_stored_leave_them_in_use_and_the_image_in_order)
{
    for (unsigned call = 1; call < 12; call++) {
        struct writer_case subject;
        struct store *file;
        int result;

        open_with(&subject, NULL, 0, 0);
        expect_write(&subject, 5 * CLUSTER, 512, 2);
        expect_flush(&subject);
        memory_store_fail_from(subject.file, MEMORY_STORE_WRITE, call, EIO);
        file = writer_case_end(&subject, &result);
        memory_store_fail_from(file, MEMORY_STORE_WRITE, 0, 0);
        expect_sound(file, true);
        if (call < 4) {
            ck_assert_uint_eq(flags_of(file, 0), BITMAP_FLAG_AUTO | BITMAP_FLAG_IN_USE);
        }
        store_close(file);
    }
}
END_TEST

START_TEST(a_change_of_bitmaps_among_writes_that_fails_anywhere_leaves_none_that_misses_one)
{
    bool failed = true;

    for (unsigned call = 1; failed; call++) {
        struct writer_case subject;
        uint8_t bits[BITS / 8], byte = 7;
        struct error error;
        struct store *file;
        int result;

        open_with(&subject, NULL, 0, 0);
        expect_write(&subject, 5 * CLUSTER, 512, 2);
        memory_store_fail(subject.file, MEMORY_STORE_WRITE, call, EIO);
        failed = writer_bitmap_add(subject.writer, "third", 65536, &error) < 0;
        memory_store_fail(subject.file, MEMORY_STORE_WRITE, 0, 0);
        (void)writer_write(subject.writer, 900 * CLUSTER, &byte, 1);
        file = writer_case_end(&subject, &result);
        if (result == 0 && flags_of(file, 0) == BITMAP_FLAG_AUTO) {
            bits_of(file, 0, bits);
            ck_assert(is_set(bits, 5) && is_set(bits, 900));
        } else {
            ck_assert(failed);
        }
        expect_sound(file, true);
        store_close(file);
    }
}
END_TEST

START_TEST(bitmaps_are_changed_among_writes)
{
    struct writer_case subject;
    uint8_t bits[BITS / 8];
    struct error error;
    struct store *file;

    open_with(&subject, NULL, 0, 0);
    expect_write(&subject, 5 * CLUSTER, 512, 2);
    ck_assert_int_eq(writer_bitmap_add(subject.writer, "third", 65536, &error), 0);
    expect_write(&subject, 6 * CLUSTER, 512, 2);
    ck_assert_int_eq(writer_bitmap_clear(subject.writer, "first", &error), 0);
    ck_assert_int_eq(writer_bitmap_enable(subject.writer, "third", false, &error), 0);
    expect_write(&subject, 7 * CLUSTER, 512, 2);
    file = writer_case_end(&subject, NULL);
    bits_of(file, 0, bits);
    ck_assert(!is_set(bits, 5) && !is_set(bits, 6) && is_set(bits, 7));
    bits_of(file, 2, bits);
    ck_assert(!is_set(bits, 5) && is_set(bits, 6) && !is_set(bits, 7));
    ck_assert_uint_eq(flags_of(file, 2), 0);
    expect_sound(file, false);
    store_close(file);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bitmaps that record");
    TCase *bits = tcase_create("bits"), *kept = tcase_create("what is kept");

    tcase_add_test(bits, what_is_written_and_zeroed_is_set_and_what_is_only_given_a_place_is_not);
    tcase_add_test(bits, a_request_that_fails_in_its_midst_is_set_as_well);
    tcase_add_test(bits, many_threads_lose_no_bit);
    tcase_add_test(kept, one_for_which_there_is_no_memory_is_inconsistent_and_the_other_is_kept);
    tcase_add_test(kept, memory_is_for_what_has_changed_not_for_the_disk);
    tcase_add_test(kept, one_that_changes_more_than_there_is_memory_for_is_inconsistent);
    tcase_add_test(kept, one_that_cannot_grow_with_its_disk_is_inconsistent);
    tcase_add_test(kept, what_a_smaller_disk_has_forgotten_is_set_when_it_is_larger_again);
    tcase_add_loop_test(kept, what_a_disk_gains_that_goes_back_to_a_larger_snapshot_is_set, 0, 2);
    tcase_add_test(kept, what_a_smaller_disk_loses_of_its_last_sector_is_set);
    tcase_add_test(kept, bits_are_stored_after_the_thread_that_fills_ahead_has_ended);
    tcase_add_test(kept, extra_data_is_left_alone_and_allows_a_bitmap_to_be_used_where_it_says_so);
    tcase_add_test(kept, bits_that_cannot_be_stored_leave_them_in_use_and_the_image_in_order);
    tcase_add_test(kept, bitmaps_are_changed_among_writes);
    tcase_add_test(
        kept, a_change_of_bitmaps_among_writes_that_fails_anywhere_leaves_none_that_misses_one);
    suite_add_tcase(suite, bits);
    suite_add_tcase(suite, kept);
    return suite_main(suite);
}
