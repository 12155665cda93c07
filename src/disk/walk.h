/* SPDX-License-Identifier: MIT */
/*
 * Who goes through a disk from its beginning: what it has from a position on, data, or what reads
 * as zeros without a look at any byte. Of one thread; borrows its view.
 */
#ifndef IMAGE_WALK_H
#define IMAGE_WALK_H

#include "disk/look.h"
#include "disk/view.h"

#include <stdbool.h>
#include <stdint.h>

struct disk_walk {
    struct view *view;
    uint64_t size; /* bytes; what is behind it reads as zeros */
    struct look look;
    uint64_t until; /* up to here from the position that was asked for last ... */
    bool is_data;   /* ... it is data, or reads as zeros without a look at any byte */
};

/* `view` may be NULL: of a disk without a byte. */
void disk_walk_begin(struct disk_walk *walk, struct view *view);

/* Looks at `position` (no less than before), at most up to `end`. 0, or -EIO after a log line. */
int disk_walk_at(struct disk_walk *walk, uint64_t position, uint64_t end);

#endif
