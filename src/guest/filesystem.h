/* SPDX-License-Identifier: MIT */
/*
 * What a range of a disk holds: a file system, or something that is none (LVM,
 * RAID, LUKS, swap), as libblkid recognises it. Needs that library; without it
 * filesystem_available() is false and nothing is recognised.
 */
#ifndef GUEST_FILESYSTEM_H
#define GUEST_FILESYSTEM_H

#include <stdbool.h>
#include <stdint.h>

#define FILESYSTEM_TYPE_MAX  32
#define FILESYSTEM_LABEL_MAX 264
#define FILESYSTEM_UUID_MAX  64

enum filesystem_usage {
    FILESYSTEM_NONE,  /* nothing was recognised */
    FILESYSTEM_MOUNT, /* can be mounted */
    FILESYSTEM_SWAP,
    FILESYSTEM_RAID, /* a member of an array or of a volume group: LVM2_member, linux_raid_member */
    FILESYSTEM_CRYPTO,    /* crypto_LUKS, BitLocker */
    FILESYSTEM_AMBIGUOUS, /* more than one, and no way to tell which counts */
};

struct filesystem_found {
    enum filesystem_usage usage;
    char type[FILESYSTEM_TYPE_MAX];   /* as mount(8) calls it: "ext4", "vfat"; or blkid's name */
    char label[FILESYSTEM_LABEL_MAX]; /* empty: none; control characters as '?' */
    char uuid[FILESYSTEM_UUID_MAX];   /* as blkid writes it */
};

/* Whether this build has libblkid. */
bool filesystem_available(void);

/*
 * Looks at [offset, offset + size) of the open file or device. 0, also where
 * nothing was recognised; -ENOTSUP without the library; a negative errno.
 */
int filesystem_recognise(int descriptor, uint64_t offset, uint64_t size,
                         struct filesystem_found *found);

#endif
