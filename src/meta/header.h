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
    /*
     * Tables that move while others look where they are (header_overlap()): only
     * the header_move functions move them, once others know the header.
     */
    _Atomic uint64_t table_moves; /* how many have begun */
    _Atomic uint64_t l1_offset;   /* host offset, bytes */
    _Atomic uint32_t l1_entries;
    _Atomic uint64_t refcount_table_offset; /* host offset, bytes */
    _Atomic uint32_t refcount_table_clusters;
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

    uint32_t bitmap_count;                    /* 0 without the bitmaps extension */
    _Atomic uint64_t bitmap_directory_size;   /* bytes; moves, too */
    _Atomic uint64_t bitmap_directory_offset; /* host offset, bytes */

    uint64_t crypt_header_offset; /* host offset; both are 0 but with LUKS */
    uint64_t crypt_header_length; /* bytes */

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
 * supported: unknown incompatible features, a compression library
 * that is not there) with a sentence; -EIO; -ENOMEM.
 */
int header_read(struct store *file, uint64_t file_size, const char *name, struct header **header,
                struct error *error);
void header_free(struct header *header);

/* Sets the derived fields from the version, the cluster size and the incompatible features. */
void header_derive(struct header *header);

/* The parts of a header, in the order in which they are judged. */
enum header_part {
    HEADER_PART_START, /* the magic bytes and the version */
    HEADER_PART_CLUSTER_SIZE,
    HEADER_PART_LENGTH,
    HEADER_PART_FIRST_CLUSTER, /* whether it can be read */
    HEADER_PART_BACKING,       /* where the backing file name is */
    HEADER_PART_FEATURES,
    HEADER_PART_COMPRESSION,
    HEADER_PART_ENCRYPTION,
    HEADER_PART_REFCOUNTS,
    HEADER_PART_L1,
    HEADER_PART_SNAPSHOTS,
    HEADER_PART_STRINGS,      /* the extensions, and the names in them */
    HEADER_PART_BITMAPS,      /* where the bitmap directory is */
    HEADER_PART_CRYPT_HEADER, /* where the encryption header is */
    HEADER_PART_OVERLAPS,
    HEADER_PARTS, /* how many there are */
};

/*
 * A header that may be damaged, for those who describe it. Where a part has a
 * problem, its fields hold what the file holds, possible or not (but the
 * cluster size and the header length: a possible value is assumed), and what
 * depends on them was not judged.
 */
struct header_examination {
    struct header *header;
    struct error problems[HEADER_PARTS]; /* code 0: none; begin with the file's name */
    uint8_t *cluster;      /* of header->cluster_size bytes; where START failed, of none */
    size_t extensions_end; /* the area of the extensions begins behind the header; bytes */
    size_t backing_end;    /* the end of the backing file name; 0: none */
};

/*
 * The same as header_read(), by the same steps, but goes on after what is
 * wrong. 0 also for a file that is no image at all (see problems), or -ENOMEM.
 */
int header_examine(struct store *file, uint64_t file_size, const char *name,
                   struct header_examination *examination);
void header_examination_release(struct header_examination *examination);

static inline bool header_part_failed(const struct header_examination *examination,
                                      enum header_part part)
{
    return examination->problems[part].code != 0;
}

/* How many L1 entries map a disk of `size` bytes. */
uint64_t header_l1_entries_for(const struct header *header, uint64_t size);

/* The tables that the header names. */
enum header_table {
    HEADER_TABLE_NONE,
    HEADER_TABLE_HEADER, /* the first cluster itself */
    HEADER_TABLE_L1,
    HEADER_TABLE_REFCOUNT,
    HEADER_TABLE_BITMAPS,
    HEADER_TABLE_CRYPT,
};

/*
 * The name of a table, other than `except`, with which the range [offset,
 * offset + length) of the file overlaps; NULL when there is none.
 */
const char *header_overlap(const struct header *header, enum header_table except, uint64_t offset,
                           uint64_t length);

/*
 * A table has another place: `offset` is its host offset. One thread at a time may move the same
 * table; others may ask header_overlap() meanwhile, which then goes by the old place, or by the
 * new one, or by the beginning of either as far as both are long.
 */
void header_move_l1(struct header *header, uint64_t offset, uint32_t entries);
void header_move_refcount_table(struct header *header, uint64_t offset, uint32_t clusters);
void header_move_bitmaps(struct header *header, uint64_t offset, uint64_t bytes, uint32_t count);

/* log2 of the bytes that one L1 entry maps. */
static inline uint32_t header_l1_entry_bits(const struct header *header)
{
    return header->l2_bits + header->cluster_bits;
}

#endif
