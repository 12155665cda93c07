/* SPDX-License-Identifier: MIT */
/*
 * What the commands share that move data between the images of a chain (commit.h, rebase.h): with
 * whose rights and which locks they open, how they write, and how they are watched and stopped.
 */
#ifndef ADMIN_CHAIN_WORK_H
#define ADMIN_CHAIN_WORK_H

#include "disk/image.h"
#include "disk/writer.h"
#include "util/error.h"
#include "util/stop.h"

#include <stdbool.h>
#include <stdint.h>

#define CHAIN_WORK_STEP (UINT64_C(2) << 20) /* bytes that are read and written at once */

struct chain_work {
    struct image_names names;
    bool no_locks;
    struct keys *keys;       /* as of image_options */
    const struct stop *stop; /* may be NULL */
    /*
     * All is open, and the first change is about to be made: what has gone before, with keys that
     * are derived, may take long, and can be cut off by the end of the process. May be NULL.
     */
    void (*begin)(void *context);
    /* How much of the disk has been looked at; may be NULL. */
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
};

/* How an image is opened to be written so, with all that is behind it. */
struct image_options chain_work_opening(const struct chain_work *work);

/* Gives it its cache, which its tables, gone through in order, need little of. Errors have a
 * sentence, as those of the next. */
int chain_work_attach_cache(struct image *image, struct error *error);

/*
 * Its writer, for an image that has its cache; refused where it must not be written. `same_disk`:
 * the disk goes on to show what it does, so that its bitmaps stay true.
 */
int chain_work_open_writer(struct image *image, bool same_disk, struct writer **writer,
                           struct error *error);

/* To be called by who has opened all that it changes, before anything is. */
void chain_work_begin(const struct chain_work *work);

void chain_work_progress(const struct chain_work *work, uint64_t done, uint64_t total);

#endif
