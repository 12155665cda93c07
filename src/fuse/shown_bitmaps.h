/* SPDX-License-Identifier: MIT */
/*
 * The persistent bitmaps that are shown under the mount point, and the copies of their bits that
 * who has opened one reads. Each has a key, by which inodes name it, that is never given to one of
 * another name. The list changes as a whole, with the directory of bitmaps; a leaf mutex guards it.
 */
#ifndef FUSE_SHOWN_BITMAPS_H
#define FUSE_SHOWN_BITMAPS_H

#include "disk/changed.h"
#include "fuse/names.h"
#include "util/error.h"
#include "util/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shown_bitmaps;

/* Those of `image`; none where that is NULL. All is borrowed. 0 or -ENOMEM. */
int shown_bitmaps_create(const struct image *image, struct log *log, struct shown_bitmaps **shown);
void shown_bitmaps_destroy(struct shown_bitmaps *shown); /* may be NULL */

/*
 * Shows what the directory has now; by who keeps it from being changed. Where memory is short all
 * is shown as before; of a directory that cannot be read, nothing.
 */
void shown_bitmaps_update(struct shown_bitmaps *shown);

size_t shown_bitmaps_count(struct shown_bitmaps *shown);

/* Whether there is one of this key, and its file name. */
bool shown_bitmaps_get(struct shown_bitmaps *shown, uint64_t key, char name[NAMES_MAX + 1]);

/* The key of the one with this file name. */
bool shown_bitmaps_find(struct shown_bitmaps *shown, const char *name, uint64_t *key);

/* The first with a key that is not below `key`, and its file name. */
bool shown_bitmaps_next(struct shown_bitmaps *shown, uint64_t key, uint64_t *found,
                        char name[NAMES_MAX + 1]);

/*
 * changed_copy() of one; of the memory that all copies may take together. By who keeps the
 * directory from being changed.
 */
int shown_bitmaps_copy(struct shown_bitmaps *shown, struct writer *writer, uint64_t key,
                       struct changed **changed, struct error *error);
void shown_bitmaps_let_go(struct shown_bitmaps *shown, struct changed *changed); /* may be NULL */

/*
 * The text of extents.json of a disk of `size` bytes, for free(); NULL: there is no memory for it.
 */
char *shown_bitmaps_extents(struct shown_bitmaps *shown, const struct changed *changed,
                            uint64_t size);

#endif
