/* SPDX-License-Identifier: MIT */
/*
 * Where bytes of an image file are that no reader looks at though their cluster is in use: between
 * the end of a table, or of the disk, and that of its cluster.
 */
#ifndef ADMIN_SLACK_H
#define ADMIN_SLACK_H

#include "admin/inspect.h"

#include <stddef.h>
#include <stdint.h>

struct slack_place {
    const char *code;    /* a word that does not change: "l1-slack" */
    const char *what;    /* "behind the L1 table" */
    size_t snapshot;     /* of which, by its place in their table from 1 on; 0: of none */
    uint64_t begin, end; /* host offsets, within the file, begin < end; nobody has looked there */
};

/* 0, or a negative errno, which ends the search. */
typedef int slack_fn(void *context, const struct slack_place *place);

/*
 * All of them, as far as the image can be understood; of snapshots those of the first
 * `snapshots_max`. 0, or what `found` has returned.
 */
int slack_find(const struct inspection *image, size_t snapshots_max, slack_fn *found,
               void *context);

#endif
