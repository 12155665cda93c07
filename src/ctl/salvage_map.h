/* SPDX-License-Identifier: MIT */
/* The map that `qcow2ctl salvage` makes of what it copied, as ddrescue reads and writes it. */
#ifndef CTL_SALVAGE_MAP_H
#define CTL_SALVAGE_MAP_H

#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* All zero but the path: a map that is not wanted, where that is NULL. */
struct salvage_map {
    const char *path;
    FILE *file; /* or NULL */
    uint64_t size;
    uint64_t begin; /* of the run that is being copied */
    bool run_lost;  /* whether that is lost */
};

/* Makes the file, which says that nothing is copied. 0 or a negative errno with a sentence. */
int salvage_map_open(struct salvage_map *map, struct error *error);

/* Says so again, of a disk of that size. */
void salvage_map_begin(struct salvage_map *map, uint64_t size);

/* From `offset` on it is lost, or not; all before was noted. */
void salvage_map_note(struct salvage_map *map, uint64_t offset, bool lost);

/*
 * The end, at `reached`: what is behind that was not tried. Closes the file. 0 or a negative errno
 * with a sentence.
 */
int salvage_map_close(struct salvage_map *map, uint64_t reached, struct error *error);

#endif
