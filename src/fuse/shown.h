/* SPDX-License-Identifier: MIT */
/*
 * The snapshots that are shown under the mount point: a copy of what image->snapshots says of them,
 * which changes as a whole while they are made, removed and renamed. image->snapshots itself is
 * that of who changes it (fuse/snapshots, one change at a time): nobody else looks at it.
 *
 * Each has a key, by which inodes name it: never given to another one, and ascending in the order
 * of the table. The views of one, of its disk and of its VM state, are opened by the first who
 * wants them and closed after the last (reading a snapshot's L1 table is not done unasked).
 *
 * Locks: one mutex for the list; under it, for a moment, that of one snapshot, with which a view is
 * opened. Opening one snapshot does not wait for another.
 */
#ifndef FUSE_SHOWN_H
#define FUSE_SHOWN_H

#include "disk/image.h"
#include "disk/view.h"
#include "fuse/names.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shown;
struct shown_snapshot;

/* What never changes of one. */
struct shown_facts {
    uint64_t disk_size;     /* bytes */
    uint64_t vm_state_size; /* bytes; 0 without VM state */
    uint32_t date_sec, date_nsec;
};

enum shown_view {
    SHOWN_DISK,
    SHOWN_VM_STATE,
};

#define SHOWN_VIEWS 2

/* Of an image that may have no table. 0 or -ENOMEM. */
int shown_create(struct image *image, struct shown **shown);
/* `shown` may be NULL. No view is in use. */
void shown_destroy(struct shown *shown);

/* How many there are, and how many of them have VM state. */
void shown_count(struct shown *shown, size_t *count, size_t *vm_states);

bool shown_get(struct shown *shown, uint64_t key, struct shown_facts *facts);

/* The key of the one with this file name. */
bool shown_find(struct shown *shown, const char *name, uint64_t *key);

/* The first with a key that is not below `key`, and its file name. */
bool shown_next(struct shown *shown, uint64_t key, uint64_t *found, char name[NAMES_MAX + 1]);

/*
 * Opens, or shares, a view: 0 with *snapshot for shown_leave(); -ENOENT where it is gone, or being
 * removed; -EIO with a sentence where its tables cannot be used; -ENOMEM.
 */
int shown_use(struct shown *shown, uint64_t key, enum shown_view which,
              struct shown_snapshot **snapshot, struct view **view, struct error *error);
void shown_leave(struct shown *shown, struct shown_snapshot *snapshot, enum shown_view which);

/* --- For who changes image->snapshots ----------------------------------------------------------
 */

/*
 * Shows what image->snapshots says now: who is still there keeps its key. 0; -ENOMEM: all is shown
 * as before, and nothing may be changed until this succeeds.
 */
int shown_update(struct shown *shown);

/* The same, where it has not succeeded the last time. */
int shown_settle(struct shown *shown);

/*
 * Nobody can open it from here on; 0 with its number in image->snapshots. -EBUSY where a view is
 * open and not closed for so many milliseconds, -ENOENT.
 */
int shown_claim(struct shown *shown, uint64_t key, unsigned milliseconds, size_t *index);

/* It stays, or is gone by now. */
void shown_unclaim(struct shown *shown, uint64_t key);

/* Its number in image->snapshots; false: there is none. */
bool shown_index(struct shown *shown, uint64_t key, size_t *index);

/* The key of that number; false: there is none. */
bool shown_key(struct shown *shown, size_t index, uint64_t *key);

/* The key of the one that was made last; false: there is none. */
bool shown_last(struct shown *shown, uint64_t *key);

#endif
