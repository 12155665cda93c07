/* SPDX-License-Identifier: MIT */
/* Changing cached blocks: who sees what, at once and after a drop. */
#include "config.h"

#include "change_case.h"
#include "suite.h"

#include <errno.h>
#include <stdlib.h>

/* --- Changes ----------------------------------------------------------------------------- */

START_TEST(a_pinned_reader_keeps_the_old_bytes)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    const struct cache_entry *old = disk_pin(disk, 5), *newer;
    const uint8_t *bytes = old->data;
    struct cache_pool_stats stats;

    disk_change(disk, 5, 100, 10, 0xEE);
    ck_assert_uint_eq(bytes[100], 6);
    newer = disk_pin(disk, 5);
    ck_assert_uint_eq(((const uint8_t *)newer->data)[100], 0xEE);
    ck_assert_uint_eq(((const uint8_t *)newer->data)[99], 6);
    ck_assert_uint_eq(((const uint8_t *)newer->data)[110], 6);
    disk_change(disk, 5, 100, 10, 0xDD);
    ck_assert_uint_eq(bytes[100], 6);
    ck_assert_uint_eq(((const uint8_t *)newer->data)[100], 0xEE);
    cache_pool_stats(disk->pool, &stats);
    ck_assert_uint_eq(stats.entries, 1);
    ck_assert_uint_eq(stats.bytes, 3 * BLOCK); /* the pinned ones still take memory */
    cache_pool_unpin(disk->pool, newer);
    cache_pool_unpin(disk->pool, old);
    ck_assert_uint_eq(disk_cached(disk), BLOCK);
    ck_assert_uint_eq(disk_byte(disk, 5, 100), 0xDD);
    disk_write_back(disk);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_block_that_nobody_reads_changes_where_it_is)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    const struct cache_entry *pinned = disk_pin(disk, 5);
    const void *place = pinned->data;
    struct cache_writeback *writeback;

    cache_pool_unpin(disk->pool, pinned);
    disk_change(disk, 5, 100, 10, 0xEE); /* clean before */
    disk_change(disk, 5, 600, 10, 0xDD); /* dirty before */
    pinned = disk_pin(disk, 5);
    ck_assert_ptr_eq(pinned->data, place);
    ck_assert_uint_eq(((const uint8_t *)pinned->data)[100], 0xEE);
    ck_assert_uint_eq(((const uint8_t *)pinned->data)[600], 0xDD);
    cache_pool_unpin(disk->pool, pinned);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), BLOCK);
    writeback = disk_begin(disk);
    disk_change(disk, 5, 100, 10, 0xCC); /* being written */
    pinned = disk_pin(disk, 5);
    ck_assert_ptr_ne(pinned->data, place);
    cache_pool_unpin(disk->pool, pinned);
    ck_assert_int_eq(cache_writeback_write(writeback, disk_write, disk), 0);
    ck_assert_uint_eq(disk->bytes[5 * BLOCK + 100], 0xEE);
    cache_writeback_end(writeback, true);
    disk_write_back(disk);
    ck_assert_uint_eq(disk->bytes[5 * BLOCK + 100], 0xCC);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(dirty_blocks_are_never_evicted_and_clean_ones_are)
{
    struct disk *disk = disk_make(4 * BLOCK);

    for (uint64_t i = 0; i < 10; i++) {
        disk_change(disk, i, 0, 1, 0xEE);
    }
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 10 * BLOCK);
    for (uint64_t i = 10; i < BLOCKS; i++) {
        (void)disk_byte(disk, i, 0);
    }
    cache_pool_clean(disk->pool);
    cache_pool_clean(disk->pool);
    for (uint64_t i = 0; i < 10; i++) {
        ck_assert_uint_eq(disk_byte(disk, i, 0), 0xEE); /* the disk has i + 1 */
    }
    ck_assert_uint_eq(disk_cached(disk), 10 * BLOCK);
    disk_write_back(disk);
    ck_assert_uint_le(disk_cached(disk), 4 * BLOCK);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

/* Another change of the same block, in the midst of ours, which has its copy already. */
static void change_meanwhile(struct disk *disk)
{
    disk_change(disk, 5, 200, 10, 0xDD);
}

struct first_stamp {
    struct stamp stamp; /* first: apply_stamp() takes it for that */
    struct disk *disk;
    unsigned applied;
};

static void apply_in_the_midst(void *context, void *data)
{
    struct first_stamp *first = context;

    if (first->applied++ == 0) {
        change_meanwhile(first->disk);
    }
    apply_stamp(context, data);
}

/* `_i`: whether it is written through. */
START_TEST(of_two_changes_of_a_block_at_once_both_are_made)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    const struct cache_entry *reader = disk_pin(disk, 5); /* so that each makes a copy */
    struct first_stamp first = {.stamp = {100, 10, 0xEE}, .disk = disk};
    struct place place = {.disk = disk, .offset = 5 * BLOCK};
    const struct cache_change change = {
        .offset = 100, .length = 10, .epoch = 1, .apply = apply_in_the_midst, .context = &first};

    disk->during = _i != 0 ? change_meanwhile : NULL;
    ck_assert_int_eq(
        _i != 0 ? disk_change_with(disk, 5, &first.stamp, 1, true)
                : cache_pool_change(disk->pool, disk_key(5), BLOCK, disk_fill, &place, &change),
        0);
    ck_assert_uint_eq(disk_byte(disk, 5, 100), 0xEE);
    ck_assert_uint_eq(disk_byte(disk, 5, 200), 0xDD);
    ck_assert_uint_eq(((const uint8_t *)reader->data)[100], 6);
    cache_pool_unpin(disk->pool, reader);
    ck_assert_uint_eq(disk_cached(disk), BLOCK);
    disk_write_back(disk);
    ck_assert_uint_eq(disk->bytes[5 * BLOCK + 100], 0xEE);
    ck_assert_uint_eq(disk->bytes[5 * BLOCK + 200], 0xDD);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_failed_fill_changes_nothing)
{
    struct disk *disk = disk_make(4 * BLOCK);
    const struct cache_entry *entry = disk_pin(disk, 0);
    struct stamp stamp = {0, 1, 2};
    struct cache_change wrong = {.length = 1, .apply = apply_stamp, .context = &stamp};

    /* A block of another size is a caller's mistake, and an error like any other. */
    ck_assert_int_eq(cache_pool_change(disk->pool, disk_key(0), 512, disk_fill, disk, &wrong),
                     -EINVAL);
    cache_pool_unpin(disk->pool, entry);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

/* --- Write-through ---------------------------------------------------------------------------- */

START_TEST(write_through_writes_the_changed_bytes_and_leaves_the_block_clean)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);

    ck_assert_int_eq(disk_change_with(disk, 4, &(struct stamp){1000, 30, 0xEE}, 1, true), 0);
    ck_assert_uint_eq(disk->writes, 1);
    ck_assert_uint_eq(disk->offset, 4 * BLOCK + 1000);
    ck_assert_uint_eq(disk->length, 30);
    ck_assert_uint_eq(disk->bytes[4 * BLOCK + 1029], 0xEE);
    ck_assert_uint_eq(disk_byte(disk, 4, 1029), 0xEE);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(write_through_leaves_what_was_dirty_dirty)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);

    disk_change(disk, 4, 0, 1, 0x11);
    ck_assert_int_eq(disk_change_with(disk, 4, &(struct stamp){1000, 30, 0xEE}, 9, true), 0);
    ck_assert_uint_eq(disk->bytes[4 * BLOCK], 5);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), BLOCK);
    disk_write_back(disk);
    ck_assert_uint_eq(disk->written, SECTOR);
    ck_assert_uint_eq(disk->bytes[4 * BLOCK], 0x11);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_failed_write_through_is_seen_by_nobody)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);

    disk->failing = 1;
    ck_assert_int_eq(disk_change_with(disk, 4, &(struct stamp){1000, 30, 0xEE}, 1, true), -ENOSPC);
    ck_assert_uint_eq(disk_byte(disk, 4, 1000), 5);
    disk_change(disk, 4, 0, 1, 0x11);
    disk->failing = 1;
    ck_assert_int_eq(disk_change_with(disk, 4, &(struct stamp){1000, 30, 0xEE}, 1, true), -ENOSPC);
    ck_assert_uint_eq(disk_byte(disk, 4, 1000), 5);
    ck_assert_uint_eq(disk_byte(disk, 4, 0), 0x11);
    disk_write_back(disk);
    ck_assert_uint_eq(disk->bytes[4 * BLOCK], 0x11);
    ck_assert_uint_eq(disk->bytes[4 * BLOCK + 1000], 5);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

/* --- Asking ----------------------------------------------------------------------------------- */

static bool has_any_one_by_one(struct cache_pool *pool, struct cache_key first, uint64_t length,
                               uint64_t step)
{
    struct cache_key key = first;

    for (; key.host_offset < first.host_offset + length; key.host_offset += step) {
        if (cache_pool_has(pool, key)) {
            return true;
        }
    }
    return false;
}

START_TEST(what_any_range_has_is_what_each_of_its_blocks_says)
{
    struct disk *disk = disk_make(3 * BLOCK); /* so that most are evicted again */
    const uint64_t steps[] = {BLOCK, 16 * BLOCK, 64 * BLOCK};
    struct place place = {.disk = disk};
    unsigned found = 0;

    srand(7);
    for (unsigned i = 0; i < 4000; i++) {
        uint64_t step = steps[rand() % 3], length = (uint64_t)(rand() % 100) * BLOCK;
        struct cache_key key = {
            .owner = (uint64_t)rand() % 3,
            .host_offset = (uint64_t)(rand() % 256) * BLOCK,
        };
        const struct cache_entry *entry;
        bool expected;

        ck_assert_int_eq(cache_pool_get(disk->pool, key, BLOCK, disk_fill, &place, &entry), 0);
        cache_pool_unpin(disk->pool, entry);
        if (rand() % 3 == 0) {
            cache_pool_drop(disk->pool, key);
        }
        key.host_offset = (uint64_t)(rand() % 256) * BLOCK;
        expected = has_any_one_by_one(disk->pool, key, length, step);
        ck_assert_int_eq(cache_pool_has_any(disk->pool, key, length, step), expected);
        found += expected;
    }
    ck_assert_uint_gt(found, 100);
    ck_assert_uint_lt(found, 3900);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

/* --- Dropping --------------------------------------------------------------------------------- */

START_TEST(a_dropped_block_is_read_again_and_never_written)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    const struct cache_entry *pinned;

    disk_change(disk, 4, 0, 1, 0x11);
    ck_assert(cache_pool_has(disk->pool, disk_key(4)));
    pinned = disk_pin(disk, 4);
    cache_pool_drop(disk->pool, disk_key(4));
    cache_pool_drop(disk->pool, disk_key(4)); /* it may be gone already */
    ck_assert(!cache_pool_has(disk->pool, disk_key(4)));
    ck_assert_uint_eq(((const uint8_t *)pinned->data)[0], 0x11);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 0);
    disk_write_back(disk);
    ck_assert_uint_eq(disk->writes, 0);
    ck_assert_uint_eq(disk_byte(disk, 4, 0), 5);
    cache_pool_unpin(disk->pool, pinned);
    ck_assert_uint_eq(disk_byte(disk, 4, 0), 5);
    cache_pool_drop(disk->pool, disk_key(4)); /* clean, unpinned */
    disk_change(disk, 4, 0, 1, 0x11);
    cache_pool_drop(disk->pool, disk_key(4)); /* dirty, unpinned */
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_block_dropped_during_its_write_back_does_not_come_back)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    struct cache_writeback *writeback;

    disk_change(disk, 4, 0, 1, 0x11);
    writeback = disk_begin(disk);
    cache_pool_drop(disk->pool, disk_key(4));
    cache_writeback_end(writeback, _i == 0);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 0);
    ck_assert_uint_eq(disk_byte(disk, 4, 0), 5);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_pool_with_dirty_blocks_can_be_destroyed)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);

    disk_change(disk, 4, 0, 1, 0x11);
    disk_change(disk, 5, 0, 1, 0x11);
    disk_free(disk); /* a leak would be seen by AddressSanitizer */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("change");
    TCase *tcase = tcase_create("change");

    tcase_add_test(tcase, a_pinned_reader_keeps_the_old_bytes);
    tcase_add_test(tcase, a_block_that_nobody_reads_changes_where_it_is);
    tcase_add_test(tcase, dirty_blocks_are_never_evicted_and_clean_ones_are);
    tcase_add_loop_test(tcase, of_two_changes_of_a_block_at_once_both_are_made, 0, 2);
    tcase_add_test(tcase, a_failed_fill_changes_nothing);
    tcase_add_test(tcase, write_through_writes_the_changed_bytes_and_leaves_the_block_clean);
    tcase_add_test(tcase, write_through_leaves_what_was_dirty_dirty);
    tcase_add_test(tcase, a_failed_write_through_is_seen_by_nobody);
    tcase_add_test(tcase, what_any_range_has_is_what_each_of_its_blocks_says);
    tcase_add_test(tcase, a_dropped_block_is_read_again_and_never_written);
    tcase_add_loop_test(tcase, a_block_dropped_during_its_write_back_does_not_come_back, 0, 2);
    tcase_add_test(tcase, a_pool_with_dirty_blocks_can_be_destroyed);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
