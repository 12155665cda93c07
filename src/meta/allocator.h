/* SPDX-License-Identifier: MIT */
/*
 * Hands out host clusters, and takes them back: R2 and R4 of docs/design.md.
 *
 *     free ---reserve---> counted, in a run ---take---> written, mapped
 *       ^                        |                          |
 *       |<-------- close --------+                     unmapped (drop)
 *       |                                                   |
 *       +--- drop stable, requests of then ended --- pending free
 *
 * Clusters are reserved in runs, whose counts are raised with one write; while
 * one run is used up, the next is reserved, so that the sync which makes its
 * counts stable is usually one that was wanted anyway. An allocation tells the
 * epoch after which its counts are stable: nothing may refer to it before.
 *
 * Where each sync is for little data, the next run is filled with zeros before
 * it is used, by whoever calls allocator_fill(): a flush then costs the host
 * less than where it must record new blocks. What is written is zeros over
 * zeros, to clusters that nobody has, so no rule is touched but that the run
 * counts as stable only after it.
 *
 * Any thread may call. One mutex protects all of it and the refcounts; below it
 * come the cache shards and the barrier.
 */
#ifndef META_ALLOCATOR_H
#define META_ALLOCATOR_H

#include "meta/gate.h"
#include "meta/refcount.h"
#include "store/barrier.h"
#include "store/store.h"

#include <stdbool.h>
#include <stdint.h>

struct allocator;

/* All is borrowed. */
struct allocator_source {
    const struct header *header;
    struct store *file;
    struct gate *gate;
    struct refcounts *refcounts;
    struct barrier *barrier;
    /*
     * Told of each cluster that has become free, before anybody can take it;
     * runs under the allocator's mutex. May be NULL.
     */
    void (*freed)(void *context, uint64_t host_offset);
    void *freed_context;
    /*
     * Told that allocator_fill() has something to do; runs under the allocator's mutex. May be
     * NULL.
     */
    void (*fill_wanted)(void *context);
    void *fill_context;
    bool discard;      /* give the host space of freed clusters back */
    bool device;       /* the file is a block device: its end is fixed, and unused space not zero */
    uint64_t size_max; /* bytes that the file may have; 0: as the host has room */
};

struct allocation {
    uint64_t host_offset; /* bytes */
    uint64_t clusters;
    uint64_t epoch; /* of the barrier: stable counts */
    bool fresh;     /* untouched, or punched since: reads as zeros, when it is stably counted */
    bool untouched; /* from behind all that was ever in use, whatever the counts say of that */
};

/* 0, -ENOMEM, or the errno of a host that cannot tell the size of the file. */
int allocator_create(const struct allocator_source *source, struct allocator **allocator);

/*
 * No request is left, and all that was dropped is stable. Gives back what is reserved, and cuts off
 * what was put behind the end of the file since it was opened and is not in use. What the file had
 * then it keeps, whatever the counts say of it: they may be wrong, and a host may have preallocated
 * it.
 */
int allocator_close(struct allocator *allocator);
void allocator_destroy(struct allocator *allocator);

/*
 * Takes 1 to `want` clusters that follow each other. 0 or a negative errno of
 * the host; -EFBIG at the limits of the format.
 */
int allocator_take(struct allocator *allocator, uint64_t want, struct allocation *allocation);

/*
 * Fills the next run, where it shall be; whoever comes to need it waits. By one thread at a time,
 * and none when the allocator is closed.
 */
void allocator_fill(struct allocator *allocator);

/* Takes exactly `clusters`, for tables. */
int allocator_take_exactly(struct allocator *allocator, uint64_t clusters,
                           struct allocation *allocation);

/*
 * One reference less to clusters that nothing refers to by it any more: they were taken and never
 * named, or what named them is gone from the disk, and nobody reads it (R4).
 */
void allocator_return(struct allocator *allocator, uint64_t host_offset, uint64_t clusters);

/* Where compressed data was given a place. */
struct packed {
    uint64_t host_offset; /* of the first; the others follow it, byte after byte */
    size_t count;
    uint64_t epoch; /* of the barrier: stable counts */
};

/*
 * Takes a place for the first pieces of compressed data, each of sizes[i] bytes, more than none and
 * less than a cluster: of at least one, and as many as there is room for in one piece. They share
 * clusters, with each other and with what was taken before, and each is counted as one reference to
 * the one or two that it lies in. 0; an errno of the host; -EFBIG behind what an entry of
 * compressed data can name, where there may be room for others.
 */
int allocator_pack(struct allocator *allocator, const size_t *sizes, size_t count,
                   struct packed *packed);

/* Such a piece was never named: the opposite. */
void allocator_unpack(struct allocator *allocator, uint64_t host_offset, size_t size);

/*
 * What is packed next begins with a cluster of its own: the counts are the references again, as
 * who counts them by other means expects.
 */
void allocator_end_packing(struct allocator *allocator);

/*
 * One reference to each of `clusters` clusters was dropped from a table that
 * commit number `commit` will write. The count falls when allocator_dropped()
 * has been told of that commit.
 */
int allocator_drop(struct allocator *allocator, uint64_t host_offset, uint64_t clusters,
                   uint64_t commit);

/*
 * One more reference to each of `clusters` clusters that are in use, made by a snapshot: *done of
 * them. The counts are in the cache, and stable (R2) with a sync after allocator_write_back().
 * -EOVERFLOW where the width of the counts is in the way, -EUCLEAN where one is 0.
 */
int allocator_share(struct allocator *allocator, uint64_t host_offset, uint64_t clusters,
                    uint64_t *done);

/*
 * One reference less to each of `clusters` clusters: what made it is gone from the disk, stably,
 * and nobody reads it any more (R4). What has none left is free. 0, or the first error, after which
 * what remains is a leak.
 */
int allocator_unshare(struct allocator *allocator, uint64_t host_offset, uint64_t clusters);

/*
 * Whether one of `clusters` clusters, at least 1, can be handed out: it is free by its count, or
 * reserved. Then *free_offset is that of one. 0, or a negative errno of the host.
 */
int allocator_find_free(struct allocator *allocator, uint64_t host_offset, uint64_t clusters,
                        bool *found, uint64_t *free_offset);

/* Of `clusters` clusters: ones[i] is whether each has one reference alone. */
int allocator_are_one(struct allocator *allocator, uint64_t host_offset, uint64_t clusters,
                      bool *ones);

/*
 * All commits up to number `commit` are stable, and no request is left that
 * began before: frees what waited for that (R4). What a host in trouble does not let be freed is
 * tried again the next time, and when the allocator is closed.
 */
int allocator_dropped(struct allocator *allocator, uint64_t commit);

/*
 * The image was found damaged: from now on nothing is freed, nor the file cut, since the counts
 * that say what is free may be wrong, too. What is reserved, or would be free, is a leak.
 */
void allocator_stop(struct allocator *allocator);

/* R5: from now on (not) the counts need not be on the disk. */
void allocator_set_lazy(struct allocator *allocator, bool lazy);

/* Writes the counts that only the cache has; while they are lazy, only when they are many. */
int allocator_write_back(struct allocator *allocator);

#endif
