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

/* The same for what that process sees, which may have a mount namespace of its own. */
int mounts_visit_of(pid_t pid, int (*each)(void *context, const struct mount_entry *entry),
                    void *context);

/* The device from which it is mounted: btrfs and the like have others for their files. */
dev_t mounts_source_device(const struct mount_entry *entry);

/* The device of what is mounted last at exactly that absolute path; 0: nothing is, or it cannot be
 * told. */
dev_t mounts_device_at(const char *path);

/*
 * A mount that was seen, to be known again wherever it is by now: who owns a directory above a
 * mount point may rename that. The numbers are the next one's as soon as this one is gone, so what
 * it is mounted from is compared, too.
 */
struct mount_known {
    char *path; /* where it was seen, absolute */
    dev_t device;
    unsigned id;  /* 0: it was not seen there: then only the path and the device tell */
    char *source; /* or NULL */
};

/* What is mounted last at `path`, if it has that device. 0 or -ENOMEM; mounts_forget() it. */
int mounts_know(const char *path, dev_t device, struct mount_known *known);
void mounts_forget(struct mount_known *known);

/* Where it is now, to be freed, and its id. 0, or a negative errno: -ENXIO where it is nowhere. */
int mounts_find(const struct mount_known *known, char **path, unsigned *id);

/*
 * As umount2(2), of the mount with that `id` alone; 0: of whatever is there. 0 or a negative errno;
 * -ESTALE: it is another one that is seen there.
 */
int mounts_unmount_exactly(const char *path, unsigned id, int flags);

/* Lazily, as below, and of that mount alone. */
int mounts_detach_exactly(const char *path, unsigned id);

/*
 * Unmounts what is mounted last at `path`, lazily: it may be in use, by a shell that stands in it,
 * say. An ordinary user's by fusermount3. 0 or a negative errno.
 */
int mounts_detach(const char *path);

#endif
