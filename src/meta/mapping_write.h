/* SPDX-License-Identifier: MIT */
/*
 * The write side of a mapping: L2 entries are changed in the cache, L1 entries
 * in memory; a commit (disk/commit.h) brings both to the disk in the order of
 * R1 to R3.
 *
 * Lock order: a table's mutex, or that of the L1 table's place, then the allocator's mutex, then
 * cache shards.
 * The callers see to it that nobody else changes the same guest cluster.
 */
#ifndef META_MAPPING_WRITE_H
#define META_MAPPING_WRITE_H

#include "meta/allocator.h"
#include "meta/gate.h"
#include "meta/mapping.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* An L2 entry as it is on the disk, in host byte order. */
struct l2_value {
    uint64_t entry;
    uint64_t bitmap; /* with extended L2 entries; else 0 */
};

/*
 * From here on the mapping can be changed, with these in place of others that
 * it had before. All is borrowed; the gate learns of the L2 tables. `next_commit` is the number of
 * the commit that will write what is changed now.
 */
int mapping_set_writer(struct mapping *mapping, struct allocator *allocator,
                       struct barrier *barrier, struct gate *gate,
                       atomic_uint_fast64_t *next_commit);

/*
 * Reads the L1 table again, from where the header says that it is: the image
 * was repaired. Nobody may be looking it up. Errors as of mapping_open(): then
 * the mapping is as it was.
 */
int mapping_reload(struct mapping *mapping, const char *name, struct error *error);

/*
 * The entry of the cluster at guest_offset, validated as mapping_lookup() does;
 * 0, or a negative errno with `fault`. COPIED is taken off where the L2 table
 * is shared.
 */
int mapping_get(struct mapping *mapping, uint64_t guest_offset, struct l2_value *value,
                struct mapping_fault *fault);

/*
 * The same of `count` clusters, at least 1, with one look-up, as far as their
 * entries lie in one slice and are valid: *got of them, none only with an error.
 */
int mapping_get_some(struct mapping *mapping, uint64_t guest_offset, struct l2_value *values,
                     size_t count, size_t *got, struct mapping_fault *fault);

/*
 * Sets the entries of `count` clusters from guest_offset (of a cluster) on.
 * They may become stable once `epoch` of the barrier is (R1, R2). Makes the L2
 * table where there is none, and a copy where it is shared with a snapshot.
 * 0, or a negative errno with `fault`: then the entries are as they were from
 * that of fault->guest_offset on.
 */
int mapping_set(struct mapping *mapping, uint64_t guest_offset, const struct l2_value *values,
                size_t count, uint64_t epoch, struct mapping_fault *fault);

/*
 * Moves the L1 table to a place for at least `needed` entries, and has the
 * header (the same that the mapping was opened with) name it. Nobody else may
 * be changing the mapping, and no change may be unwritten. 0; -EFBIG past the
 * limit of 32 MiB; or a negative errno, with all as it was.
 */
int mapping_grow(struct mapping *mapping, struct header *header, uint64_t needed);

/*
 * For who changes L2 tables where they lie, while nobody else changes the mapping and nothing of it
 * is unwritten: the table that an L1 entry names is (not) shared from here on; and the L1 table
 * goes to the disk as a whole. mapping_forget_table() has what is cached of a changed table read
 * again.
 */
void mapping_set_copied(struct mapping *mapping, uint64_t l1_index, bool copied);
int mapping_write_l1(struct mapping *mapping);

/* The L1 table as it is on the disk, for a copy of it: entries in host byte order, for free(). NULL
 * when memory ran out. */
uint64_t *mapping_copy_l1(const struct mapping *mapping, uint64_t *entries);

/*
 * The cluster at host_offset is free: forgets what the cache may have of an L2
 * table that was there. `mapping` is a struct mapping *; for allocator_source.freed.
 */
void mapping_forget_table(void *mapping, uint64_t host_offset);

/* R8: whether the cache knows of an L2 table in this range of the file. */
bool mapping_table_at(struct mapping *mapping, uint64_t host_offset, uint64_t length);

/* --- For the commit ------------------------------------------------------------------ */

/* L1 entries that memory has and the disk has not. */
struct l1_changes {
    size_t count;
    struct l1_chunk *chunks;
    uint64_t epoch; /* the tables that they name are stable with this epoch, but for the cache */
};

/*
 * A move of the L1 table that failed when the header was written may have left the header's place
 * of the table unknown: writes it as it was. Nothing is flushed before that has succeeded, since
 * the disk may name a table that nobody writes to. 0, or why it failed again.
 */
int mapping_settle(struct mapping *mapping);

/* Takes all of them; they are the caller's until mapping_release_l1_changes(). */
void mapping_take_l1_changes(struct mapping *mapping, struct l1_changes *changes);

/* Writes these entries as they are now: R3, the caller has made the tables stable. */
int mapping_write_l1_changes(struct mapping *mapping, const struct l1_changes *changes);

/* Ends that; with `again`, the entries count as unwritten once more. */
void mapping_release_l1_changes(struct mapping *mapping, struct l1_changes *changes, bool again);

#endif
