/* SPDX-License-Identifier: MIT */
/* Writing changed blocks back, also side by side with changes. */
#include "config.h"

#include "change_case.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* --- Writing back --------------------------------------------------------------------------- */

START_TEST(only_dirty_sectors_are_written_neighbours_together)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);

    disk_change(disk, 3, 2 * SECTOR + 7, 1, 0xEE);
    disk_write_back(disk);
    ck_assert_uint_eq(disk->writes, 1);
    ck_assert_uint_eq(disk->offset, 3 * BLOCK + 2 * SECTOR);
    ck_assert_uint_eq(disk->length, SECTOR);

    disk_change(disk, 3, SECTOR - 1, 2, 0xDD); /* sectors 0 and 1 */
    disk_change(disk, 3, 2 * SECTOR, 1, 0xDD); /* and 2 */
    disk_change(disk, 3, BLOCK - 1, 1, 0xDD);  /* and the last */
    disk_write_back(disk);
    ck_assert_uint_eq(disk->writes, 2);
    ck_assert_uint_eq(disk->written, 4 * SECTOR);
    ck_assert_uint_eq(disk->bytes[3 * BLOCK + 2 * SECTOR + 7], 0xEE);
    ck_assert_uint_eq(disk->bytes[3 * BLOCK + BLOCK - 1], 0xDD);

    disk_change(disk, 3, 0, BLOCK, 0xCC);
    disk_write_back(disk);
    ck_assert_uint_eq(disk->writes, 1);
    ck_assert_uint_eq(disk->written, BLOCK);
    disk_write_back(disk);
    ck_assert_uint_eq(disk->writes, 0);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(the_epoch_of_a_write_back_is_the_latest_of_its_changes)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    struct cache_writeback *writeback = disk_begin(disk);

    ck_assert(cache_writeback_is_empty(writeback));
    ck_assert_uint_eq(cache_writeback_epoch(writeback), 0);
    cache_writeback_end(writeback, true);
    ck_assert_int_eq(disk_change_with(disk, 1, &(struct stamp){0, 1, 1}, 7, false), 0);
    ck_assert_int_eq(disk_change_with(disk, 1, &(struct stamp){0, 1, 2}, 5, false), 0);
    ck_assert_int_eq(disk_change_with(disk, 2, &(struct stamp){0, 1, 1}, 6, false), 0);
    writeback = disk_begin(disk);
    ck_assert(!cache_writeback_is_empty(writeback));
    ck_assert_uint_eq(cache_writeback_epoch(writeback), 7);
    cache_writeback_end(writeback, false);
    writeback = disk_begin(disk); /* a failed one forgets no epoch */
    ck_assert_uint_eq(cache_writeback_epoch(writeback), 7);
    cache_writeback_end(writeback, true);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

static void change_two_sectors(struct disk *disk)
{
    disk_change(disk, 9, 0, 1, 0x22);          /* is being written */
    disk_change(disk, 9, 4 * SECTOR, 1, 0x33); /* is not */
}

START_TEST(a_change_during_a_write_back_waits_for_the_next)
{
    bool written = _i == 0;
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    struct cache_writeback *writeback;

    disk_change(disk, 9, 0, 1, 0x11);
    disk->during = change_two_sectors;
    writeback = disk_begin(disk);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 0);
    ck_assert_int_eq(cache_writeback_write(writeback, disk_write, disk), 0);
    ck_assert_uint_eq(disk->bytes[9 * BLOCK], 0x11);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), BLOCK);
    ck_assert_uint_eq(disk_byte(disk, 9, 0), 0x22);
    cache_writeback_end(writeback, written);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), BLOCK);
    ck_assert_uint_eq(disk_byte(disk, 9, 0), 0x22);
    disk_write_back(disk);
    ck_assert_uint_eq(disk->bytes[9 * BLOCK], 0x22);
    ck_assert_uint_eq(disk->bytes[9 * BLOCK + 4 * SECTOR], 0x33);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

static void change_another_sector(struct disk *disk)
{
    disk_change(disk, 9, 4 * SECTOR, 1, 0x33);
}

START_TEST(what_a_failed_write_back_had_taken_is_written_with_a_later_change)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    struct cache_writeback *writeback;

    disk_change(disk, 9, 0, 1, 0x11);
    writeback = disk_begin(disk);
    change_another_sector(disk); /* the copy has sector 4 of its own, and sector 0 from there */
    cache_writeback_end(writeback, false);
    disk_write_back(disk);
    ck_assert_uint_eq(disk->bytes[9 * BLOCK], 0x11);
    ck_assert_uint_eq(disk->bytes[9 * BLOCK + 4 * SECTOR], 0x33);
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_failed_write_back_leaves_all_of_it_dirty)
{
    struct disk *disk = disk_make(BLOCK); /* nothing clean would stay */
    struct cache_writeback *writeback;

    for (uint64_t i = 0; i < 20; i++) {
        disk_change(disk, i, 0, 1, 0xEE);
    }
    disk->failing = 10;
    writeback = disk_begin(disk);
    ck_assert_int_eq(cache_writeback_write(writeback, disk_write, disk), -ENOSPC);
    ck_assert_uint_eq(disk->writes, 9);
    cache_writeback_end(writeback, false);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 20 * BLOCK);
    disk_write_back(disk);
    ck_assert_uint_eq(disk->writes, 20);
    for (uint64_t i = 0; i < 20; i++) {
        ck_assert_uint_eq(disk->bytes[i * BLOCK], 0xEE);
    }
    disk_expect_clean(disk);
    disk_free(disk);
}
END_TEST

/* --- Against a model -------------------- */

static void random_step(struct disk *disk, uint8_t *model, unsigned *seed)
{
    unsigned what = (unsigned)rand_r(seed) % 20;
    uint64_t number = (uint64_t)rand_r(seed) % BLOCKS;
    size_t offset = (size_t)rand_r(seed) % BLOCK;
    struct stamp stamp = {offset, (size_t)rand_r(seed) % (BLOCK - offset) + 1,
                          (uint8_t)rand_r(seed)};

    if (what < 12) {
        bool fails = rand_r(seed) % 4 == 0, through = what < 4;
        int result;

        disk->failing = fails && through ? 1 : 0;
        result = disk_change_with(disk, number, &stamp, 1, through);
        ck_assert_int_eq(result, fails && through ? -ENOSPC : 0);
        disk->failing = 0;
        if (result == 0) {
            memset(model + number * BLOCK + offset, stamp.byte, stamp.length);
        }
    } else if (what < 18) {
        const struct cache_entry *entry = disk_pin(disk, number);

        ck_assert_int_eq(memcmp(entry->data, model + number * BLOCK, BLOCK), 0);
        cache_pool_unpin(disk->pool, entry);
    } else {
        struct cache_writeback *writeback = disk_begin(disk);
        int result;

        disk->failing = (unsigned)rand_r(seed) % 8;
        result = cache_writeback_write(writeback, disk_write, disk);
        cache_writeback_end(writeback, result == 0);
        disk->failing = 0;
    }
}

START_TEST(random_changes_give_what_a_plain_array_gives)
{
    /* With a budget for all, for some, for none. */
    struct disk *disk = disk_make((uint64_t)_i * BLOCKS / 2 * BLOCK);
    uint8_t *model = malloc(sizeof(disk->bytes));
    unsigned seed = (unsigned)_i + 1;

    memcpy(model, disk->bytes, sizeof(disk->bytes));
    for (unsigned i = 0; i < 5000; i++) {
        random_step(disk, model, &seed);
    }
    disk_write_back(disk);
    ck_assert_int_eq(memcmp(disk->bytes, model, sizeof(disk->bytes)), 0);
    disk_expect_clean(disk);
    free(model);
    disk_free(disk);
}
END_TEST

/* --- Many threads -------------------- */

#define CHANGERS 3

struct shared {
    struct disk *disk;
    pthread_mutex_t mutex; /* guards disk->bytes */
    atomic_bool stop;
};

struct changer {
    struct shared *shared;
    unsigned number;
};

static int shared_write(void *context, uint64_t host_offset, const void *data, size_t length)
{
    struct shared *shared = context;

    pthread_mutex_lock(&shared->mutex);
    memcpy(shared->disk->bytes + host_offset, data, length);
    pthread_mutex_unlock(&shared->mutex);
    return 0;
}

static void *change_own_blocks(void *context)
{
    const struct changer *changer = context;
    struct shared *shared = changer->shared;
    unsigned seed = changer->number;

    for (unsigned i = 0; i < 3000; i++) {
        uint64_t number = (uint64_t)rand_r(&seed) % (BLOCKS / CHANGERS) * CHANGERS +
                          changer->number; /* "nobody else changes the same block" */
        struct place place = {shared->disk, number * BLOCK, &shared->mutex};
        struct stamp stamp = {(size_t)rand_r(&seed) % 8 * SECTOR, SECTOR, (uint8_t)i};
        struct cache_change change = {
            .offset = stamp.offset,
            .length = stamp.length,
            .apply = apply_stamp,
            .context = &stamp,
        };
        const struct cache_entry *entry;

        ck_assert_int_eq(cache_pool_change(shared->disk->pool, disk_key(number), BLOCK, disk_fill,
                                           &place, &change),
                         0);
        ck_assert_int_eq(
            cache_pool_get(shared->disk->pool, disk_key(number), BLOCK, disk_fill, &place, &entry),
            0);
        ck_assert_uint_eq(((const uint8_t *)entry->data)[stamp.offset + 5], (uint8_t)i);
        cache_pool_unpin(shared->disk->pool, entry);
    }
    return NULL;
}

/* No reader ever sees a sector that is changed in part, or that changes under it. */
static void *read_all_blocks(void *context)
{
    struct shared *shared = context;
    unsigned seed = 99;

    while (!atomic_load(&shared->stop)) {
        uint64_t number = (uint64_t)rand_r(&seed) % BLOCKS;
        struct place place = {shared->disk, number * BLOCK, &shared->mutex};
        const struct cache_entry *entry;
        const uint8_t *bytes;

        ck_assert_int_eq(
            cache_pool_get(shared->disk->pool, disk_key(number), BLOCK, disk_fill, &place, &entry),
            0);
        bytes = entry->data;
        for (size_t at = 0; at < BLOCK; at += SECTOR) {
            ck_assert_int_eq(memcmp(bytes + at, bytes + at + 1, SECTOR - 1), 0);
        }
        cache_pool_unpin(shared->disk->pool, entry);
    }
    return NULL;
}

static void *write_back_often(void *context)
{
    struct shared *shared = context;
    bool written = false;

    while (!atomic_load(&shared->stop)) {
        struct cache_writeback *writeback;

        ck_assert_int_eq(cache_writeback_begin(shared->disk->pool, &writeback), 0);
        ck_assert_int_eq(cache_writeback_write(writeback, shared_write, shared), 0);
        cache_writeback_end(writeback, written); /* every second one fails */
        written = !written;
    }
    return NULL;
}

START_TEST(threads_change_read_and_write_back_side_by_side)
{
    struct shared shared = {.disk = disk_make(8 * BLOCK), .mutex = PTHREAD_MUTEX_INITIALIZER};
    struct changer changers[CHANGERS];
    pthread_t threads[CHANGERS], reader, writer;

    pthread_create(&reader, NULL, read_all_blocks, &shared);
    pthread_create(&writer, NULL, write_back_often, &shared);
    for (unsigned i = 0; i < CHANGERS; i++) {
        changers[i] = (struct changer){&shared, i};
        pthread_create(&threads[i], NULL, change_own_blocks, &changers[i]);
    }
    for (unsigned i = 0; i < CHANGERS; i++) {
        pthread_join(threads[i], NULL);
    }
    atomic_store(&shared.stop, true);
    pthread_join(reader, NULL);
    pthread_join(writer, NULL);
    disk_write_back(shared.disk);
    for (uint64_t i = 0; i < BLOCKS; i++) {
        const struct cache_entry *entry = disk_pin(shared.disk, i);

        ck_assert_int_eq(memcmp(entry->data, shared.disk->bytes + i * BLOCK, BLOCK), 0);
        cache_pool_unpin(shared.disk->pool, entry);
    }
    disk_expect_clean(shared.disk);
    disk_free(shared.disk);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("change-writeback");
    TCase *tcase = tcase_create("change-writeback");

    tcase_add_test(tcase, only_dirty_sectors_are_written_neighbours_together);
    tcase_add_test(tcase, the_epoch_of_a_write_back_is_the_latest_of_its_changes);
    tcase_add_loop_test(tcase, a_change_during_a_write_back_waits_for_the_next, 0, 2);
    tcase_add_test(tcase, what_a_failed_write_back_had_taken_is_written_with_a_later_change);
    tcase_add_test(tcase, a_failed_write_back_leaves_all_of_it_dirty);
    tcase_add_loop_test(tcase, random_changes_give_what_a_plain_array_gives, 0, 3);
    tcase_add_test(tcase, threads_change_read_and_write_back_side_by_side);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
