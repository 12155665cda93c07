/* SPDX-License-Identifier: MIT */
/*
 * Brings what the cache and memory know of the mapping to the disk, in the
 * order of R1 to R3; then frees what was dropped, as R4 allows.
 *
 *     0  write the header again, where a write of it failed (gate_settle(), mapping_settle())
 *     1  take the dirty L2 slices, as they are now, and the changed L1 entries
 *     2  sync, unless all that they expose is stable: data, counts (R1, R2)
 *     3  write the slices; where there are L1 entries: sync (R3), write them
 *     4  sync
 *     5  drop the references of clusters that the disk no longer names (R4)
 *
 * Changes go on meanwhile: they belong to the next commit. Commits run one at a
 * time; all who wait while one runs are served by the next (group commit).
 *
 * In steady state step 2 is empty: runs of clusters are reserved ahead, and
 * data that only fresh clusters hold may become stable together with the
 * entries that expose it (the exemption of R1).
 */
#ifndef IMAGE_COMMIT_H
#define IMAGE_COMMIT_H

#include "cache/cache.h"
#include "disk/inflight.h"
#include "meta/allocator.h"
#include "meta/gate.h"
#include "meta/mapping_write.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct commit;

/* All is borrowed. */
struct commit_source {
    struct mapping *mapping;
    struct gate *gate;
    struct cache_pool *l2;
    struct allocator *allocator;
    struct barrier *barrier;
    struct inflight *inflight;
    atomic_uint_fast64_t *next_commit; /* number of the next commit; 1 at first */
};

/* 0 or -ENOMEM. */
int commit_create(const struct commit_source *source, struct commit **commit);
void commit_destroy(struct commit *commit);

/*
 * Returns when all that was changed before the call is stable: 0, or a negative
 * errno, after which everything is still in the cache; after a failed sync
 * every later call fails (R7).
 */
int commit_flush(struct commit *commit);

/* Frees what can be freed by now, without waiting for anything. */
int commit_reap(struct commit *commit);

#endif
