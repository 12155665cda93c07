/* SPDX-License-Identifier: MIT */
/*
 * What the files of an image hold beside its disks, as files of their own: made of pieces of the
 * image (admin/pieces.h), of which nothing is copied. For who examines an image that is open to be
 * read: gathered once, then read by any number of threads.
 *
 * Memory while it is gathered: that of admin/uses.h. Kept are the lists of pieces, 5 MiB each at
 * most.
 */
#ifndef ADMIN_EVIDENCE_H
#define ADMIN_EVIDENCE_H

#include "disk/image.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum evidence_file {
    EVIDENCE_UNREFERENCED, /* clusters that no table refers to */
    EVIDENCE_HIDDEN,       /* (sub)clusters that an entry keeps, and shows as zeros */
    EVIDENCE_SLACK,        /* see admin/slack.h */
    EVIDENCE_PAST_DISK, /* of data files and raw images: what lies behind the end of their disk */
    /* Clusters of tables, whole. */
    EVIDENCE_BITMAPS, /* directory, tables and bits */
    EVIDENCE_ENCRYPTION_HEADER,
    EVIDENCE_HEADER,
    EVIDENCE_L1, /* also of snapshots */
    EVIDENCE_L2, /* likewise */
    EVIDENCE_REFCOUNT_BLOCKS,
    EVIDENCE_REFCOUNT_TABLE,
    EVIDENCE_SNAPSHOT_TABLE,
    EVIDENCE_FILES,
};

#define EVIDENCE_TABLES_BEGIN EVIDENCE_BITMAPS

struct evidence;

/* The callback, which may be NULL, runs in the calling thread. */
struct evidence_options {
    void (*progress)(void *context, uint64_t done, uint64_t total); /* L1 entries */
    void *context;
};

/*
 * Gathers all of a qcow2 image, which is borrowed, with its chain. 0, or a negative errno with a
 * sentence: where the references in it cannot be counted nobody can say what has none.
 */
int evidence_gather(const struct image *image, const struct evidence_options *options,
                    struct evidence **evidence, struct error *error);
/* `evidence` may be NULL. */
void evidence_free(struct evidence *evidence);

/* Its name, without ".raw" and ".json": "unreferenced", "l1". */
const char *evidence_name(enum evidence_file file);

/* Bytes. */
uint64_t evidence_size(const struct evidence *evidence, enum evidence_file file);

/* Bytes of pieces that were too many. */
uint64_t evidence_left_out(const struct evidence *evidence, enum evidence_file file);

/* As pieces_read() and pieces_seek(). */
int evidence_read(const struct evidence *evidence, enum evidence_file file, uint64_t offset,
                  void *buffer, size_t length);
uint64_t evidence_seek(const struct evidence *evidence, enum evidence_file file, uint64_t offset,
                       uint64_t end, bool want_data);

/* Where its pieces are, as JSON for the caller to free; NULL when memory ran out. */
char *evidence_json(const struct evidence *evidence, enum evidence_file file);

/* How long that is; 0 in a build without JSON. */
size_t evidence_json_length(const struct evidence *evidence, enum evidence_file file);

#endif
