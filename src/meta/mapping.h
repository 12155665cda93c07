/* SPDX-License-Identifier: MIT */
/*
 * From guest offsets to host offsets: one L1 table with the L2 tables below it
 * ("Cluster mapping", "Extended L2 Entries"). The unit is the subcluster: 32
 * in a cluster with extended L2 entries, 1 without. There is no other walk of
 * L1 and L2 anywhere.
 *
 * A mapping owns its copy of the L1 table, or has it in the shared cache, in
 * pieces; L2 slices come from there, too, pinned only while they are being
 * decoded. Any thread may look up.
 */
#ifndef META_MAPPING_H
#define META_MAPPING_H

#include "cache/pool.h"
#include "meta/header.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum extent_kind {
    EXTENT_UNALLOCATED, /* ask the backing image, zeros past its end */
    EXTENT_ZERO,        /* reads as zeros, whatever is below */
    EXTENT_DATA,        /* plain bytes at host_offset of `store` */
    EXTENT_COMPRESSED,  /* one compressed cluster */
};

struct extent {
    enum extent_kind kind;
    uint64_t length;     /* bytes, from the guest offset that was asked for */
    struct store *store; /* DATA, COMPRESSED: where the bytes are */
    /*
     * DATA, of a mapping that can be changed or of an exact lookup: nothing else
     * refers to these clusters, they can be written in place. False for others.
     */
    bool exclusive;
    /*
     * ZERO and UNALLOCATED, of an exact lookup: a host cluster is kept at
     * host_offset, though its bytes are not what is read.
     */
    bool preallocated;
    uint64_t host_offset;       /* DATA: of the first byte asked for; COMPRESSED: of the data */
    uint64_t compressed_size;   /* COMPRESSED: bytes that hold the data, to the end of a sector */
    uint64_t offset_in_cluster; /* COMPRESSED: of the guest offset in the decompressed cluster */
};

/* Where a lookup met something impossible, for the log. */
struct mapping_fault {
    uint64_t guest_offset; /* first byte that cannot be read */
    uint64_t host_offset;  /* of the table entry, or of what could not be read */
    char text[160];        /* what is wrong, with the value */
    bool impossible;       /* the image is damaged, rather than the host unable to read it */
};

struct mapping;

/* Where a mapping's tables and data are. All is borrowed and outlives the mapping. */
struct mapping_source {
    const struct header *header;
    struct store *file;
    struct store *data_file; /* `file` unless there is an external one */
    struct cache_pool *l2;   /* may be set later by mapping_set_cache() */
    uint64_t l2_entry_size;  /* of a cached slice, bytes; cut to the cluster size */
    uint64_t owner;          /* in cache keys */
    /*
     * The L1 table, too, is read in pieces through `l2`: of a snapshot, of which there may be
     * 65536 with 32 MiB each, or of one of many images of a chain. It is not changed.
     */
    bool cached_l1;
    /*
     * A table that does not wholly lie in the file is opened: what the missing entries map cannot
     * be read. Of an image that is only read.
     */
    bool partial_l1;
};

/*
 * Reads the L1 table of `entries` entries at host offset `l1_offset`. Its range
 * must have been validated against the limits of the format; it is checked
 * against the size of the file here. Fills `error` (prefixed with `name`, a
 * file name) on failure: -EINVAL, -EIO, -ENOMEM.
 */
int mapping_open(const struct mapping_source *source, const char *name, uint64_t l1_offset,
                 uint64_t entries, struct mapping **mapping, struct error *error);
void mapping_close(struct mapping *mapping);

/*
 * Told of an L2 slice that has just come from the file, by the thread that wanted it: `size` bytes
 * of entries as they are on the disk. No lock is held but what the caller of the lookup has.
 */
typedef void mapping_look_fn(void *context, const void *entries, size_t size);

/* Has all slices looked at that are read from here on; nobody may be looking up. */
void mapping_set_look(struct mapping *mapping, mapping_look_fn *look, void *context);
/* As `other`, which outlives it, has its own looked at. */
void mapping_share_look(struct mapping *mapping, const struct mapping *other);

/* Lookups are possible from here on. */
void mapping_set_cache(struct mapping *mapping, struct cache_pool *l2, uint64_t l2_entry_size);

/*
 * The longest extent of one kind, contiguous on the host where it is DATA,
 * that starts at guest_offset, at most `length` bytes (> 0). Past the last L1
 * entry all is UNALLOCATED. Returns 0, or a negative errno with `fault` filled
 * when the very first (sub)cluster is impossible or its table cannot be read;
 * an impossible entry further on ends the extent before it.
 */
int mapping_lookup(struct mapping *mapping, uint64_t guest_offset, uint64_t length,
                   struct extent *extent, struct mapping_fault *fault);

/*
 * The same, but also tells apart what reads alike: `exclusive` and
 * `preallocated` are set, and an extent ends where they change or, where a host
 * cluster is kept, where the host offset does not go on.
 */
int mapping_lookup_exact(struct mapping *mapping, uint64_t guest_offset, uint64_t length,
                         struct extent *extent, struct mapping_fault *fault);

/*
 * How many L2 tables the L1 table names; and the host offset of that one, 0 where there is none.
 * Of a table that is in memory.
 */
uint64_t mapping_tables(const struct mapping *mapping);
uint64_t mapping_table(const struct mapping *mapping, uint64_t l1_index);

/* How many L1 entries name an L2 table that is not inside the file: of a truncated file. */
uint64_t mapping_tables_outside(const struct mapping *mapping, uint64_t file_size);

/* Bytes of memory that the L1 table takes. */
uint64_t mapping_l1_memory(const struct mapping *mapping);

/* How many L1 entries are themselves not inside the file; see partial_l1. */
uint64_t mapping_l1_missing(const struct mapping *mapping);

/*
 * For how many bytes from guest_offset on two states of one image have the same L2 table, or none;
 * 0 where they do not, or that cannot be told.
 */
uint64_t mapping_same_table(struct mapping *a, struct mapping *b, uint64_t guest_offset);

#endif
