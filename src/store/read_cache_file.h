/* SPDX-License-Identifier: MIT */
/*
 * The file of a read cache: a header, a map, and places for blocks. All numbers are big-endian.
 *
 *     0       magic, version, bytes of a block, places
 *             state: 0, or 1 where the store was written since
 *             bytes of the store, a random number, the sum of the store's address, of the header
 *     4 KiB   the map: for each place the number of its block + 1 (0: none), and the block's sum
 *     ...     the places, at multiples of a block
 *
 * A sum covers the random number, the block's number and its bytes: one of another file, another
 * time, or another place is none. Nothing in it is believed before it was looked at. Internal to
 * the store.
 */
#ifndef STORE_READ_CACHE_FILE_H
#define STORE_READ_CACHE_FILE_H

#include "store/read_cache.h"

#define CACHE_BLOCK (UINT64_C(64) << 10) /* bytes */

struct cache_file {
    int fd;
    bool is_kept;
    uint32_t places;
    uint64_t begin; /* of the places, in the file */
    uint64_t store_size;
    uint64_t random;
    uint64_t address; /* its sum */
};

/*
 * Opens or makes it for a store of `size` bytes. *is_new: it has no blocks. Errors, with their
 * sentences, as store_read_cache().
 */
int cache_file_open(const struct read_cache_options *options, const char *address, uint64_t size,
                    struct cache_file *file, bool *is_new, struct error *error);
/* Forgets all that is in it, stably, and is no read cache any more. 0 or a negative errno. */
int cache_file_forget(const struct cache_file *file);
/* The same, and is a new one. Nobody uses it meanwhile. */
int cache_file_begin_anew(struct cache_file *file);
/* The file is closed; it keeps what it has. */
void cache_file_close(struct cache_file *file);

uint64_t cache_file_sum(const struct cache_file *file, uint64_t number, const void *bytes,
                        size_t length);

/* A part of a block, or all of it. 0 or a negative errno: -EIO where the file does not have it. */
int cache_file_read(const struct cache_file *file, uint32_t place, uint64_t offset, void *bytes,
                    size_t length);
int cache_file_write(const struct cache_file *file, uint32_t place, const void *bytes,
                     size_t length);

/* The map: what it says of `count` places from `first` on; a number of UINT64_MAX is none. */
struct cache_entry {
    uint64_t number, sum;
};
int cache_file_read_map(const struct cache_file *file, uint32_t first, struct cache_entry *entries,
                        uint32_t count);
int cache_file_write_map(const struct cache_file *file, uint32_t first,
                         const struct cache_entry *entries, uint32_t count);

/* Says, stably, that the store is written from now on, or that the map is what the store has. */
int cache_file_mark(const struct cache_file *file, bool is_written);

#endif
