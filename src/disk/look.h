/* SPDX-License-Identifier: MIT */
/*
 * How far one look at a mapping goes, for who crosses a disk of any size. Twice
 * as far each time that all it saw was alike: an empty disk is crossed in a few
 * steps, and a long unallocated range of an overlay is not walked again for each
 * small extent below it. But not so far that a look takes long, where there are
 * tables: between two of them there is a chance to stop.
 *
 * Of one thread; owns nothing.
 */
#ifndef IMAGE_LOOK_H
#define IMAGE_LOOK_H

#include "util/checked.h"
#include "util/stop.h"

#include <stdint.h>

#define LOOK_BYTES       (UINT64_C(2) << 20)
#define LOOK_BYTES_MAX   (UINT64_C(1) << 40)
#define LOOK_NANOSECONDS UINT64_C(20000000)

struct look {
    uint64_t window; /* bytes */
    uint64_t began;  /* on stop_clock() */
};

static inline void look_init(struct look *look)
{
    look->window = LOOK_BYTES;
    look->began = 0;
}

/* A look begins: over how many bytes, at most `length`. */
static inline uint64_t look_begin(struct look *look, uint64_t length)
{
    look->window = min_u64(look->window, length);
    look->began = stop_clock();
    return look->window;
}

/* It has ended: the first `length` bytes were alike. */
static inline void look_end(struct look *look, uint64_t length)
{
    if (length < look->window) {
        look->window = LOOK_BYTES;
    } else if (stop_clock() - look->began > LOOK_NANOSECONDS) {
        look->window = max_u64(look->window / 4, LOOK_BYTES);
    } else {
        look->window = min_u64(look->window * 2, LOOK_BYTES_MAX);
    }
}

#endif
