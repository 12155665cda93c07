/* SPDX-License-Identifier: MIT */
/* How the commands open images: locked, checked, and with a cache of the default size. */
#ifndef CTL_OPEN_H
#define CTL_OPEN_H

#include "ctl/command.h"
#include "disk/image.h"
#include "disk/writer.h"
#include "store/file.h"

/*
 * Opens the image and its chain, to be read through views. 0, or a negative
 * errno with a sentence in ctl->error. image_close() it.
 */
int ctl_open(struct ctl *ctl, const char *path, const struct common_flags *flags,
             enum store_access access, struct image **image);

/* The same for who reads its tables alone, whatever is behind it, and whoever writes to that. */
int ctl_open_tables(struct ctl *ctl, const char *path, const struct common_flags *flags,
                    struct image **image);

/*
 * The same of either format; a raw one is only read. What is encrypted is opened with its key here,
 * and without it, so that its data cannot be read, there.
 */
int ctl_open_format(struct ctl *ctl, const char *path, const struct common_flags *flags,
                    enum image_format format, enum store_access access, struct image **image);

/*
 * The keys that the user gave, read when they are first asked for: a borrowed pointer. NULL, with a
 * sentence in ctl->error.
 */
struct keys *ctl_keys(struct ctl *ctl, const struct common_flags *flags);

/* What --trust-names, --follow and --locking say. */
struct image_names ctl_names(const struct common_flags *flags);
bool ctl_no_locks(const struct common_flags *flags);

/*
 * Opens the image to be changed; one that is marked dirty is repaired first. One that is encrypted
 * is opened with its key only where a key file was given: most changes need none.
 * 0, or a negative errno with a sentence. To be closed with ctl_close_writer().
 */
int ctl_open_writer(struct ctl *ctl, const char *path, const struct common_flags *flags,
                    struct image **image, struct writer **writer);

/* The same, for who changes nothing that the disk shows: its bitmaps stay true. */
int ctl_open_tables_writer(struct ctl *ctl, const char *path, const struct common_flags *flags,
                           struct image **image, struct writer **writer);

/* Flushes and closes both; `r` is what went wrong before, or 0. 0, or a negative errno with a
 * sentence. */
int ctl_close_writer(struct ctl *ctl, struct image *image, struct writer *writer, int r);

#endif
