/* SPDX-License-Identifier: MIT */
/*
 * What the suites of the write side share: an image in memory that was just
 * built, with all that changes its mapping and its refcounts, and the log of
 * what that does to the file.
 */
#ifndef UNIT_WRITE_CASE_H
#define UNIT_WRITE_CASE_H

#include "builder.h"
#include "disk/commit.h"
#include "disk/inflight.h"
#include "mapping_case.h"
#include "memory_log.h"
#include "memory_store.h"
#include "meta/allocator.h"
#include "meta/refcount.h"
#include "store/barrier.h"

#include <stdatomic.h>

struct write_case {
    struct mapping_case image;
    struct store *file;   /* that of `image` */
    struct store *before; /* a copy of it, made before anything was changed */
    struct memory_log *log;
    struct cache_pool *counts;
    struct barrier *barrier;
    struct gate *gate;
    struct refcounts *refcounts;
    struct allocator *allocator;
    unsigned fills_wanted; /* how often the allocator has asked for it; nobody does it unasked */
    struct inflight inflight;
    atomic_uint_fast64_t next_commit;
    struct commit *commit;
};

/* Clusters of 512 bytes: few things fit in one table, so that tables are made often. */
struct builder_options write_case_options(void);

/* Takes the builder's image and destroys the builder. */
void write_case_open(struct write_case *write_case, struct builder *builder, bool discard);

/* Frees all; nothing is written any more. */
void write_case_close(struct write_case *write_case);

/* The count that an image, read as a whole, has for a cluster. 0 where it has no block. */
uint64_t write_case_count(struct store *image, const struct header *header, uint64_t cluster);

/* The count that the refcounts in memory have. */
uint64_t write_case_counted(struct write_case *write_case, uint64_t host_offset);

#endif
