/* SPDX-License-Identifier: MIT */
/* What the suites of changing and writing back share: a small disk, and a pool of its blocks. */
#ifndef UNIT_CHANGE_CASE_H
#define UNIT_CHANGE_CASE_H

#include "cache/change.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
    struct cache_pool *pool;
    void (*during)(struct disk *disk); /* is called once, by the next write */
};

/* Every byte of a block is its number + 1. The budget, in bytes, is that of the pool. */
struct disk *disk_make(uint64_t budget);
void disk_free(struct disk *disk);

/* A block of the disk, for disk_fill(). */
struct place {
    struct disk *disk;
    uint64_t offset;
    pthread_mutex_t *mutex; /* of the disk where threads share it, or NULL */
};

/* For the pool: reads a place; writes to a disk. */
int disk_fill(void *context, void *data, size_t size);
int disk_write(void *context, uint64_t host_offset, const void *data, size_t length);

struct cache_key disk_key(uint64_t number);

/* The caller unpins it. */
const struct cache_entry *disk_pin(struct disk *disk, uint64_t number);

/* What the pool shows at that offset of the block. */
uint8_t disk_byte(struct disk *disk, uint64_t number, size_t offset);

/* A change: so many bytes of a block become `byte`. apply_stamp() is its apply(). */
struct stamp {
    size_t offset, length;
    uint8_t byte;
};

void apply_stamp(void *context, void *data);

/* What cache_pool_change() returns. */
int disk_change_with(struct disk *disk, uint64_t number, const struct stamp *stamp, uint64_t epoch,
                     bool through);

/* One that succeeds, not written through. */
void disk_change(struct disk *disk, uint64_t number, size_t offset, size_t length, uint8_t byte);

/* Begins a write-back, and the counts of what is written anew; the caller ends it. */
struct cache_writeback *disk_begin(struct disk *disk);

/* A whole one that succeeds. */
void disk_write_back(struct disk *disk);

/* The bytes in the pool, of which no replaced block may be pinned. */
uint64_t disk_cached(struct disk *disk);

/* All is clean, and the counts of bytes are right to the end. */
void disk_expect_clean(struct disk *disk);

#endif
