/* SPDX-License-Identifier: MIT */
/* What `amend -o size=` does as `resize` does. */
#ifndef CTL_RESIZE_H
#define CTL_RESIZE_H

#include "ctl/command.h"
#include "disk/image.h"

#include <stdint.h>

/* Whether a disk of this image can have `size` bytes: 0, or a negative errno with a sentence. */
int resize_check_size(const struct image *image, uint64_t size, struct error *error);

/* Refuses to make the disk smaller, saying what it would lose, and then `remedy`. */
int resize_check_shrink(struct ctl *ctl, struct image *image, uint64_t size, const char *remedy);

/* The sentence for a resize that ended with `r`, which is returned. */
int resize_failed(struct ctl *ctl, const struct image *image, uint64_t size, int r);

#endif
