/* SPDX-License-Identifier: MIT */
/*
 * The header and its extensions ("Header", "Header extensions"), parsed and
 * validated: what is in `struct header` can be believed, as far as one can
 * tell without looking at other tables.
 */
#ifndef META_HEADER_H
#define META_HEADER_H

#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct header {
    uint32_t version; /* 2 or 3 */
    uint32_t cluster_bits;
    uint64_t cluster_size; /* bytes */
    uint64_t virtual_size; /* bytes */
    uint32_t crypt_method;
    uint64_t l1_offset; /* host offset, bytes */
    uint32_t l1_entries;
    uint64_t refcount_table_offset; /* host offset, bytes */
    uint32_t refcount_table_clusters;
    uint32_t snapshot_count;
    uint64_t snapshots_offset; /* host offset, bytes */
    uint64_t incompatible_features;
    uint64_t compatible_features;
    uint64_t autoclear_features;
    uint32_t refcount_order; /* refcount_bits = 1 << refcount_order */
    uint32_t header_length;  /* bytes */
    uint8_t compression_type;

    char *backing_file;   /* NULL without one */
    char *backing_format; /* NULL where none is recorded */
    char *data_file;      /* the recorded name, NULL where none is */

    uint32_t bitmap_count;            /* 0 without the bitmaps extension */
    uint64_t bitmap_directory_size;   /* bytes */
    uint64_t bitmap_directory_offset; /* host offset, bytes */

    uint64_t unknown_extensions; /* how many */

    /* Derived. */
    bool extended_l2;
    bool external_data_file;
    uint32_t l2_entry_bytes;  /* 8, or 16 with extended L2 entries */
    uint32_t l2_bits;         /* log2 of the entries of an L2 table */
    uint32_t subcluster_bits; /* log2 of the subcluster size in bytes */
    uint32_t subclusters;     /* in a cluster: 32 or 1 */
};

/* QEMU's limits. */
#define HEADER_L1_SIZE_MAX             (UINT64_C(32) << 20) /* bytes */
#define HEADER_REFCOUNT_TABLE_SIZE_MAX (UINT64_C(8) << 20)  /* bytes */

/*
 * Reads and validates. `name` is the file name that sentences begin with;
 * `file_size` is in bytes. -EINVAL (or -ENOTSUP for what is valid but not
 * supported: unknown incompatible features, encryption, a compression library
 * that is not there) with a sentence; -EIO; -ENOMEM.
 */
int header_read(struct store *file, uint64_t file_size, const char *name, struct header **header,
                struct error *error);
void header_free(struct header *header);

/* How many L1 entries map a disk of `size` bytes. */
uint64_t header_l1_entries_for(const struct header *header, uint64_t size);

/* The tables that the header names. */
enum header_table {
    HEADER_TABLE_NONE,
    HEADER_TABLE_HEADER, /* the first cluster itself */
    HEADER_TABLE_L1,
    HEADER_TABLE_REFCOUNT,
    HEADER_TABLE_BITMAPS,
};

/*
 * The name of a table, other than `except`, with which the range [offset,
 * offset + length) of the file overlaps; NULL when there is none.
 */
const char *header_overlap(const struct header *header, enum header_table except, uint64_t offset,
                           uint64_t length);

/* log2 of the bytes that one L1 entry maps. */
static inline uint32_t header_l1_entry_bits(const struct header *header)
{
    return header->l2_bits + header->cluster_bits;
}

#endif
