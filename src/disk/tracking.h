/* SPDX-License-Identifier: MIT */
/*
 * Persistent bitmaps of a disk that is being written ("Bitmaps"): R6 of docs/design.md.
 *
 *     on the disk            in memory
 *     true                   -             nothing was written yet
 *     in use (stably)        bits          what changes the disk sets bits, from before the first
 * on true, with new bits    -             stored: when the image is closed
 *
 * A bitmap that is in use after a crash is inconsistent. Those that are enabled record what
 * changes. Those that are not are left alone, but where the disk gets another size, which they must
 * then have, too. What cannot be kept (no memory, damage) is marked in use and never stored.
 *
 * Who marks takes no lock and allocates nothing: a bit is looked at, and set where it is not.
 */
#ifndef DISK_TRACKING_H
#define DISK_TRACKING_H

#include <stdbool.h>
#include <stdint.h>

struct tracking;
struct writer;

/*
 * R6: before the first change. *kept: whether the bitmaps that the image has go on to be true, or
 * say themselves that they are not; where not, the bit that speaks for all of them has to go.
 * 0 or a negative errno: then nothing may be changed, and it can be called again. Under the
 * writer's prepare_mutex.
 */
int tracking_begin(struct writer *writer, bool *kept);

/*
 * Before the header names another size: what is not recording is in use, stably, too. Between the
 * brackets of a request, with resize_mutex held, or with all requests kept out.
 */
int tracking_prepare_resize(struct writer *writer);

/*
 * The disk has `size` bytes from soon on, and shows there what it did not: there are bits for what
 * it gains, and they are set, before anybody can write there: also in those that are disabled,
 * since a smaller disk had cut off what they had there. Locks as above.
 */
void tracking_grow(struct writer *writer, uint64_t from, uint64_t size);

/* The guest bytes [from, to) change, or have: see tracking_mark(). */
void tracking_set(struct tracking *tracking, uint64_t from, uint64_t to);

/*
 * Stores the bits, and says that they are true (R2, R3). With no request under way and all that was
 * changed stable. 0, or a negative errno with a line in the log: then they stay in use; and so they
 * do where writing was stopped.
 */
int tracking_store(struct writer *writer);

/*
 * The same in the midst of all, with all requests kept out, for who changes the bitmaps
 * themselves: the next change begins anew, with tracking_begin(). Where nothing could be stored all
 * goes on as before.
 */
int tracking_suspend(struct writer *writer);

void tracking_free(struct tracking *tracking); /* may be NULL */

#endif
