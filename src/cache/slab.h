/* SPDX-License-Identifier: MIT */
/*
 * Memory for the blocks of a cache pool. A block is aligned to its own size, or
 * to 4096 bytes; taken one by one from malloc, two 4 KiB blocks would lie 8 KiB
 * apart, and a pool would occupy twice its budget. So blocks of up to 32 KiB
 * are cut out of slabs of 64 KiB, each of blocks of one size:
 *
 *     partial[log2 of the size] -> slab -> slab    those with a free block
 *                                   |
 *                                   memory: [block|block|free|block|...]
 *
 * Blocks of a power of two from 64 KiB on are mapped one by one: among malloc's
 * small pieces they would leave holes as large as the pool. Some that were freed
 * are kept for who asks next, whose pages are then there already. Blocks of a
 * size that is no power of two come from malloc.
 *
 * Any thread may call. The one mutex is a leaf; it is taken on a miss and on an
 * eviction, never on a hit.
 */
#ifndef CACHE_SLAB_H
#define CACHE_SLAB_H

#include <pthread.h>
#include <stddef.h>

struct slab;

#define SLAB_BLOCK_BITS_MIN 9
#define SLAB_BLOCK_BITS_MAX 15
#define SLAB_SPARES_MAX     8
#define SLAB_SPARE_BYTES    ((size_t)512 << 10) /* of all spares together, at most */

struct slab_spare {
    void *data;
    size_t size; /* bytes */
};

struct slab_allocator {
    pthread_mutex_t mutex; /* guards all slabs, and the spares */
    struct slab *partial[SLAB_BLOCK_BITS_MAX + 1];
    struct slab_spare spares[SLAB_SPARES_MAX]; /* mapped and unused */
    size_t spare_count, spare_bytes;
};

/* A block in use. */
struct slab_block {
    void *data;
    struct slab *slab; /* NULL where it is mapped, or came from malloc */
    size_t mapped;     /* bytes; 0 where it is not mapped on its own */
};

void slab_allocator_init(struct slab_allocator *allocator);

/* Every block must have been freed. */
void slab_allocator_release(struct slab_allocator *allocator);

/* 0 or -ENOMEM. `size` > 0, bytes. What the block holds is undefined. */
int slab_alloc(struct slab_allocator *allocator, size_t size, struct slab_block *block);

/* A slab whose last block is freed goes back to the system. */
void slab_free(struct slab_allocator *allocator, const struct slab_block *block);

/*
 * Gives the pages under the free blocks of slabs in use, and the spares, back to the system.
 * Returns the bytes that lie in such pages.
 */
size_t slab_trim(struct slab_allocator *allocator);

#endif
