/* SPDX-License-Identifier: MIT */
/*
 * The label and the UUID of the file system (or swap space, or LUKS container) in a partition, as
 * blkid(8) shows them: ext2 to ext4, XFS, btrfs, F2FS, FAT, exFAT, NTFS, swap, LUKS. A few fixed
 * places are looked at, less than 256 KiB in all, whatever is there: for a daemon that must not
 * hand hostile bytes to a library that does more (filesystem.h does, for who can afford it).
 *
 * Knows nothing of images: the partition is a call that reads. Pure, no locks.
 */
#ifndef GUEST_LABEL_H
#define GUEST_LABEL_H

#include "guest/partitions.h"

#define GUEST_LABEL_MAX 264
#define GUEST_UUID_MAX  41

struct guest_label {
    char label[GUEST_LABEL_MAX]; /* any bytes; empty: none */
    char uuid[GUEST_UUID_MAX];   /* empty: none */
};

/*
 * Looks at a partition of `size` bytes; `read` takes offsets within it. 0, also where nothing is
 * recognised, or more than one thing, which is no answer; the negative errno of `read`.
 */
int guest_label_read(partition_read_fn *read, void *context, uint64_t size,
                     struct guest_label *found);

#endif
