/* SPDX-License-Identifier: MIT */
/*
 * What is asked of the raw disk under our own mount, through the kernel, as any other program
 * would: by the steward (fuse/steward.h), since the process that answers has nothing left to open
 * it with. The disk is never held open for longer than that takes: the mount would be busy.
 */
#ifndef FUSE_OWN_DISK_H
#define FUSE_OWN_DISK_H

#include "util/mounts.h"

#include <sys/types.h>
#include <time.h>

/*
 * Where it is, and what it is: what is found at the path is held for ours only if it has this
 * device and that inode, and is not even opened otherwise: whoever may rename directories above the
 * mount point leads the path elsewhere. A device of 0: unknown, nothing is ours.
 */
struct own_disk {
    const char *path; /* absolute and without symbolic links, as it was when that was mounted: */
    struct mount_known mount;
    dev_t device;
    ino_t inode;
};

/* Where it is now, to be freed; NULL: where it was, or nowhere. */
char *own_disk_moved_path(const struct own_disk *disk);

/* Each returns 0, or a negative errno: -ENXIO where something else is at the path. */

/* The kernel hands over what it has cached (fsync). */
int own_disk_sync(const struct own_disk *disk);

/* The kernel takes the disk's size from us again (truncate). */
int own_disk_restore_size(const struct own_disk *disk);

int own_disk_set_times(const struct own_disk *disk, const struct timespec times[2]);

#endif
