/* SPDX-License-Identifier: MIT */
/*
 * What qcow2ctl hash makes digests of: the files that a mount of the image over a directory shows
 * with all of their bytes, under their names there, and the files of the host that these are made
 * of.
 */
#ifndef CTL_HASH_FILES_H
#define CTL_HASH_FILES_H

#include "crypto/digest.h"
#include "disk/view.h"

struct hash_piece {
    char digest[DIGEST_TEXT_MAX];
};

enum hash_kind {
    HASH_DISK,
    HASH_SNAPSHOT, /* the disk of one */
    HASH_VM_STATE, /* what it has of a machine's memory */
    HASH_HOST_FILE,
};

struct hash_file {
    enum hash_kind kind;
    char *name;
    uint64_t size;          /* bytes */
    struct view *disk;      /* HASH_DISK: borrowed */
    struct image *image;    /* HASH_SNAPSHOT, HASH_VM_STATE */
    size_t snapshot;        /* then: its index */
    struct store *store;    /* HASH_HOST_FILE: borrowed */
    struct hash_file *next; /* NULL for the last */

    /* What came of it. */
    char digest[DIGEST_TEXT_MAX];
    struct hash_piece *pieces; /* as many as it has, where they were asked for */
    char *problem;             /* a sentence, or NULL where all was read */
};

/*
 * All of them, in an order that does not change: the disk, the snapshots in that of their table,
 * the host's files from the first image on. 0, or a negative errno with a sentence.
 */
int hash_files_list(struct image *image, struct view *disk, struct hash_file **files,
                    struct error *error);
void hash_files_free(struct hash_file *files);

#endif
