/* SPDX-License-Identifier: MIT */
/* What mapping.c (reading), mapping_open.c and mapping_write.c share. */
#ifndef META_MAPPING_INTERNAL_H
#define META_MAPPING_INTERNAL_H

#include "meta/gate.h"
#include "meta/mapping.h"

#include <stdatomic.h>
#include <stdint.h>

struct mapping_writer;

/* Each makes the table at least half as large again, up to the limit of 32 MiB. */
#define L1_GROWTHS_MAX 64

struct mapping {
    struct mapping_source source;
    struct cache_pool *l2; /* NULL until mapping_set_cache() */
    uint64_t slice_size;   /* bytes of an L2 table that are cached as one */
    /*
     * The L1 table, in host byte order. A disk that grows gets a longer copy:
     * first the pointer changes, then the number, so that who reads the number
     * before the pointer never looks past the end. The old one stays for those
     * that look at it just now, until the mapping is closed.
     */
    _Atomic uint64_t l1_entries;
    uint64_t l1_offset; /* as it was opened; for source.cached_l1 */
    _Atomic uint64_t *_Atomic l1;
    uint64_t l1_missing; /* how many of the last entries are not in the file; see partial_l1 */
    _Atomic uint64_t *retired_l1[L1_GROWTHS_MAX];
    unsigned retired_count;
    /* What was last seen of the file's size, in bytes; it grows while others write. */
    _Atomic uint64_t file_size;
    struct mapping_writer *writer; /* NULL while read-only */
    mapping_look_fn *look;         /* NULL: nobody looks */
    void *look_context;
    const struct mapping *looks_as; /* NULL: these two are its own */
};

/* Where the entry of a guest cluster is. `context` of mapping_fill_slice(). */
struct slice_source {
    struct store *file;
    struct cache_key key; /* of the slice, in the cache; with its host offset */
    bool filled;          /* it was not in the cache */
};

struct slice_place {
    struct slice_source source;
    uint64_t entry_offset; /* in the slice, bytes */
};

/* How many L1 entries there are to be looked at: the first ones. */
static inline uint64_t mapping_l1_present(const struct mapping *mapping)
{
    return mapping->l1_entries - mapping->l1_missing;
}

static inline uint64_t mapping_l1(const struct mapping *mapping, uint64_t index)
{
    return atomic_load_explicit(&atomic_load(&mapping->l1)[index], memory_order_acquire);
}

static inline void mapping_set_l1(struct mapping *mapping, uint64_t index, uint64_t entry)
{
    atomic_store_explicit(&atomic_load(&mapping->l1)[index], entry, memory_order_release);
}

/* The place of the entry of the cluster at guest_offset in the L2 table at host offset `table`. */
struct slice_place mapping_slice_place(const struct mapping *mapping, uint64_t table,
                                       uint64_t guest_offset);

/*
 * Whether `length` bytes at `offset` are in the image file. What seems to lie
 * past its end is looked at again: with force-share, another program may be
 * writing to the image.
 */
bool mapping_in_file(struct mapping *mapping, uint64_t offset, uint64_t length);

/* cache_fill_fn of a slice. */
int mapping_fill_slice(void *context, void *data, size_t size);

/* The gate of a mapping that can be changed. */
struct gate *mapping_gate(const struct mapping *mapping);

/* `writer` may be NULL. */
void mapping_writer_free(struct mapping_writer *writer);

#endif
