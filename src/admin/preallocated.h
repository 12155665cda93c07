/* SPDX-License-Identifier: MIT */
/* Whether an image's clusters were given their places before there was data for them. */
#ifndef IMAGE_PREALLOCATED_H
#define IMAGE_PREALLOCATED_H

#include "disk/image.h"

#include <stdbool.h>

/*
 * Whether the image file has clearly fewer bytes on the host than its refcounts
 * say are in use, as after `preallocation=metadata`. The bounds are QEMU's
 * (a tenth, at least two clusters): qemu-img asks the host for holes below
 * data clusters in such an image only. False, too, where that cannot be told.
 * Reads the refcounts of the whole file.
 */
bool image_is_preallocated(const struct image *image);

#endif
