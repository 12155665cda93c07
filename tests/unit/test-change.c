/* SPDX-License-Identifier: MIT */
/* Changing cached blocks, and writing them back. */
#include "config.h"

#include "cache/change.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK  ((size_t)4096)
#define SECTOR ((size_t)512)
#define BLOCKS 64

/* A disk of BLOCKS blocks, and what was written to it since the last look. */
struct disk {
    uint8_t bytes[BLOCKS * BLOCK];
    unsigned writes;
    uint64_t written;        /* bytes */
    uint64_t offset, length; /* of the last write */
    unsigned failing;        /* the write that takes it to 0 fails */
    struct cache_pool *pool; /* what `during` changes */
    void (*during)(struct disk *disk);
};

static int disk_write(void *context, uint64_t host_offset, const void *data, size_t length)
{
    struct disk *disk = context;

    if (disk->failing > 0 && --disk->failing == 0) {
        return -ENOSPC;
    }
    if (disk->during != NULL) {
        void (*during)(struct disk *) = disk->during;

        disk->during = NULL;
        during(disk);
    }
    ck_assert_uint_le(host_offset + length, sizeof(disk->bytes));
    memcpy(disk->bytes + host_offset, data, length);
    disk->writes++;
    disk->written += length;
    disk->offset = host_offset;
    disk->length = length;
    return 0;
}

struct place {
    struct disk *disk;
    uint64_t offset;
    pthread_mutex_t *mutex; /* of the disk where threads share it, or NULL */
};

static int fill(void *context, void *data, size_t size)
{
    const struct place *place = context;

    if (place->mutex != NULL) {
        pthread_mutex_lock(place->mutex);
    }
    memcpy(data, place->disk->bytes + place->offset, size);
    if (place->mutex != NULL) {
        pthread_mutex_unlock(place->mutex);
    }
    return 0;
}

static struct cache_key key_of(uint64_t number)
{
    return (struct cache_key){.owner = 1, .host_offset = number * BLOCK};
}

static struct disk *disk_make(uint64_t budget)
{
    struct disk *disk = calloc(1, sizeof(*disk));

    ck_assert_ptr_nonnull(disk);
    for (size_t i = 0; i < sizeof(disk->bytes); i++) {
        disk->bytes[i] = (uint8_t)(i / BLOCK + 1);
    }
    ck_assert_int_eq(cache_pool_create(budget, BLOCK, &disk->pool), 0);
    return disk;
}

static void disk_free(struct disk *disk)
{
    cache_pool_destroy(disk->pool);
    free(disk);
}

static const struct cache_entry *pin(struct disk *disk, uint64_t number)
{
    struct place place = {.disk = disk, .offset = number * BLOCK};
    const struct cache_entry *entry;

    ck_assert_int_eq(cache_pool_get(disk->pool, key_of(number), BLOCK, fill, &place, &entry), 0);
    return entry;
}

static uint8_t byte_at(struct disk *disk, uint64_t number, size_t offset)
{
    const struct cache_entry *entry = pin(disk, number);
    uint8_t byte = ((const uint8_t *)entry->data)[offset];

    cache_pool_unpin(disk->pool, entry);
    return byte;
}

struct stamp {
    size_t offset, length;
    uint8_t byte;
};

static void apply_stamp(void *context, void *data)
{
    const struct stamp *stamp = context;

    memset((uint8_t *)data + stamp->offset, stamp->byte, stamp->length);
}

static int change_with(struct disk *disk, uint64_t number, const struct stamp *stamp,
                       uint64_t epoch, bool through)
{
    struct place place = {.disk = disk, .offset = number * BLOCK};
    struct cache_change change = {
        .offset = stamp->offset,
        .length = stamp->length,
        .epoch = epoch,
        .apply = apply_stamp,
        .context = (void *)(uintptr_t)stamp,
        .write_through = through ? disk_write : NULL,
        .write_context = disk,
    };

    return cache_pool_change(disk->pool, key_of(number), BLOCK, fill, &place, &change);
}

static void change(struct disk *disk, uint64_t number, size_t offset, size_t length, uint8_t byte)
{
    ck_assert_int_eq(
        change_with(disk, number, &(struct stamp){offset, length, byte}, number + 1, false), 0);
}

static struct cache_writeback *begin(struct disk *disk)
{
    struct cache_writeback *writeback;

    ck_assert_int_eq(cache_writeback_begin(disk->pool, &writeback), 0);
    disk->writes = 0;
    disk->written = 0;
    return writeback;
}

static void write_back(struct disk *disk)
{
    struct cache_writeback *writeback = begin(disk);

    ck_assert_int_eq(cache_writeback_write(writeback, disk_write, disk), 0);
    cache_writeback_end(writeback, true);
}

static uint64_t bytes_in(struct disk *disk)
{
    struct cache_pool_stats stats;

    cache_pool_stats(disk->pool, &stats);
    ck_assert_uint_eq(stats.bytes, stats.entries * BLOCK); /* nothing is pinned that was replaced */
    return stats.bytes;
}

/* All is clean, and the counts of bytes are right to the end. */
static void expect_clean(struct disk *disk)
{
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 0);
    (void)bytes_in(disk);
    cache_pool_clean(disk->pool);
    cache_pool_clean(disk->pool);
    ck_assert_uint_eq(bytes_in(disk), 0);
}

/* --- Changes ----------------------------------------------------------------------------- */

START_TEST(a_pinned_reader_keeps_the_old_bytes)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    const struct cache_entry *old = pin(disk, 5), *newer;
    const uint8_t *bytes = old->data;
    struct cache_pool_stats stats;

    change(disk, 5, 100, 10, 0xEE);
    ck_assert_uint_eq(bytes[100], 6);
    newer = pin(disk, 5);
    ck_assert_uint_eq(((const uint8_t *)newer->data)[100], 0xEE);
    ck_assert_uint_eq(((const uint8_t *)newer->data)[99], 6);
    ck_assert_uint_eq(((const uint8_t *)newer->data)[110], 6);
    change(disk, 5, 100, 10, 0xDD);
    ck_assert_uint_eq(bytes[100], 6);
    ck_assert_uint_eq(((const uint8_t *)newer->data)[100], 0xEE);
    cache_pool_stats(disk->pool, &stats);
    ck_assert_uint_eq(stats.entries, 1);
    ck_assert_uint_eq(stats.bytes, 3 * BLOCK); /* the pinned ones still take memory */
    cache_pool_unpin(disk->pool, newer);
    cache_pool_unpin(disk->pool, old);
    ck_assert_uint_eq(bytes_in(disk), BLOCK);
    ck_assert_uint_eq(byte_at(disk, 5, 100), 0xDD);
    write_back(disk);
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_block_that_nobody_reads_changes_where_it_is)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    const struct cache_entry *pinned = pin(disk, 5);
    const void *place = pinned->data;
    struct cache_writeback *writeback;

    cache_pool_unpin(disk->pool, pinned);
    change(disk, 5, 100, 10, 0xEE); /* clean before */
    change(disk, 5, 600, 10, 0xDD); /* dirty before */
    pinned = pin(disk, 5);
    ck_assert_ptr_eq(pinned->data, place);
    ck_assert_uint_eq(((const uint8_t *)pinned->data)[100], 0xEE);
    ck_assert_uint_eq(((const uint8_t *)pinned->data)[600], 0xDD);
    cache_pool_unpin(disk->pool, pinned);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), BLOCK);
    writeback = begin(disk);
    change(disk, 5, 100, 10, 0xCC); /* being written */
    pinned = pin(disk, 5);
    ck_assert_ptr_ne(pinned->data, place);
    cache_pool_unpin(disk->pool, pinned);
    ck_assert_int_eq(cache_writeback_write(writeback, disk_write, disk), 0);
    ck_assert_uint_eq(disk->bytes[5 * BLOCK + 100], 0xEE);
    cache_writeback_end(writeback, true);
    write_back(disk);
    ck_assert_uint_eq(disk->bytes[5 * BLOCK + 100], 0xCC);
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(dirty_blocks_are_never_evicted_and_clean_ones_are)
{
    struct disk *disk = disk_make(4 * BLOCK);

    for (uint64_t i = 0; i < 10; i++) {
        change(disk, i, 0, 1, 0xEE);
    }
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 10 * BLOCK);
    for (uint64_t i = 10; i < BLOCKS; i++) {
        (void)byte_at(disk, i, 0);
    }
    cache_pool_clean(disk->pool);
    cache_pool_clean(disk->pool);
    for (uint64_t i = 0; i < 10; i++) {
        ck_assert_uint_eq(byte_at(disk, i, 0), 0xEE); /* the disk has i + 1 */
    }
    ck_assert_uint_eq(bytes_in(disk), 10 * BLOCK);
    write_back(disk);
    ck_assert_uint_le(bytes_in(disk), 4 * BLOCK);
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_failed_fill_changes_nothing)
{
    struct disk *disk = disk_make(4 * BLOCK);
    const struct cache_entry *entry = pin(disk, 0);
    struct stamp stamp = {0, 1, 2};
    struct cache_change wrong = {.length = 1, .apply = apply_stamp, .context = &stamp};

    /* A block of another size is a caller's mistake, and an error like any other. */
    ck_assert_int_eq(cache_pool_change(disk->pool, key_of(0), 512, fill, disk, &wrong), -EINVAL);
    cache_pool_unpin(disk->pool, entry);
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

/* --- Writing back --------------------------------------------------------------------------- */

START_TEST(only_dirty_sectors_are_written_neighbours_together)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);

    change(disk, 3, 2 * SECTOR + 7, 1, 0xEE);
    write_back(disk);
    ck_assert_uint_eq(disk->writes, 1);
    ck_assert_uint_eq(disk->offset, 3 * BLOCK + 2 * SECTOR);
    ck_assert_uint_eq(disk->length, SECTOR);

    change(disk, 3, SECTOR - 1, 2, 0xDD); /* sectors 0 and 1 */
    change(disk, 3, 2 * SECTOR, 1, 0xDD); /* and 2 */
    change(disk, 3, BLOCK - 1, 1, 0xDD);  /* and the last */
    write_back(disk);
    ck_assert_uint_eq(disk->writes, 2);
    ck_assert_uint_eq(disk->written, 4 * SECTOR);
    ck_assert_uint_eq(disk->bytes[3 * BLOCK + 2 * SECTOR + 7], 0xEE);
    ck_assert_uint_eq(disk->bytes[3 * BLOCK + BLOCK - 1], 0xDD);

    change(disk, 3, 0, BLOCK, 0xCC);
    write_back(disk);
    ck_assert_uint_eq(disk->writes, 1);
    ck_assert_uint_eq(disk->written, BLOCK);
    write_back(disk);
    ck_assert_uint_eq(disk->writes, 0);
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(the_epoch_of_a_write_back_is_the_latest_of_its_changes)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    struct cache_writeback *writeback = begin(disk);

    ck_assert(cache_writeback_is_empty(writeback));
    ck_assert_uint_eq(cache_writeback_epoch(writeback), 0);
    cache_writeback_end(writeback, true);
    ck_assert_int_eq(change_with(disk, 1, &(struct stamp){0, 1, 1}, 7, false), 0);
    ck_assert_int_eq(change_with(disk, 1, &(struct stamp){0, 1, 2}, 5, false), 0);
    ck_assert_int_eq(change_with(disk, 2, &(struct stamp){0, 1, 1}, 6, false), 0);
    writeback = begin(disk);
    ck_assert(!cache_writeback_is_empty(writeback));
    ck_assert_uint_eq(cache_writeback_epoch(writeback), 7);
    cache_writeback_end(writeback, false);
    writeback = begin(disk); /* a failed one forgets no epoch */
    ck_assert_uint_eq(cache_writeback_epoch(writeback), 7);
    cache_writeback_end(writeback, true);
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

static void change_two_sectors(struct disk *disk)
{
    change(disk, 9, 0, 1, 0x22);          /* is being written */
    change(disk, 9, 4 * SECTOR, 1, 0x33); /* is not */
}

START_TEST(a_change_during_a_write_back_waits_for_the_next)
{
    bool written = _i == 0;
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    struct cache_writeback *writeback;

    change(disk, 9, 0, 1, 0x11);
    disk->during = change_two_sectors;
    writeback = begin(disk);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 0);
    ck_assert_int_eq(cache_writeback_write(writeback, disk_write, disk), 0);
    ck_assert_uint_eq(disk->bytes[9 * BLOCK], 0x11);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), BLOCK);
    ck_assert_uint_eq(byte_at(disk, 9, 0), 0x22);
    cache_writeback_end(writeback, written);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), BLOCK);
    ck_assert_uint_eq(byte_at(disk, 9, 0), 0x22);
    write_back(disk);
    ck_assert_uint_eq(disk->bytes[9 * BLOCK], 0x22);
    ck_assert_uint_eq(disk->bytes[9 * BLOCK + 4 * SECTOR], 0x33);
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

static void change_another_sector(struct disk *disk)
{
    change(disk, 9, 4 * SECTOR, 1, 0x33);
}

START_TEST(what_a_failed_write_back_had_taken_is_written_with_a_later_change)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    struct cache_writeback *writeback;

    change(disk, 9, 0, 1, 0x11);
    writeback = begin(disk);
    change_another_sector(disk); /* the copy has sector 4 of its own, and sector 0 from there */
    cache_writeback_end(writeback, false);
    write_back(disk);
    ck_assert_uint_eq(disk->bytes[9 * BLOCK], 0x11);
    ck_assert_uint_eq(disk->bytes[9 * BLOCK + 4 * SECTOR], 0x33);
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_failed_write_back_leaves_all_of_it_dirty)
{
    struct disk *disk = disk_make(BLOCK); /* nothing clean would stay */
    struct cache_writeback *writeback;

    for (uint64_t i = 0; i < 20; i++) {
        change(disk, i, 0, 1, 0xEE);
    }
    disk->failing = 10;
    writeback = begin(disk);
    ck_assert_int_eq(cache_writeback_write(writeback, disk_write, disk), -ENOSPC);
    ck_assert_uint_eq(disk->writes, 9);
    cache_writeback_end(writeback, false);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 20 * BLOCK);
    write_back(disk);
    ck_assert_uint_eq(disk->writes, 20);
    for (uint64_t i = 0; i < 20; i++) {
        ck_assert_uint_eq(disk->bytes[i * BLOCK], 0xEE);
    }
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

/* --- Write-through ---------------------------------------------------------------------------- */

START_TEST(write_through_writes_the_changed_bytes_and_leaves_the_block_clean)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);

    ck_assert_int_eq(change_with(disk, 4, &(struct stamp){1000, 30, 0xEE}, 1, true), 0);
    ck_assert_uint_eq(disk->writes, 1);
    ck_assert_uint_eq(disk->offset, 4 * BLOCK + 1000);
    ck_assert_uint_eq(disk->length, 30);
    ck_assert_uint_eq(disk->bytes[4 * BLOCK + 1029], 0xEE);
    ck_assert_uint_eq(byte_at(disk, 4, 1029), 0xEE);
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(write_through_leaves_what_was_dirty_dirty)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);

    change(disk, 4, 0, 1, 0x11);
    ck_assert_int_eq(change_with(disk, 4, &(struct stamp){1000, 30, 0xEE}, 9, true), 0);
    ck_assert_uint_eq(disk->bytes[4 * BLOCK], 5);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), BLOCK);
    write_back(disk);
    ck_assert_uint_eq(disk->written, SECTOR);
    ck_assert_uint_eq(disk->bytes[4 * BLOCK], 0x11);
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_failed_write_through_is_seen_by_nobody)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);

    disk->failing = 1;
    ck_assert_int_eq(change_with(disk, 4, &(struct stamp){1000, 30, 0xEE}, 1, true), -ENOSPC);
    ck_assert_uint_eq(byte_at(disk, 4, 1000), 5);
    change(disk, 4, 0, 1, 0x11);
    disk->failing = 1;
    ck_assert_int_eq(change_with(disk, 4, &(struct stamp){1000, 30, 0xEE}, 1, true), -ENOSPC);
    ck_assert_uint_eq(byte_at(disk, 4, 1000), 5);
    ck_assert_uint_eq(byte_at(disk, 4, 0), 0x11);
    write_back(disk);
    ck_assert_uint_eq(disk->bytes[4 * BLOCK], 0x11);
    ck_assert_uint_eq(disk->bytes[4 * BLOCK + 1000], 5);
    expect_clean(disk);
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

        ck_assert_int_eq(cache_pool_get(disk->pool, key, BLOCK, fill, &place, &entry), 0);
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
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

/* --- Dropping --------------------------------------------------------------------------------- */

START_TEST(a_dropped_block_is_read_again_and_never_written)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    const struct cache_entry *pinned;

    change(disk, 4, 0, 1, 0x11);
    ck_assert(cache_pool_has(disk->pool, key_of(4)));
    pinned = pin(disk, 4);
    cache_pool_drop(disk->pool, key_of(4));
    cache_pool_drop(disk->pool, key_of(4)); /* it may be gone already */
    ck_assert(!cache_pool_has(disk->pool, key_of(4)));
    ck_assert_uint_eq(((const uint8_t *)pinned->data)[0], 0x11);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 0);
    write_back(disk);
    ck_assert_uint_eq(disk->writes, 0);
    ck_assert_uint_eq(byte_at(disk, 4, 0), 5);
    cache_pool_unpin(disk->pool, pinned);
    ck_assert_uint_eq(byte_at(disk, 4, 0), 5);
    cache_pool_drop(disk->pool, key_of(4)); /* clean, unpinned */
    change(disk, 4, 0, 1, 0x11);
    cache_pool_drop(disk->pool, key_of(4)); /* dirty, unpinned */
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_block_dropped_during_its_write_back_does_not_come_back)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);
    struct cache_writeback *writeback;

    change(disk, 4, 0, 1, 0x11);
    writeback = begin(disk);
    cache_pool_drop(disk->pool, key_of(4));
    cache_writeback_end(writeback, _i == 0);
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 0);
    ck_assert_uint_eq(byte_at(disk, 4, 0), 5);
    expect_clean(disk);
    disk_free(disk);
}
END_TEST

START_TEST(a_pool_with_dirty_blocks_can_be_destroyed)
{
    struct disk *disk = disk_make(BLOCKS * BLOCK);

    change(disk, 4, 0, 1, 0x11);
    change(disk, 5, 0, 1, 0x11);
    disk_free(disk); /* a leak would be seen by AddressSanitizer */
}
END_TEST

/* --- Against a model ---------------------------------------------------------------------------
 */

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
        result = change_with(disk, number, &stamp, 1, through);
        ck_assert_int_eq(result, fails && through ? -ENOSPC : 0);
        disk->failing = 0;
        if (result == 0) {
            memset(model + number * BLOCK + offset, stamp.byte, stamp.length);
        }
    } else if (what < 18) {
        const struct cache_entry *entry = pin(disk, number);

        ck_assert_int_eq(memcmp(entry->data, model + number * BLOCK, BLOCK), 0);
        cache_pool_unpin(disk->pool, entry);
    } else {
        struct cache_writeback *writeback = begin(disk);
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
    write_back(disk);
    ck_assert_int_eq(memcmp(disk->bytes, model, sizeof(disk->bytes)), 0);
    expect_clean(disk);
    free(model);
    disk_free(disk);
}
END_TEST

/* --- Many threads -------------------------------------------------------------------------------
 */

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

        ck_assert_int_eq(
            cache_pool_change(shared->disk->pool, key_of(number), BLOCK, fill, &place, &change), 0);
        ck_assert_int_eq(
            cache_pool_get(shared->disk->pool, key_of(number), BLOCK, fill, &place, &entry), 0);
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
            cache_pool_get(shared->disk->pool, key_of(number), BLOCK, fill, &place, &entry), 0);
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
    write_back(shared.disk);
    for (uint64_t i = 0; i < BLOCKS; i++) {
        const struct cache_entry *entry = pin(shared.disk, i);

        ck_assert_int_eq(memcmp(entry->data, shared.disk->bytes + i * BLOCK, BLOCK), 0);
        cache_pool_unpin(shared.disk->pool, entry);
    }
    expect_clean(shared.disk);
    disk_free(shared.disk);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("change");
    TCase *tcase = tcase_create("change");

    tcase_add_test(tcase, a_pinned_reader_keeps_the_old_bytes);
    tcase_add_test(tcase, a_block_that_nobody_reads_changes_where_it_is);
    tcase_add_test(tcase, what_any_range_has_is_what_each_of_its_blocks_says);
    tcase_add_test(tcase, dirty_blocks_are_never_evicted_and_clean_ones_are);
    tcase_add_test(tcase, a_failed_fill_changes_nothing);
    tcase_add_test(tcase, only_dirty_sectors_are_written_neighbours_together);
    tcase_add_test(tcase, the_epoch_of_a_write_back_is_the_latest_of_its_changes);
    tcase_add_loop_test(tcase, a_change_during_a_write_back_waits_for_the_next, 0, 2);
    tcase_add_test(tcase, what_a_failed_write_back_had_taken_is_written_with_a_later_change);
    tcase_add_test(tcase, a_failed_write_back_leaves_all_of_it_dirty);
    tcase_add_test(tcase, write_through_writes_the_changed_bytes_and_leaves_the_block_clean);
    tcase_add_test(tcase, write_through_leaves_what_was_dirty_dirty);
    tcase_add_test(tcase, a_failed_write_through_is_seen_by_nobody);
    tcase_add_test(tcase, a_dropped_block_is_read_again_and_never_written);
    tcase_add_loop_test(tcase, a_block_dropped_during_its_write_back_does_not_come_back, 0, 2);
    tcase_add_test(tcase, a_pool_with_dirty_blocks_can_be_destroyed);
    tcase_add_loop_test(tcase, random_changes_give_what_a_plain_array_gives, 0, 3);
    tcase_add_test(tcase, threads_change_read_and_write_back_side_by_side);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
