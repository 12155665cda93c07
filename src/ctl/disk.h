/* SPDX-License-Identifier: MIT */
/* A disk that a command only reads: of a qcow2 image or a raw file, as it is or as of a snapshot.
 */
#ifndef CTL_DISK_H
#define CTL_DISK_H

#include "ctl/command.h"
#include "disk/image.h"
#include "disk/view.h"
#include "disk/walk.h"

/* The choices of an option that names a format, in the order of enum image_format. */
#define CTL_DISK_FORMATS "qcow2 raw"

struct ctl_disk_request {
    const char *path;
    struct option_number format; /* not set: what it looks like */
    const char *snapshot;        /* NAME or ID, or NULL */
};

struct ctl_disk {
    struct image *image;
    struct view *view;
};

/*
 * Opens it, with what is behind it. 0, or a negative errno with a sentence in ctl->error; of the
 * disk nothing is open then, and ctl_disk_close() does nothing.
 */
int ctl_disk_open(struct ctl *ctl, const struct ctl_disk_request *request,
                  const struct common_flags *flags, struct ctl_disk *disk);
/*
 * Another state of an image that is open, which the caller closes: of it view_close() alone what is
 * in *disk afterwards. As ctl_disk_open().
 */
int ctl_disk_open_state(struct ctl *ctl, struct image *image, const char *snapshot,
                        struct ctl_disk *disk);

void ctl_disk_close(struct ctl_disk *disk);

/* The name of its format: "qcow2", "raw". */
const char *ctl_disk_format(const struct ctl_disk *disk);

#endif
