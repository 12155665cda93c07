/* SPDX-License-Identifier: MIT */
/* Clusters that the active state and snapshots have in common. */
#include "config.h"

#include "meta/allocator_internal.h"

#include "util/checked.h"

#include <errno.h>

int allocator_share(struct allocator *allocator, uint64_t host_offset, uint64_t clusters,
                    uint64_t *done)
{
    int result;

    pthread_mutex_lock(&allocator->mutex);
    allocator->used = true;
    result = refcounts_share(allocator->source.refcounts, host_offset >> allocator_bits(allocator),
                             clusters, done);
    pthread_mutex_unlock(&allocator->mutex);
    return result;
}

/* Whether clusters of the run are among `length` from `first` on: the first of these is *cluster.
 */
static bool run_meets(const struct run *run, uint64_t first, uint64_t length, uint64_t *cluster)
{
    *cluster = max_u64(first, run->first);
    return run->length > 0 && *cluster < min_u64(first + length, run->first + run->length);
}

int allocator_find_free(struct allocator *allocator, uint64_t host_offset, uint64_t clusters,
                        bool *found, uint64_t *free_offset)
{
    uint64_t first = host_offset >> allocator_bits(allocator), cluster, length;
    int result = 0;

    pthread_mutex_lock(&allocator->mutex);
    *found = run_meets(&allocator->current, first, clusters, &cluster) ||
             run_meets(&allocator->next, first, clusters, &cluster) ||
             run_meets(&allocator->packing.run, first, clusters, &cluster);
    if (!*found) {
        result = refcounts_find_free(allocator->source.refcounts, first, first + clusters, 1,
                                     &cluster, &length);
        *found = result == 0 && length > 0;
    }
    pthread_mutex_unlock(&allocator->mutex);
    *free_offset = cluster << allocator_bits(allocator);
    return result;
}

int allocator_are_one(struct allocator *allocator, uint64_t host_offset, uint64_t clusters,
                      bool *ones)
{
    int result;

    pthread_mutex_lock(&allocator->mutex);
    result = refcounts_are_one(allocator->source.refcounts,
                               host_offset >> allocator_bits(allocator), clusters, ones);
    pthread_mutex_unlock(&allocator->mutex);
    return result;
}

/* --- One reference less ---------------------------------------------------------------------- */

#define AT_ONCE 4096 /* clusters that are looked at together */

/* The last reference of clusters that follow each other. With the mutex held. */
static int free_run(struct allocator *allocator, uint64_t first, uint64_t length)
{
    uint64_t offset = first << allocator_bits(allocator),
             size = length << allocator_bits(allocator);
    /* R8: what is a table is not freed, whatever has named it. */
    int result = gate_pass(allocator->source.gate, GATE_OTHER, offset, size);

    if (result == 0) {
        result = refcounts_add(allocator->source.refcounts, first, length, -1);
    }
    if (result < 0) {
        return result;
    }
    allocator_make_free(allocator, first, length, allocator_punch(allocator, first, length));
    return 0;
}

static int unshare_some(struct allocator *allocator, uint64_t first, uint64_t length)
{
    struct refcounts *refcounts = allocator->source.refcounts;
    bool ones[AT_ONCE];
    uint64_t from = 0, to;
    int result = refcounts_are_one(refcounts, first, length, ones);

    for (; from < length && result == 0; from = to) {
        for (to = from + 1; to < length && ones[to] == ones[from]; to++) {
        }
        result = ones[from] ? free_run(allocator, first + from, to - from)
                            : refcounts_add(refcounts, first + from, to - from, -1);
    }
    return result;
}

int allocator_unshare(struct allocator *allocator, uint64_t host_offset, uint64_t clusters)
{
    uint64_t first = host_offset >> allocator_bits(allocator), done, part;
    int result = 0;

    for (done = 0; done < clusters && result == 0 && !atomic_load(&allocator->stopped);
         done += part) {
        part = min_u64(clusters - done, AT_ONCE);
        pthread_mutex_lock(&allocator->mutex);
        allocator->used = true;
        result = unshare_some(allocator, first + done, part);
        pthread_mutex_unlock(&allocator->mutex);
    }
    return result;
}
