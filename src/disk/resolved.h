/* SPDX-License-Identifier: MIT */
/*
 * Where the images behind one keep each unit of the disk, the chain of them
 * already resolved: so that a long chain costs one look, not one an image.
 *
 * These images do not change while they are open, so what was resolved stays
 * true. It lies in the pool for data of the shared cache, in blocks, and is
 * made again when it was evicted. A unit is the smallest (sub)cluster of these
 * images.
 *
 *     block:   [unit 0: image 3, host offset ...] [unit 1: zeros] ... [unit 255]
 */
#ifndef IMAGE_RESOLVED_H
#define IMAGE_RESOLVED_H

#include "disk/image.h"
#include "disk/view.h"

#include <stdbool.h>
#include <stdint.h>

/* Looking further ahead is quicker through the images themselves: bytes. */
#define RESOLVED_LENGTH_MAX (UINT64_C(4) << 20)

/* Bytes of an L2 slice of these images, at most: each is read for little more than these. */
#define RESOLVED_L2_ENTRY_MAX UINT64_C(4096)

struct resolved;

/*
 * Of the chain that begins with `first`, whose images and cache are borrowed.
 * *resolved is NULL where the chain is too short to gain from it, or the data
 * pool too small to keep it. 0 or -ENOMEM.
 */
int resolved_create(const struct image *first, struct resolved **resolved);
void resolved_destroy(struct resolved *resolved);

/*
 * As view_lookup() of these images. False, when it cannot tell: they are to be
 * asked one by one, and will say what is wrong.
 */
bool resolved_lookup(struct resolved *resolved, uint64_t guest_offset, uint64_t length,
                     struct view_extent *found);

#endif
