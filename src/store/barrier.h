/* SPDX-License-Identifier: MIT */
/*
 * Which writes are stable: the ground on which the ordering rules stand
 * (docs/design.md, section 3).
 *
 * Time is cut into epochs at the beginning of each sync:
 *
 *     epoch   1        | 2              | 3
 *     writes  a   b    |    c       d   |     e
 *     syncs            [---- of 1 ----] [---- of 2 ----]
 *
 * A write belongs to the epoch that is current when it has returned. When the
 * sync that ended its epoch has returned, the write is stable. So "after this
 * write is stable" is kept as a number, and asked or waited for at any time,
 * by any thread; all who wait at once share one sync (group commit).
 *
 * After a failed sync nothing becomes stable any more (R7): the kernel may have
 * dropped what it could not write, and the next fdatasync would not tell.
 *
 * Takes only its own mutex; no store is called under it.
 */
#ifndef STORE_BARRIER_H
#define STORE_BARRIER_H

#include "store/store.h"

#include <stdbool.h>
#include <stdint.h>

struct barrier;

/*
 * Of the image file and its data file (the same store where there is no
 * external one); both are borrowed. `unsafe` makes every sync succeed without
 * one (cache=unsafe). 0 or -ENOMEM.
 */
int barrier_create(struct store *file, struct store *data_file, bool unsafe,
                   struct barrier **barrier);
void barrier_destroy(struct barrier *barrier);

/* The epoch of all writes that have returned by now and were in no earlier one. */
uint64_t barrier_epoch(struct barrier *barrier);

/* Whether all writes of that epoch and before are stable. */
bool barrier_is_stable(struct barrier *barrier, uint64_t epoch);

/*
 * Returns when they are: 0. Joins a sync that others wait for, where it covers
 * the epoch, and begins one otherwise. The negative errno of the first sync
 * that ever failed (R7).
 */
int barrier_wait(struct barrier *barrier, uint64_t epoch);

/* A sync of one of the files that was not asked for here has failed, with that errno (R7). */
void barrier_fail(struct barrier *barrier, int result);

/* How many syncs have been made; for tests and counters. */
uint64_t barrier_syncs(struct barrier *barrier);

#endif
