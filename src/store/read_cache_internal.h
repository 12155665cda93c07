/* SPDX-License-Identifier: MIT */
/* What the files of the read cache share; internal to it (store/read_cache.h). */
#ifndef STORE_READ_CACHE_INTERNAL_H
#define STORE_READ_CACHE_INTERNAL_H

#include "store/read_cache_file.h"
#include "store/through.h"
#include "util/checked.h"

#include <pthread.h>

#define PLACE_NONE UINT32_MAX

enum place_state {
    PLACE_FREE,    /* in the list of those */
    PLACE_FILLING, /* its block is being read */
    PLACE_READY,
    PLACE_LEAVING, /* its block is given up, and somebody still reads it */
};

struct place {
    uint64_t number, sum; /* of its block */
    uint32_t next;        /* of the same hash, or of the free ones */
    uint32_t users;       /* who read it */
    uint8_t state;        /* enum place_state */
    bool is_stale;        /* FILLING: written to meanwhile */
    bool is_recent;       /* READY: used since it was last looked at for giving it up */
};

struct read_cache {
    struct through through;
    struct cache_file file;
    uint64_t size; /* bytes of the store */
    bool unsafe;   /* what was written is never known to be stable */

    pthread_mutex_t marking; /* held while the file is marked; before `mutex` */
    bool is_marked;          /* it says that the store is written */

    pthread_mutex_t mutex; /* guards all that follows; a leaf */
    pthread_cond_t filled; /* a block is no longer being read */
    bool is_off;           /* nothing is kept, nor looked for, any more */
    struct place *places;  /* of file.places */
    uint32_t *heads;       /* by hash, the first place or PLACE_NONE */
    uint32_t mask;         /* of hashes */
    uint32_t free;         /* the first of a list, or PLACE_NONE */
    uint32_t unused;       /* places from here on were never used */
    uint32_t hand;         /* where a place is looked for next */
};

/* --- read_cache_places.c: blocks and their places in the file; the mutex is held -------------- */

/* False: there is no memory. No place has a block then, as after cache_empty(). */
bool cache_make_places(struct read_cache *cache);
void cache_empty(struct read_cache *cache);

/* The place of a block, or PLACE_NONE. */
uint32_t cache_find(struct read_cache *cache, uint64_t number);
/* A place of its own for a block, FILLING; PLACE_NONE: there is none. Another block may be given
 * up.
 */
uint32_t cache_take_place(struct read_cache *cache, uint64_t number);
/* Its block is not there any more; the place is free as soon as nobody reads it. */
void cache_give_up(struct read_cache *cache, uint32_t at);

/* A place that has, or has not, a block: for who loads a map. */
void cache_insert(struct read_cache *cache, uint32_t at, uint64_t number, enum place_state state);
void cache_set_free(struct read_cache *cache, uint32_t at);

/* --- read_cache_kept.c: what the file has ------------------------------------------------------
 */

/*
 * A part of the block of `place`, which is at `at`. A negative errno where the file does not have
 * the bytes that its sum is of; what is in the buffer then is of no use.
 */
int cache_read_checked(struct read_cache *cache, uint32_t at, const struct place *place,
                       uint64_t offset, uint8_t *buffer, size_t length);

/* Takes what a kept file has, where the store still has it. A negative errno with a sentence. */
int cache_go_on(struct read_cache *cache, const char *path, struct error *error);
/* Writes the map as it is, when nobody uses the store any more. */
int cache_save_map(const struct read_cache *cache);

/* Bytes of a block, of which the last one may have fewer. */
static inline size_t cache_block_length(const struct read_cache *cache, uint64_t number)
{
    return (size_t)min_u64(CACHE_BLOCK, cache->size - number * CACHE_BLOCK);
}

#endif
