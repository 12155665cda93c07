/* SPDX-License-Identifier: MIT */
/*
 * Mounts the file system in a place of a raw disk: by the kernel, on a loop device that
 * goes with the mount, where this process may have one; otherwise by a FUSE
 * program for that file system.
 */
#ifndef CTL_MOUNT_FILESYSTEM_H
#define CTL_MOUNT_FILESYSTEM_H

#include "ctl/contents.h"
#include "ctl/raw_disk.h"

struct filesystem_mount {
    struct raw_disk *disk;
    const struct contents_place *place;
    const char *image;     /* for sentences, and as what is mounted */
    const char *directory; /* where to */
    const char *options;   /* of the file system, comma-separated; NULL: none */
    const char *type;      /* in place of the one that was recognised, or NULL */
    bool read_only;        /* and no journal is replayed */
};

/* 0, or a negative errno with a sentence; nothing is mounted then. */
int mount_filesystem(const struct filesystem_mount *wanted, struct log *log, struct error *error);

#endif
