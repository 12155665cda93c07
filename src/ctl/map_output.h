/* SPDX-License-Identifier: MIT */
/*
 * A file that a command draws into: it appears under its name when it is whole,
 * and never in the place of something that is no picture.
 */
#ifndef CTL_MAP_OUTPUT_H
#define CTL_MAP_OUTPUT_H

#include "disk/image.h"
#include "util/error.h"

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

struct map_output {
    FILE *file;
    const char *named; /* by the user; borrowed */
    char *path;        /* of what it becomes; NULL for standard output */
    char *temporary;   /* beside it */
    bool is_there;     /* something has that name: */
    bool is_regular;
    bool is_picture; /* or empty */
};

/*
 * Finds out where it will be, before any image is read. "-" is standard output. An existing file is
 * replaced if it is empty or an SVG picture. 0, or a negative errno with a sentence. To be
 * released.
 */
int map_output_place(const char *path, struct map_output *output, struct error *error);
void map_output_release(struct map_output *output);

/* Opens it, any number of times; no file of `image`'s chain is replaced. As map_output_place(). */
int map_output_open(struct map_output *output, const struct image *image, struct error *error);

/* Gives the file its name. 0, or a negative errno with a sentence; then nothing has changed. */
int map_output_close(struct map_output *output, struct error *error);

/* Leaves nothing behind. */
void map_output_abandon(struct map_output *output);

#endif
