/* SPDX-License-Identifier: MIT */
/*
 * Compressed data, which shares clusters: a cluster has as many references as pieces of data that
 * lie in it, in whole or in part ("Compressed Clusters Descriptor").
 *
 * A cluster that is taken has a count of 1 already, stably or soon so. That counts for the last
 * piece that comes to lie in it: so only the others are added, once for all pieces that are taken
 * together, and before any of them is named (R2).
 */
#include "config.h"

#include "meta/allocator_internal.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

/* Taken at once, so that what is written plain meanwhile does not come in between. */
#define PACKING_RUN (UINT64_C(1) << 20)

/* Pieces that are being given a place, from `begin` to `end`. */
struct placing {
    uint64_t begin, end; /* host offsets */
    bool joins;          /* it begins in the cluster in which the last one ended */
    size_t count;
    uint64_t first, clusters; /* the clusters that they touch */
    uint64_t *references;     /* to each of these, by all that is packed */
    uint64_t *raised;         /* how many of them have been added to its count */
};

/* The most that a cluster can be counted. */
static uint64_t most_references(const struct allocator *allocator)
{
    return refcount_max(allocator->source.header->refcount_order);
}

static uint64_t cluster_of(const struct allocator *allocator, uint64_t host_offset)
{
    return host_offset >> allocator_bits(allocator);
}

/* What is left of the cluster in which the last piece ends; 0 where that is its end. */
static uint64_t room_of(const struct allocator *allocator)
{
    return -allocator->packing.end & (allocator->source.header->cluster_size - 1);
}

/* Whether the run goes on where the last piece ends. */
static bool goes_on(const struct allocator *allocator)
{
    const struct packing *packing = &allocator->packing;

    return packing->run.length > 0 && packing->run.first == cluster_of(allocator, packing->end) + 1;
}

/* The cluster of the last piece has no more to come: its own reference falls, when that is due. */
static void leave_cluster(struct allocator *allocator)
{
    const struct pending range = {
        .first = cluster_of(allocator, allocator->packing.end),
        .length = 1,
    };

    if (room_of(allocator) > 0) {
        (void)allocator_add_pending(allocator, &range); /* without memory for it, it is a leak */
    }
    allocator->packing.end = 0;
}

/* A run for what is packed next. */
static int take_run(struct allocator *allocator)
{
    struct packing *packing = &allocator->packing;
    uint64_t length = max_u64(PACKING_RUN >> allocator_bits(allocator), 2);
    struct run run;
    int result = allocator_take_run(allocator, length, &run);

    if (result == 0 && packing->run.length > 0) { /* it had to wait, and somebody was faster */
        const struct pending range = {.first = run.first, .length = run.length};

        (void)allocator_add_pending(allocator, &range);
    } else if (result == 0) {
        packing->run = run;
    }
    return result;
}

/* Where the next piece begins, and (*limit) how far there is room behind it. */
static int find_place(struct allocator *allocator, size_t size, struct placing *placing,
                      uint64_t *limit)
{
    const struct packing *packing = &allocator->packing;
    uint32_t bits = allocator_bits(allocator);
    int result = 0;

    if (packing->run.length == 0 && size > room_of(allocator)) {
        result = take_run(allocator);
    }
    if (result < 0) {
        return result;
    }
    placing->joins = room_of(allocator) >= size || (room_of(allocator) > 0 && goes_on(allocator));
    if (!placing->joins) {
        leave_cluster(allocator);
    }
    placing->begin = placing->joins ? packing->end : packing->run.first << bits;
    placing->first = placing->begin >> bits;
    *limit = placing->joins && !goes_on(allocator)
                 ? packing->end + room_of(allocator)
                 : (packing->run.first + packing->run.length) << bits;
    return 0;
}

/* Places pieces one behind the other, as far as they have room and their clusters can be counted.
 */
static void place(const struct allocator *allocator, const size_t *sizes, size_t count,
                  uint64_t limit, struct placing *placing)
{
    placing->references[0] = placing->joins ? allocator->packing.references : 0;
    placing->end = placing->begin;
    for (placing->count = 0; placing->count < count; placing->count++) {
        uint64_t end = placing->end + sizes[placing->count];
        uint64_t from = cluster_of(allocator, placing->end) - placing->first;
        uint64_t to = cluster_of(allocator, end - 1) - placing->first;

        if (end > limit || placing->references[from] == most_references(allocator)) {
            break;
        }
        placing->references[from]++;
        placing->references[to] += to != from ? 1 : 0;
        placing->clusters = to + 1;
        placing->end = end;
    }
}

/* Where packing goes on behind the pieces. */
static struct packing packing_after(const struct allocator *allocator,
                                    const struct placing *placing)
{
    struct packing after = allocator->packing;
    uint64_t used = placing->clusters - (placing->joins ? 1 : 0);

    after.references = placing->references[placing->clusters - 1];
    after.end = after.references < most_references(allocator) ? placing->end : 0;
    after.run.first += used;
    after.run.length -= used;
    return after;
}

/* How many references cluster `i` gains; what the run has counted is one of them, at the latest
 * when no more can come. */
static uint64_t gain(const struct allocator *allocator, const struct placing *placing,
                     const struct packing *after, uint64_t i)
{
    uint64_t had = i == 0 && placing->joins ? allocator->packing.references : 0;
    bool more_to_come = (after->end & (allocator->source.header->cluster_size - 1)) != 0 &&
                        i == placing->clusters - 1;

    return placing->references[i] - had - (more_to_come ? 0 : 1);
}

/* What was added is taken back with the next commit, as it is to be done whatever the host does. */
static void lower_again(struct allocator *allocator, const struct placing *placing)
{
    for (uint64_t i = 0; i < placing->clusters; i++) {
        const struct pending range = {.first = placing->first + i, .length = 1};

        for (uint64_t times = placing->raised[i]; times > 0; times--) {
            (void)allocator_add_pending(allocator, &range);
        }
    }
}

/* Raises the counts by one, of all clusters in a row that gain more than they have been raised. */
static int raise_once(struct allocator *allocator, const struct placing *placing,
                      const struct packing *after, uint64_t *from)
{
    uint64_t to = *from;
    int result;

    while (to < placing->clusters && gain(allocator, placing, after, to) > placing->raised[to]) {
        to++;
    }
    result = refcounts_add(allocator->source.refcounts, placing->first + *from, to - *from, 1);
    for (; result == 0 && *from < to; (*from)++) {
        placing->raised[*from]++;
    }
    return result;
}

/* R2: on their way to the disk before anything is named. */
static int count_pieces(struct allocator *allocator, const struct placing *placing,
                        const struct packing *after)
{
    int result = 0;

    for (uint64_t i = 0; i < placing->clusters && result == 0;) {
        if (gain(allocator, placing, after, i) == placing->raised[i]) {
            i++;
        } else {
            uint64_t end = i;

            result = raise_once(allocator, placing, after, &end);
        }
    }
    if (result < 0) {
        lower_again(allocator, placing);
    }
    return result;
}

/* With the mutex held. */
static int pack(struct allocator *allocator, const size_t *sizes, size_t count,
                struct placing *placing)
{
    uint32_t bits = allocator_bits(allocator);
    struct packing after;
    uint64_t limit;
    int result = find_place(allocator, sizes[0], placing, &limit);

    if (result < 0) {
        return result;
    }
    place(allocator, sizes, count, limit, placing);
    if (placing->end > l2_entry_compressed_limit(bits)) {
        return -EFBIG;
    }
    after = packing_after(allocator, placing);
    result = count_pieces(allocator, placing, &after);
    if (result == 0) {
        allocator->packing = after;
    }
    return result;
}

int allocator_pack(struct allocator *allocator, const size_t *sizes, size_t count,
                   struct packed *packed)
{
    uint64_t *counts = calloc(2 * (count + 1), sizeof(*counts));
    struct placing placing = {.references = counts, .raised = counts + count + 1};
    int result;

    if (counts == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_lock(&allocator->mutex);
    result = pack(allocator, sizes, count, &placing);
    *packed = (struct packed){
        .host_offset = placing.begin,
        .count = placing.count,
        .epoch = barrier_epoch(allocator->source.barrier),
    };
    pthread_mutex_unlock(&allocator->mutex);
    free(counts);
    return result;
}

void allocator_unpack(struct allocator *allocator, uint64_t host_offset, size_t size)
{
    uint64_t first = cluster_of(allocator, host_offset),
             last = cluster_of(allocator, host_offset + size - 1);

    allocator_return(allocator, first << allocator_bits(allocator), last + 1 - first);
}

void allocator_end_packing(struct allocator *allocator)
{
    uint64_t first, room;

    pthread_mutex_lock(&allocator->mutex);
    room = room_of(allocator);
    first = cluster_of(allocator, allocator->packing.end);
    allocator->packing.end = 0;
    pthread_mutex_unlock(&allocator->mutex);
    if (room > 0) {
        allocator_return(allocator, first << allocator_bits(allocator), 1);
    }
}
