/* SPDX-License-Identifier: MIT */
/*
 * Draws a picture of a disk as SVG: a bar and a legend with the amounts, the
 * disk as a grid, and the order of the disk against that of the file. Below
 * 500 KB whatever the image, well-formed whatever the names, and readable on
 * light and dark pages.
 */
#ifndef CTL_MAP_SVG_H
#define CTL_MAP_SVG_H

#include "ctl/map_picture.h"
#include "disk/image.h"
#include "meta/snapshot.h"

#include <stdio.h>

struct svg_subject {
    const struct image *image;
    const struct snapshot *snapshot; /* NULL for the active state */
    uint64_t disk_size;              /* bytes, also where the picture shows a part */
    uint64_t allocated;              /* bytes that the image takes on the host */
};

void map_svg_draw(const struct picture *picture, const struct svg_subject *subject, FILE *out);

#endif
