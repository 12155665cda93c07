/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "change_case.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int disk_write(void *context, uint64_t host_offset, const void *data, size_t length)
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

int disk_fill(void *context, void *data, size_t size)
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

struct cache_key disk_key(uint64_t number)
{
    return (struct cache_key){.owner = 1, .host_offset = number * BLOCK};
}

struct disk *disk_make(uint64_t budget)
{
    struct disk *disk = calloc(1, sizeof(*disk));

    ck_assert_ptr_nonnull(disk);
    for (size_t i = 0; i < sizeof(disk->bytes); i++) {
        disk->bytes[i] = (uint8_t)(i / BLOCK + 1);
    }
    ck_assert_int_eq(cache_pool_create(budget, BLOCK, &disk->pool), 0);
    return disk;
}

void disk_free(struct disk *disk)
{
    cache_pool_destroy(disk->pool);
    free(disk);
}

const struct cache_entry *disk_pin(struct disk *disk, uint64_t number)
{
    struct place place = {.disk = disk, .offset = number * BLOCK};
    const struct cache_entry *entry;

    ck_assert_int_eq(cache_pool_get(disk->pool, disk_key(number), BLOCK, disk_fill, &place, &entry),
                     0);
    return entry;
}

uint8_t disk_byte(struct disk *disk, uint64_t number, size_t offset)
{
    const struct cache_entry *entry = disk_pin(disk, number);
    uint8_t byte = ((const uint8_t *)entry->data)[offset];

    cache_pool_unpin(disk->pool, entry);
    return byte;
}

void apply_stamp(void *context, void *data)
{
    const struct stamp *stamp = context;

    memset((uint8_t *)data + stamp->offset, stamp->byte, stamp->length);
}

int disk_change_with(struct disk *disk, uint64_t number, const struct stamp *stamp, uint64_t epoch,
                     bool through)
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

    return cache_pool_change(disk->pool, disk_key(number), BLOCK, disk_fill, &place, &change);
}

void disk_change(struct disk *disk, uint64_t number, size_t offset, size_t length, uint8_t byte)
{
    ck_assert_int_eq(
        disk_change_with(disk, number, &(struct stamp){offset, length, byte}, number + 1, false),
        0);
}

struct cache_writeback *disk_begin(struct disk *disk)
{
    struct cache_writeback *writeback;

    ck_assert_int_eq(cache_writeback_begin(disk->pool, &writeback), 0);
    disk->writes = 0;
    disk->written = 0;
    return writeback;
}

void disk_write_back(struct disk *disk)
{
    struct cache_writeback *writeback = disk_begin(disk);

    ck_assert_int_eq(cache_writeback_write(writeback, disk_write, disk), 0);
    cache_writeback_end(writeback, true);
}

uint64_t disk_cached(struct disk *disk)
{
    struct cache_pool_stats stats;

    cache_pool_stats(disk->pool, &stats);
    ck_assert_uint_eq(stats.bytes, stats.entries * BLOCK); /* nothing is pinned that was replaced */
    return stats.bytes;
}

void disk_expect_clean(struct disk *disk)
{
    ck_assert_uint_eq(cache_pool_dirty_bytes(disk->pool), 0);
    (void)disk_cached(disk);
    cache_pool_clean(disk->pool);
    cache_pool_clean(disk->pool);
    ck_assert_uint_eq(disk_cached(disk), 0);
}
