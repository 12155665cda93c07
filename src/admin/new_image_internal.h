/* SPDX-License-Identifier: MIT */
/*
 * Between new_image.c, which knows what is on the disk, new_image_places.c, which gives clusters
 * their places before there is data for them, new_image_bitmaps.c, and new_image_refcounts.c, which
 * knows which clusters of the file are taken: one module in four files.
 */
#ifndef IMAGE_NEW_IMAGE_INTERNAL_H
#define IMAGE_NEW_IMAGE_INTERNAL_H

#include "admin/new_image.h"
#include "meta/bitmap.h"

#define SUBCLUSTERS_ALL UINT64_C(0x00000000ffffffff)

struct new_image {
    const struct create_plan *plan;
    const struct header *header; /* the plan's */
    struct store *file;
    struct store *data_file;      /* NULL without one */
    bool is_raw;                  /* the data file is a raw image of the disk */
    uint64_t header_offset;       /* 0 */
    uint64_t crypt_header_offset; /* of LUKS; else 0 */

    struct cipher *cipher; /* of data clusters; NULL: it is not encrypted */
    uint8_t *encrypted;    /* what is written next */

    uint8_t *pending; /* what is to be written next, in one piece */
    uint64_t pending_offset, pending_length;
    uint8_t *zeros; /* zeros_bytes, a multiple of a cluster */
    uint64_t zeros_bytes;

    uint8_t *l1;       /* the table */
    uint8_t *l2;       /* table number l2_index */
    uint64_t l2_index; /* which is being filled */
    bool l2_used;

    bool has_places;        /* preallocated: every cluster has its place */
    bool reserves;          /* and the host's space from the beginning */
    bool fills;             /* what is not written gets zeros */
    bool clears;            /* what is not written is punched: it is a device */
    uint64_t places_offset; /* host offset of the first cluster that table number l2_index maps */
    uint8_t *written;       /* of each cluster that the table maps; NULL without places */
    bool (*stop)(void *context); /* NULL: never */
    void *stop_context;

    struct bitmap *bitmaps; /* whose bits and tables are written */
    size_t bitmap_count;

    uint64_t next;             /* the number of the first cluster of the file that is not taken */
    uint64_t tail;             /* where the next compressed data may begin; at a cluster: nowhere */
    uint64_t counts_per_block; /* of a refcount block */
    uint8_t **blocks;          /* the refcount blocks, NULL where they have been written */
    uint64_t *places;          /* their host offsets, 0 where they have none yet */
    uint64_t block_count, block_room; /* of both */
    uint64_t retired;                 /* blocks written, the first ones */
    uint64_t refcount_table_offset, refcount_table_clusters;
};

/* Writes to the file, in pieces of some size where they follow each other. */
int new_image_put(struct new_image *image, uint64_t host_offset, const void *bytes,
                  uint64_t length);
int new_image_flush(struct new_image *image);

/* Takes that many clusters, one behind the other, each counted once. 0; -ENOMEM; -EFBIG. */
int new_image_take(struct new_image *image, uint64_t clusters, uint64_t *host_offset);

/* Takes `length` bytes, fewer than a cluster has, for compressed data. */
int new_image_take_bytes(struct new_image *image, uint64_t length, uint64_t *host_offset);

/* Writes the refcount blocks whose counts are final. */
int new_image_retire(struct new_image *image);

/* Writes zeros from the end of a table of `length` bytes to that of its last cluster. */
int new_image_pad(struct new_image *image, uint64_t host_offset, uint64_t length);

/* Writes all blocks that are left, and the table. No cluster is taken behind that. */
int new_image_write_refcounts(struct new_image *image);

/* --- Places: what a preallocated image has more ------------------------------------------- */

/* What is to be done for them, from the plan. 0, or -ENOMEM. */
int new_image_prepare_places(struct new_image *image, const struct create_target *target);

/* Takes all clusters of the L2 table that begins, in one piece, and fills in their entries. */
int new_image_give_places(struct new_image *image);

/* The host offset of a cluster that the table maps. */
uint64_t new_image_place_of(const struct new_image *image, uint64_t guest_offset);

void new_image_mark_written(struct new_image *image, uint64_t guest_offset, uint64_t length);

/* To where the data is. -EINTR where a stop was asked for. */
int new_image_write_zeros(struct new_image *image, uint64_t host_offset, uint64_t length);

/* Before the next table: what of this one was not written is made what it is to be. */
int new_image_finish_places(struct new_image *image);

/* Writes the directory, and names it in what is to be the header. */
int new_image_put_bitmaps(struct new_image *image, struct header *header);

void new_image_free_bitmaps(struct new_image *image);
void new_image_free_refcounts(struct new_image *image);

#endif
