/* SPDX-License-Identifier: MIT */
/*
 * What a request does to guest clusters of which a part has no place of its own yet: one list of
 * segments, one behind the other, from the beginning of the first cluster to the end of the last.
 *
 *     | KEEP | COPY |        DATA        | COPY | KEEP |
 *     begin         from                 to          the end of the last cluster
 *
 * Any of them may be missing. It is made once, with the clusters locked, from their entries and the
 * place that they get; what is written there, when the entries may become stable, and what these
 * say follows from it.
 */
#ifndef DISK_PLAN_H
#define DISK_PLAN_H

#include "disk/writer_internal.h"

enum segment_kind {
    SEGMENT_KEEP, /* nothing is written, and the entry says of it what it said */
    SEGMENT_DATA, /* what the request brings */
    SEGMENT_COPY, /* what the disk shows; where the request brings bytes to a part of it, these */
    SEGMENT_ZERO, /* the disk shows zeros, and so does the new place as it is */
    SEGMENT_HOLE, /* the disk shows zeros: the host is to have nothing in the new place */
};

struct segment {
    enum segment_kind kind;
    uint64_t from, to; /* guest offsets */
};

struct plan {
    struct writer *writer;
    uint64_t begin;             /* guest offset of the first cluster */
    size_t clusters;            /* they have, or get, host clusters in one piece */
    struct l2_value *old, *new; /* of each; the caller's, with room for all it asks for */
    uint64_t from, to;          /* guest offsets of the bytes that the request brings */
    const uint8_t *data;        /* these; NULL: they only get a place, and show what they did ... */
    bool sparse;                /* ... and zeros among them want no space of the host */

    struct allocation host;
    bool moves;    /* to there; otherwise it is where the one cluster has its place already */
    bool was_zero; /* all that becomes data has read as zeros, and the place is fresh */
    struct segment segments[5];
    size_t count; /* of segments; 0: what begins at `from` is written in place */
};

/*
 * Makes the plan of a request, of which all to `data` is set, for as many clusters as can be done
 * together: `clusters` and `to` are cut down to these. Takes a place for them where they need one.
 * 0, or a negative errno with `fault`, and no place. The caller has locked the clusters.
 */
int plan_clusters(struct plan *plan, struct mapping_fault *fault);

/* Gives back the places of the clusters from number `used` on, which nothing names. */
void plan_give_back(const struct plan *plan, size_t used);

/* Fills plan->new. */
void plan_entries(struct plan *plan);

/*
 * R1, R2: once all is written, the epoch of the barrier with which the entries may become stable.
 * Where fresh clusters take the place of zeros only the counts matter: until it is stable, what was
 * written reads as zeros.
 */
uint64_t plan_epoch(const struct plan *plan);

static inline uint64_t plan_host_of(const struct plan *plan, uint64_t guest_offset)
{
    return plan->host.host_offset + (guest_offset - plan->begin);
}

#endif
