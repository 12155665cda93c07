/* SPDX-License-Identifier: MIT */
/*
 * An overlay: an image is opened to be read, exactly as for a read-only mount, and another one is
 * put before it that takes all that is written.
 *
 *     thrown away   its file has no name (store/scratch.h), is synced never, and ends with the
 * process kept          a qcow2 image of its own, made where there is none, with the image recorded
 * as its backing file; gone on with later, if it is still the one of that image
 *
 * What comes of it is the active image of a chain like any other (disk/image.h), is_overlay.
 * Takes no locks but those of the files.
 */
#ifndef ADMIN_OVERLAY_H
#define ADMIN_OVERLAY_H

#include "disk/image.h"
#include "disk/writer.h"
#include "util/error.h"
#include "util/log.h"

#include <stdbool.h>
#include <stdint.h>

#define OVERLAY_MAX_MIN (UINT64_C(1) << 20) /* bytes: room for its tables, and for something */

struct overlay_options {
    /* Of the image that the overlay is for; `access` is to read, or to read shared. */
    const struct image_options *image;
    const char *file; /* where it is kept; NULL: it is thrown away */
    const char
        *directory; /* that a file which is thrown away is made in; NULL: overlay_directory() */
    uint64_t max;   /* bytes that its file may have; 0: no bound */
    bool read_only; /* one that is kept is only read, and not made */
};

/* $TMPDIR; without one, or one that is not absolute, /var/tmp. */
const char *overlay_directory(void);

/*
 * Opens the image at `path` with its overlay before it. Negative errnos with a sentence: those of
 * image_open(); of a file that is kept -EINVAL where it is not the overlay of this image, and those
 * of making it, which leaves nothing then; -ENOSPC and the like where there is no room for it.
 */
int overlay_open(const char *path, const struct overlay_options *options, struct log *log,
                 struct image **image, struct error *error);

/* To be called where nothing has been, or will be, written: an overlay that was made goes again. */
void overlay_unmake(struct image *image);

/* What a writer need not do for one that is thrown away: nobody ever opens its file. */
void overlay_writer_options(const struct image *image, struct writer_options *writer);

#endif
