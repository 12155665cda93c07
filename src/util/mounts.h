/* SPDX-License-Identifier: MIT */
/* What is mounted in this process's mount namespace, from /proc/self/mountinfo (proc(5)). */
#ifndef UTIL_MOUNTS_H
#define UTIL_MOUNTS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct mount_entry {
    unsigned id;      /* of the mount, in this namespace */
    dev_t device;     /* st_dev of its files */
    const char *path; /* where it is mounted */
    const char *type; /* "fuse.qcow2fs" */
    const char *source;
    bool read_only; /* the mount, or its file system */
    int64_t user;   /* who made it, of FUSE (user_id=); -1: it does not say */
};

/*
 * Calls `each` for each mount, in the order of mounting; what `entry` points to
 * is gone afterwards. Ends early with what is not 0; a negative errno.
 */
int mounts_visit(int (*each)(void *context, const struct mount_entry *entry), void *context);

/* The device from which it is mounted: btrfs and the like have others for their files. */
dev_t mounts_source_device(const struct mount_entry *entry);

/* The device of what is mounted last at exactly that absolute path; 0: nothing is, or it cannot be
 * told. */
dev_t mounts_device_at(const char *path);

/*
 * Unmounts what is mounted last at `path`, lazily: it may be in use, by a shell that stands in it,
 * say. An ordinary user's by fusermount3. 0 or a negative errno.
 */
int mounts_detach(const char *path);

#endif
