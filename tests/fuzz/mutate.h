/* SPDX-License-Identifier: MIT */
/*
 * Changes an image where it matters: in the fields of its header, extensions,
 * L1 and L2 tables, refcounts, snapshots and bitmaps, in compressed data, or by
 * cutting it off. A program decides what and how. Where the tables lie is read
 * from the bytes as they are now, with every doubt: whatever they hold, no
 * change goes beyond them.
 */
#ifndef FUZZ_MUTATE_H
#define FUZZ_MUTATE_H

#include "program.h"

#include <stddef.h>
#include <stdint.h>

struct mutable_image {
    uint8_t *bytes; /* of malloc(); a change may replace them */
    size_t size;
    size_t most; /* it is never made longer than that */
};

/* One change; it may be that nothing comes of it. */
void mutate(struct mutable_image *image, struct program *program);

#endif
