/* SPDX-License-Identifier: MIT */
/*
 * The disks that a crash can leave.
 *
 * A crash happens right before a sync ends, or behind the last entry of the
 * log: each such moment is a window. What a sync has covered is stable. Of all
 * that was done since, the pending operations, each sector on its own may have
 * reached the disk up to any of them, or not at all:
 *
 *     sector   0: as it was   1: after the first operation that changed it   2: after the next ...
 *
 * That covers every prefix, every subset torn at sectors, and every order in
 * which overlapping writes can arrive. The size of the file is one more such
 * choice; the zeros that a truncation leaves arrive together with its size, as
 * file systems see to.
 *
 * States are numbered within their window: all there are, where these are few;
 * otherwise first the nasty ones, then a sample that depends on the seed alone.
 */
#ifndef CRASH_STATES_H
#define CRASH_STATES_H

#include "disk.h"
#include "log.h"
#include "tools.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct pending {
    size_t entry; /* index in the log */
    size_t changes;
    bool stamped; /* guest data */
};

/* A sector that pending operations change. */
struct touched {
    unsigned disk;
    uint64_t sector;
    size_t first;    /* its contents in `contents`: first as it was */
    size_t versions; /* how many follow */
    size_t chosen;   /* 0: as it was */
};

struct content {
    size_t pending; /* index of the operation that made it */
    bool truncated; /* by taking it off the end */
    uint8_t bytes[SECTOR];
};

/* Sizes of a disk: first as it was. */
struct sizes {
    size_t count, capacity, chosen;
    struct size {
        size_t pending;
        uint64_t bytes;
    } * list;
};

struct window {
    size_t crash; /* index in the log: of the sync's end, or of nothing */
    struct pending *pending;
    size_t pending_count, pending_capacity;
    struct touched *touched;
    size_t touched_count, touched_capacity;
    struct content *contents;
    size_t content_count, content_capacity;
    struct sizes sizes[DISKS];
    uint64_t combinations; /* at most COMBINATIONS_MAX */
};

#define COMBINATIONS_MAX (UINT64_C(1) << 40)

/* Goes through the windows of a log in order. */
struct states {
    const struct crash_log *log;
    struct disk *disks;     /* what is stable; the states are made here, too */
    size_t covered[DISKS];  /* entries before this one are stable */
    size_t next;            /* entry of the log to look at */
    uint32_t *index[DISKS]; /* of each sector: 1 + its place in `touched`; else 0 */
    struct window window;
};

/* `disks` hold what was there when the log began. */
void states_begin(struct states *states, const struct crash_log *log, struct disk *disks);
void states_end(struct states *states);

/* Goes to the next window in which something is pending; false behind the last. */
bool states_next(struct states *states);

/*
 * Chooses state `index` of `count` states of the window, and makes the disks be
 * it. To be followed by states_restore().
 */
void states_make(struct states *states, uint64_t index, uint64_t count, uint64_t seed);
void states_restore(struct states *states);

/* Tells the whole story of the state that was chosen. */
void states_describe(const struct states *states, FILE *file);

#endif
