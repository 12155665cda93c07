/* SPDX-License-Identifier: MIT */
/*
 * New images. All of one is planned, and refused if it is impossible, before a
 * byte is written; then written in an order in which no crash leaves anything
 * that looks like an image and is none:
 *
 *     space for the data, L2 tables, L1 table, refcount blocks, refcount table
 *     sync
 *     header
 *     sync
 *
 * Where each part comes, in clusters; L2 tables and data only where the disk is
 * preallocated (with an external data file the data is there):
 *
 *     | header | refcount table | refcount blocks | L1 table | encryption header |
 *     | L2 tables | data ... |
 *
 * Pure planning and stores: what names and files are about is the caller's
 * (image/create_behind.h, store/new_file.h).
 */
#ifndef IMAGE_CREATE_H
#define IMAGE_CREATE_H

#include "crypto/cipher.h"
#include "meta/header.h"
#include "meta/luks_write.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As qemu-img -o preallocation= has them. */
enum preallocation {
    PREALLOCATION_OFF,
    PREALLOCATION_METADATA, /* every cluster has its place, of which the host has none yet */
    PREALLOCATION_FALLOC,   /* and the host's space is reserved */
    PREALLOCATION_FULL,     /* and written, as zeros */
};

#define CREATE_CLUSTER_SIZE_DEFAULT  65536
#define CREATE_REFCOUNT_BITS_DEFAULT 16

/* Strings are borrowed, NULL where there is none. */
struct create_parameters {
    uint64_t size;    /* of the disk, bytes; rounded up to a whole sector */
    bool exact_size;  /* not rounded, which QEMU would not see the end of */
    uint32_t version; /* 2 (compat=0.10) or 3 (compat=1.1) */
    uint64_t cluster_size;
    uint64_t refcount_bits;
    bool lazy_refcounts;
    bool extended_l2;
    uint8_t compression_type; /* of codec/codec.h */
    enum preallocation preallocation;
    const char *backing_file, *backing_format; /* as they are recorded */
    const char *data_file;
    bool data_file_raw;
    uint32_t crypt_method; /* CRYPT_NONE, CRYPT_AES or CRYPT_LUKS of meta/format.h */
    struct luks_wish luks;
};

/* What will be written. */
struct create_plan {
    struct header header; /* owns its strings */
    enum preallocation preallocation;
    uint64_t refcount_blocks; /* clusters */
    uint64_t l1_clusters, l2_tables, data_clusters;
    uint64_t l2_offset, data_offset; /* host offsets, bytes */
    uint64_t file_size;              /* bytes, whole clusters */
    uint8_t *first_cluster;          /* the bytes of the header; owned */
    size_t first_length;
};

/*
 * Plans an image. `name` is the file name that sentences begin with. -EINVAL,
 * -EFBIG and the like with a sentence that names the option, its value, and a
 * remedy; -ENOMEM. create_plan_release() what was planned, and what is all zeros.
 */
int create_plan_make(const struct create_parameters *parameters, const char *name,
                     struct create_plan *plan, struct error *error);
void create_plan_release(struct create_plan *plan);

struct create_target {
    const char *name;
    struct store *file;
    /*
     * The external data file, which is as long as the disk already if it is a
     * block device; NULL without one.
     */
    struct store *data_file;
    const char *data_name;
    bool keep_data; /* what the data file holds is what the disk shall show */
    bool is_device; /* `file` has its size, and holds the bytes of something else */
    bool data_is_device;
    const uint8_t *crypt_header; /* with LUKS: of header.crypt_header_length bytes (luks_make()) */
    struct cipher *cipher;       /* of new_image_begin(): of an encrypted disk; else NULL */
    /* Called from time to time with bytes; may be NULL. */
    void (*progress)(void *context, uint64_t done, uint64_t total);
    /* Asked from time to time; true ends the work with -EINTR. May be NULL. */
    bool (*stop)(void *context);
    void *context; /* of both */
};

/*
 * Writes it; the file is empty, or is_device. Stable when it returns 0. A
 * negative errno, with a sentence but for -EINTR: the file is no image then,
 * and for the caller to remove.
 */
int create_write(const struct create_plan *plan, const struct create_target *target,
                 struct error *error);

#endif
