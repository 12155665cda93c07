/* SPDX-License-Identifier: MIT */
/*
 * A file that a command draws into: it appears under its name when it is whole,
 * and never in the place of something that is no picture.
 */
#ifndef CTL_MAP_OUTPUT_H
#define CTL_MAP_OUTPUT_H

#include "disk/image.h"
#include "util/error.h"

#include <stdio.h>
#include <sys/types.h>

struct map_output {
    FILE *file;
    char *path;      /* of what it becomes; NULL for standard output */
    char *temporary; /* beside it */
};

/*
 * "-" is standard output. An existing file is replaced if it is empty or an SVG
 * picture; one of `image`'s chain never is. 0, or a negative errno with a sentence.
 */
int map_output_open(const char *path, const struct image *image, struct map_output *output,
                    struct error *error);

/* Gives the file its name. 0, or a negative errno with a sentence; then nothing has changed. */
int map_output_close(struct map_output *output, struct error *error);

/* Leaves nothing behind. */
void map_output_abandon(struct map_output *output);

#endif
