/* SPDX-License-Identifier: MIT */
/* What overlay.c and overlay_kept.c share. */
#ifndef ADMIN_OVERLAY_INTERNAL_H
#define ADMIN_OVERLAY_INTERNAL_H

#include "admin/create.h"
#include "admin/overlay.h"
#include "disk/chain.h"

/* An overlay that is being opened. */
struct overlay {
    const struct overlay_options *options;
    struct image *behind; /* the image that it is for */
    struct log *log;
    struct error *error;
    struct image_request request; /* of the overlay; has its file once that is open */
    char *name;                   /* for sentences, and request.path; owned */
    bool made;                    /* just now */
};

/* Plans it, and writes it to a file that is empty; the backing file is recorded as `backing`. */
int overlay_write(const struct overlay *overlay, const char *name, const char *backing,
                  struct store *file);

/* Opens options->file, which is made first where it is not there: overlay->request.file. */
int overlay_open_kept(struct overlay *overlay);

/* Refuses a file that is an image, but not the overlay of this one; tells what has changed. */
int overlay_check_kept(const struct overlay *overlay, const struct image *opened);

#endif
