/* SPDX-License-Identifier: MIT */
/*
 * From an image to the one behind it: which file that is, which format it has,
 * and whether it may be opened at all. Used by image_open() alone.
 */
#ifndef IMAGE_CHAIN_H
#define IMAGE_CHAIN_H

#include "image/image.h"

/*
 * Opens one image without what is behind it. `probed` says that its format was
 * guessed, not recorded: unless options->allow_probed, it may then name no
 * further file. `what` is its part in sentences ("image", "backing file").
 */
struct image_request {
    const char *path;
    const char *what;
    enum image_format format;
    bool probed;
    uint64_t number;
    enum store_access access;
    struct store *file; /* already open: belongs to the image from then on, or is closed */
};

int image_open_one(const struct image_request *request, const struct image_options *options,
                   struct log *log, struct image **image, struct error *error);

/*
 * Opens all that is behind `image`, one after the other. On failure what was
 * opened stays linked to `image`, to be closed with it.
 */
int chain_open_backing(struct image *image, const struct image_options *options, struct log *log,
                       struct error *error);

#endif
