/* SPDX-License-Identifier: MIT */
/*
 * The one gate through which all writes to the image file go, data and
 * metadata: R8 of docs/design.md. Nothing is overwritten that is not what it is
 * believed to be.
 *
 * The gate knows the tables that the header names, and of each cluster whether
 * it is an L2 table of the active state, a refcount block, or a part of the
 * snapshot table or of a snapshot's L1 table. A write says what it is of; what
 * it may not overwrite is all the rest. A hit is told to the owner, once, and
 * the write is refused.
 *
 * Any thread may call. Looking takes no lock; what is known changes under a
 * mutex of its own, a leaf. The owner's callback runs with the caller's locks
 * held, and may take none but leaves.
 */
#ifndef META_GATE_H
#define META_GATE_H

#include "meta/header.h"
#include "store/barrier.h"
#include "store/store.h"

#include <stdbool.h>
#include <stdint.h>

struct gate;

/* What a write is of. */
enum gate_use {
    GATE_HEADER,
    GATE_L1,
    GATE_REFCOUNT_TABLE,
    GATE_REFCOUNT_BLOCK,
    GATE_L2,
    GATE_BITMAPS, /* the bitmap directory */
    GATE_OTHER,   /* data, and what is to become a table: may overwrite none */
};

/* Tables of one cluster each, or parts of larger ones. */
enum gate_table {
    GATE_TABLE_L2,
    GATE_TABLE_BLOCK,
    GATE_TABLE_SNAPSHOTS,
    GATE_TABLES, /* how many there are */
};

/* All is borrowed. 0 or -ENOMEM. */
int gate_create(const struct header *header, struct store *file, struct gate **gate);
void gate_destroy(struct gate *gate); /* may be NULL */

/*
 * Who is told of the first hit: `table` would have been overwritten at
 * host_offset. To be set before the first write.
 */
void gate_set_owner(struct gate *gate,
                    void (*hit)(void *context, uint64_t host_offset, const char *table),
                    void *context);

/*
 * From here on the cluster at host_offset is such a table, or (forget) is none
 * any more. gate_know() remembers, for gate_conflict(), where it is another
 * table too, or is known already; 0 or -ENOMEM.
 */
int gate_know(struct gate *gate, enum gate_table table, uint64_t host_offset);
void gate_forget(struct gate *gate, enum gate_table table, uint64_t host_offset);

/* The first cluster that is more than one table: true, its host offset, and what it is as well. */
bool gate_conflict(struct gate *gate, uint64_t *host_offset, const char **table);

/* The table that such a write would overwrite, "L2 tables"; NULL where there is none. */
const char *gate_check(struct gate *gate, enum gate_use use, uint64_t host_offset, uint64_t length);

/* The same, as a hit: 0, or -EIO. */
int gate_pass(struct gate *gate, enum gate_use use, uint64_t host_offset, uint64_t length);

/* Writes what passes: 0, -EIO for a hit, or what the store says. */
int gate_write(struct gate *gate, enum gate_use use, uint64_t host_offset, const void *data,
               uint64_t length);

/*
 * A write of the header that failed may have been done all the same, by a server whose answer was
 * lost, or be done in part: the file has the fields as they were, or as they were to be, until they
 * are written again. So whoever passes over a write of what a field is has to ask whether that is
 * sure, and each flush settles it first: it writes what memory has, stably, and fails as long as it
 * cannot. gate_settle(): 0, also where all is sure, or why it failed.
 */
bool gate_is_sure(struct gate *gate, uint64_t offset, uint64_t length);
int gate_settle(struct gate *gate, struct barrier *barrier);

#endif
