/* SPDX-License-Identifier: MIT */
/*
 * Persistent bitmaps of a disk that is mounted, changed between two requests. By the one thread
 * that changes snapshots, under the same locks (fuse/snapshots).
 */
#ifndef FUSE_BITMAPS_H
#define FUSE_BITMAPS_H

#include "fuse/ops.h"
#include "util/error.h"
#include "util/stop.h"

#include <stdint.h>

/* Whether this is the word for a change of a bitmap: "bitmap-add" and the like (util/control). */
bool bitmaps_knows(const char *ask);

struct bitmaps_request {
    const char *ask;
    const char *name;
    uint64_t granularity; /* of a new one; 0: the default */
    const char *from;     /* which is merged into it, or which a new one is like; or NULL */
};

/*
 * Does it at a moment behind all that was written before the call began, also of what the kernel
 * has cached. 0; what the functions of disk/bitmaps.h return; the errno with which something that
 * was written was lost; -EINTR, with nothing done. Always with a sentence.
 */
int bitmaps_change(struct filesystem *filesystem, const struct bitmaps_request *request,
                   const struct stop *stop, struct error *error);

#endif
