/* SPDX-License-Identifier: MIT */
/*
 * What there is to know of an image, as JSON with the keys of `qemu-img info
 * --output=json`, the images behind it under "backing-chain". Needs the JSON
 * library that configure found.
 */
#ifndef IMAGE_INFO_H
#define IMAGE_INFO_H

#include "image/image.h"

#include <stdbool.h>

/* False where this build has no JSON library (jansson). */
bool image_info_available(void);

/* A string for the caller to free, ending in a newline; NULL when memory ran out. */
char *image_info_json(const struct image *image);

#endif
