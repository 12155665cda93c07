/* SPDX-License-Identifier: MIT */
/* From an image to the file system in it, at a directory: what qcow2ctl mount and mount.qcow2 do.
 */
#ifndef CTL_MOUNT_IMAGE_H
#define CTL_MOUNT_IMAGE_H

#include "ctl/raw_disk.h"

struct mount_request {
    struct raw_disk_settings disk;
    const char *directory;
    const char *partition;  /* as contents_choose() takes it; NULL: the only file system there is */
    const char *fs_options; /* comma-separated; NULL: none */
    const char *fs_type;    /* in place of the one that is recognised, or NULL */
    bool lists;             /* on stderr what there is, where it cannot be told which is meant */
};

/* What came to be mounted. */
struct mount_outcome {
    unsigned partition; /* its number; 0: the whole disk */
    char type[64];      /* of its file system */
};

/*
 * 0, or a negative errno with a sentence: then nothing is mounted, and the image is free again.
 * `outcome` may be NULL.
 */
int mount_image(const struct mount_request *request, struct mount_outcome *outcome, struct log *log,
                struct error *error);

#endif
