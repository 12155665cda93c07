/* SPDX-License-Identifier: MIT */
/*
 * A disk from its beginning to its end, in the terms of `qemu-img map`: where
 * the bytes of each extent are, through the whole chain. It looks through
 * disk/view.h alone, and remembers nothing of what it has passed.
 */
#ifndef CTL_MAP_WALK_H
#define CTL_MAP_WALK_H

#include "disk/view.h"

struct map_extent {
    uint64_t start, length; /* of the disk, bytes */
    unsigned depth;         /* of the image that decided: 0 is the active one */
    bool present;           /* that image, or the file it is, has an entry for it */
    bool zero;              /* reads as zeros, which is known without a look at any byte */
    bool data;              /* clusters are in use for it; with `zero`: by holes of the host file */
    bool compressed;
    bool has_offset;
    uint64_t offset;          /* in the file at `path`, bytes; of compressed data: of the first */
    uint64_t compressed_size; /* bytes */
    const char *path;         /* NULL without an offset */
    bool exclusive;           /* DATA of a qcow2 image: no snapshot refers to these clusters */
};

struct map_walk;

/* From `start` to `end` of the view, which is of `image`. 0 or -ENOMEM. */
int map_walk_open(struct view *view, const struct image *image, uint64_t start, uint64_t end,
                  struct map_walk **walk);
void map_walk_close(struct map_walk *walk);

/*
 * The next extent; those that follow each other may be alike. 1, 0 at the end,
 * or a negative errno with a sentence where a table is damaged or cannot be
 * read: map_walk_skip() goes on behind that cluster, or that L2 table, and says
 * how many bytes were left out.
 */
int map_walk_next(struct map_walk *walk, struct map_extent *extent, struct error *error);
uint64_t map_walk_skip(struct map_walk *walk);

/* Where the next extent starts, bytes of the disk. */
uint64_t map_walk_position(const struct map_walk *walk);

#endif
