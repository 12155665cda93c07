/* SPDX-License-Identifier: MIT */
/*
 * What stands on the raw disk through the kernel: loop devices, their partitions, what the device
 * mapper and the like have made of these, and the file systems that are mounted from any of them.
 * What these hold is not on the disk yet, and nothing that is asked of the disk itself makes them
 * write it. The steward does it (fuse/steward.h).
 *
 * Not known here: FUSE programs that have the disk open, and images that lie in such a file system.
 */
#ifndef FUSE_ABOVE_DISK_H
#define FUSE_ABOVE_DISK_H

#include "fuse/own_disk.h"

/*
 * Has all of them write what they hold to the disk, while its requests are answered. 0 also where
 * nothing stands on it; the negative errno of the first that could not, after all have been asked:
 * -EACCES of one that may hold something, and that may not be asked.
 */
int above_disk_sync(const struct own_disk *disk);

#endif
