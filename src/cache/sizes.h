/* SPDX-License-Identifier: MIT */
/*
 * From the options that the user gave, and the images of the chain, to the
 * budgets of the pools. The rules are those of QEMU's qcow2 cache documentation,
 * the defaults larger where there is memory:
 *
 *     disk = l2_cache_size * cluster_size / 8      (16 with extended L2 entries)
 *     disk = refcount_cache_size * cluster_size * 8 / refcount_bits
 */
#ifndef CACHE_SIZES_H
#define CACHE_SIZES_H

#include "util/error.h"
#include "util/options.h"

#include <stddef.h>
#include <stdint.h>

#define CACHE_L2_ENTRY_DEFAULT      UINT64_C(4096)
#define CACHE_L2_ENTRY_LARGE        UINT64_C(65536) /* where many entries map all of the disk */
#define CACHE_L2_ENTRY_MIN          UINT64_C(512)
#define CACHE_L2_MIN_ENTRIES        2
#define CACHE_REFCOUNT_MIN_CLUSTERS 4
#define CACHE_CLEAN_DEFAULT         600 /* seconds */

/* Of these, at the most, is taken unasked: a part of the memory, within bounds. */
#define CACHE_L2_DEFAULT_MIN    (UINT64_C(32) << 20)
#define CACHE_L2_DEFAULT_MAX    (UINT64_C(256) << 20)
#define CACHE_L2_MEMORY_SHARE   128
#define CACHE_DATA_DEFAULT_MIN  (UINT64_C(32) << 20)
#define CACHE_DATA_DEFAULT_MAX  (UINT64_C(1) << 30)
#define CACHE_DATA_MEMORY_SHARE 32

/* As the user gave them; bytes, and seconds for clean_interval. */
struct cache_options {
    struct option_number l2_size;
    struct option_number l2_entry_size;
    struct option_number refcount_size;
    struct option_number size; /* both of the above together */
    struct option_number data_size;
    struct option_number clean_interval;
};

/* What the arithmetic needs to know of one qcow2 image of the chain. */
struct cache_geometry {
    uint64_t virtual_size;   /* bytes */
    uint64_t file_size;      /* bytes of the image file, for the refcounts it can use */
    uint64_t cluster_size;   /* bytes */
    uint32_t l2_entry_bytes; /* 8, or 16 with extended L2 entries */
    uint32_t refcount_bits;
    uint64_t preferred; /* bytes, as in struct store_info: of which size entries do best; or 0 */
};

struct cache_sizes {
    uint64_t l2_budget;       /* bytes, for the whole chain */
    uint64_t l2_dirty_max;    /* bytes of dirty slices: with more, who has written flushes */
    uint64_t l2_entry_size;   /* bytes; an image of smaller clusters uses its cluster size */
    uint64_t refcount_budget; /* bytes */
    uint64_t data_budget;     /* bytes */
    unsigned clean_interval;  /* seconds, 0 = never */
};

/*
 * images[0] is the active image, `count` > 0. Budgets are sums over the chain
 * where they come from defaults or limits of use, and never more than the
 * images can use; at most two of size, l2_size and refcount_size; an entry
 * size is a power of two from 512 to the cluster size of images[0]. Returns 0,
 * or -EINVAL with the option named in the sentence.
 */
int cache_sizes_resolve(const struct cache_options *options, const struct cache_geometry *images,
                        size_t count, struct cache_sizes *sizes, struct error *error);

/* What l2_budget, and data_budget, are at most by default where there is so much memory; bytes. */
uint64_t cache_l2_default(uint64_t memory);
uint64_t cache_data_default(uint64_t memory);

/* Bytes of L2 tables that map the whole disk: what "covered" needs. */
uint64_t cache_l2_full_size(const struct cache_geometry *image);

/* Bytes of refcount blocks that count the whole image file. */
uint64_t cache_refcount_full_size(const struct cache_geometry *image);

#endif
