/* SPDX-License-Identifier: MIT */
/*
 * What a picture of a disk shows, gathered extent by extent in constant memory:
 * how much of each kind lies in each cell of a grid, and which part of the disk
 * lies where in the image's own file. ctl/map_svg.h draws it.
 */
#ifndef CTL_MAP_PICTURE_H
#define CTL_MAP_PICTURE_H

#include "ctl/map_walk.h"

/* In the order in which they are stacked and listed. */
enum picture_kind {
    PICTURE_DATA,
    PICTURE_SHARED, /* with snapshots */
    PICTURE_COMPRESSED,
    PICTURE_BACKING_1, /* data of the image behind the active one, compressed or not */
    PICTURE_BACKING_2,
    PICTURE_BACKING_3, /* and all behind it */
    PICTURE_DAMAGED,
    PICTURE_RESERVED, /* zeros with a host cluster kept */
    PICTURE_ZERO,
    PICTURE_NOTHING,
    PICTURE_KINDS,
};

#define PICTURE_CELLS_MAX 1024 /* of the grid */
#define PICTURE_ACROSS    64   /* cells of a row */

/* Of the plot of disk against file. */
#define PLOT_COLUMNS 224
#define PLOT_ROWS    56

struct picture {
    uint64_t start, end; /* the part of the disk that is shown, bytes */
    uint64_t cell_size;  /* bytes, a power of two */
    size_t cell_count;
    uint64_t cells[PICTURE_CELLS_MAX][PICTURE_KINDS]; /* bytes */
    uint64_t totals[PICTURE_KINDS];                   /* bytes */

    bool has_snapshots; /* so that what is not exclusive is shared with one */
    uint64_t file_size; /* bytes, of the file in which the active image's data lies */
    /* A set of 1 << kind each, row 0 at the beginning of the file. */
    unsigned char plot[PLOT_ROWS][PLOT_COLUMNS];
    uint64_t rows[PLOT_ROWS]; /* bytes of the file in that row that the disk uses */
    uint64_t runs;            /* reading the disk in its order, the file is read in so many runs */
    uint64_t run_bytes;       /* of all of them */
    uint64_t run_start, run_end; /* of the last one, in the file */
};

void picture_begin(struct picture *picture, uint64_t start, uint64_t end, bool has_snapshots,
                   uint64_t file_size);
void picture_add(struct picture *picture, const struct map_extent *extent);
/* A part that cannot be mapped. */
void picture_add_damage(struct picture *picture, uint64_t start, uint64_t length);

/* Bytes of the disk that are data, in whatever image. */
uint64_t picture_data(const struct picture *picture);

#endif
