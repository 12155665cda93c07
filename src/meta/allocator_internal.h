/* SPDX-License-Identifier: MIT */
/* What allocator.c (taking) and allocator_free.c (giving back) share. */
#ifndef META_ALLOCATOR_INTERNAL_H
#define META_ALLOCATOR_INTERNAL_H

#include "meta/allocator.h"
#include "meta/hollow.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

/* Clusters whose counts are 1 and that nothing refers to. */
struct run {
    uint64_t first, length; /* cluster numbers */
    uint64_t epoch;
    bool at_end; /* behind all that was in use */
    bool fresh;
    bool to_fill; /* with zeros, before it is used; of `next` alone */
};

struct pending {
    uint64_t first, length; /* cluster numbers */
    uint64_t commit;
};

/*
 * Where compressed data goes, one behind the other:
 *
 *     | data | data |da|ta | data |         |         |
 *                                 ^ end     ^ the run, from its first cluster on
 *
 * The cluster in which `end` lies keeps the reference of the run, beside those of the data in it,
 * for as long as more may come: it cannot become free meanwhile, whatever the guest drops. At the
 * beginning of a cluster, `end` is nowhere.
 */
struct packing {
    struct run run;
    uint64_t end;        /* host offset */
    uint64_t references; /* of the data that begins or ends in the cluster of `end` */
};

struct allocator {
    struct allocator_source source;
    pthread_mutex_t mutex; /* guards all below, and the refcounts */
    struct run current, next;
    struct packing packing;
    bool filling;          /* `next`: it may not be touched */
    bool cannot_fill;      /* the host could not, or gains nothing */
    pthread_cond_t filled; /* `filling` has ended */
    uint64_t taken;        /* clusters, since the last run was reserved */
    uint64_t syncs;        /* of the barrier, then */
    uint64_t run_length;   /* clusters to reserve next at the end of the file */
    uint64_t cursor;       /* no cluster before this one is free */
    struct hollow hollow;
    bool used;           /* something was reserved, or freed */
    uint64_t found_size; /* of the file, bytes, when it was opened */
    struct pending *pending;
    size_t pending_count, pending_capacity;
    atomic_bool stopped; /* read without the mutex */
};

static inline uint32_t allocator_bits(const struct allocator *allocator)
{
    return allocator->source.header->cluster_bits;
}

/* Takes 1 to `want` clusters out of the current run, as a run. With the mutex held. */
int allocator_take_run(struct allocator *allocator, uint64_t want, struct run *run);

/*
 * Gives the host space of clusters back, where that is wanted: whether they read as zeros then, and
 * lie within the file. Takes no lock.
 */
bool allocator_punch(const struct allocator *allocator, uint64_t first, uint64_t length);

/* Nothing refers to the clusters any more: they can be found again. With the mutex held. */
void allocator_make_free(struct allocator *allocator, uint64_t first, uint64_t length, bool hollow);

/* Something to be freed with the next commit, whichever that is. Likewise. */
int allocator_add_pending(struct allocator *allocator, const struct pending *range);

#endif
