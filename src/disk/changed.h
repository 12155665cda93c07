/* SPDX-License-Identifier: MIT */
/*
 * Which parts of the disk have changed, by a persistent bitmap ("Bitmaps"): a copy of its bits, as
 * they were at one moment, also of one that records just now. What it has no bits for, as the end
 * of a snapshot that is larger than the disk is now, counts as changed. A copy never changes, and
 * any thread may look.
 */
#ifndef DISK_CHANGED_H
#define DISK_CHANGED_H

#include "disk/image.h"
#include "disk/writer.h"
#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>

struct changed;

/* Bytes that copies may take together: as many as recording may. */
uint64_t changed_memory(void);

/*
 * Copies the bits of the bitmap of that name; `writer` is who writes to the image, or NULL. At most
 * *room bytes are taken, and subtracted from it; nobody may change the bitmaps themselves
 * meanwhile. 0, or a negative errno with a sentence: -ENOENT; -EIO for a bitmap that is
 * inconsistent, damaged or of an unknown kind, or where the image cannot be read; -ENOMEM.
 */
int changed_copy(const struct image *image, struct writer *writer, const char *name, uint64_t *room,
                 struct changed **changed, struct error *error);

/* Adds to *room what it has taken. `changed` may be NULL. */
void changed_free(struct changed *changed, uint64_t *room);

/* Bytes of the disk for one bit. */
uint64_t changed_granularity(const struct changed *changed);

/*
 * The first range [*begin, *end) that has changed and does not end at or before `from`, of a disk
 * of `size` bytes; *begin is not before `from`. False: there is none.
 */
bool changed_next(const struct changed *changed, uint64_t from, uint64_t size, uint64_t *begin,
                  uint64_t *end);

#endif
