/* SPDX-License-Identifier: MIT */
/*
 * The extents of a disk as `qemu-img map` prints them, as a table or as JSON.
 * Neighbours that are alike become one line. Constant memory: a line is
 * written as soon as the next extent is known to be another.
 */
#ifndef CTL_MAP_LIST_H
#define CTL_MAP_LIST_H

#include "ctl/map_walk.h"

#include <stdio.h>

struct map_list {
    FILE *out;
    bool json;
    bool began;
    struct map_extent last; /* not printed yet; length 0 where there is none */
};

void map_list_begin(struct map_list *list, FILE *out, bool json);
void map_list_add(struct map_list *list, const struct map_extent *extent);

/*
 * Without it, after a failure, the JSON has no closing bracket: nobody takes a
 * part of the list for all of it. The table has all lines so far in both cases.
 */
void map_list_end(struct map_list *list);

/* After a failure: prints what is known. */
void map_list_break(struct map_list *list);

#endif
