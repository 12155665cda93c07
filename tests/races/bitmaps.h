/* SPDX-License-Identifier: MIT */
/*
 * Persistent bitmaps beside all that the threads of a run do, and the backup points that they are
 * for. Whatever a bitmap says, and is not marked in use, must have each change, and may have no
 * more than its granularity explains; and a backup that is made by them has all.
 *
 *     bitmap "sector"   |-- records ---|clear|-- records ---------------
 *     bitmap "point-0"      |- records, has those of "sector", too -| still
 *     snapshot                               |made|
 *
 * A change that returned before the clearing began is in "point-0", one that began after it
 * returned in "sector", and what was under way meanwhile in either. What differs between two
 * snapshots is in the bitmap of the second.
 */
#ifndef RACES_BITMAPS_H
#define RACES_BITMAPS_H

#include "run.h"

#include "util/checked.h"

#define SECTOR        UINT64_C(512)
#define SECTOR_GRAINS (SECTOR / GRAIN)
#define POINTS_NAME   "sector" /* of races_bitmaps: what backup points are made with */

static inline uint64_t bitmaps_sectors(const struct run *run)
{
    return div_round_up(run->history.grains, SECTOR_GRAINS);
}

/*
 * The bits of each sector, as a mount would show them; what is behind the disk's end counts. They
 * are the caller's. 0, or a negative errno with a sentence in last_line. Nobody changes the
 * bitmaps.
 */
int bitmaps_read(struct run *run, struct writer *writer, const char *name, struct look *look);

#endif
