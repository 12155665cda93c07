/* SPDX-License-Identifier: MIT */
/*
 * What the files of the snapshots share: snapshots.c (removed, renamed, and what each begins and
 * ends with), snapshot_make.c (made, while the disk is written to), snapshot_share.c (what two
 * states have in common, and how it is given up), snapshot_table.c (the table, and how the header
 * comes to name another one), snapshot_back.c (the disk becomes what a snapshot has, or nothing).
 *
 * All of it is called with requests that change something kept out (writer_pause()), and some of it
 * lets them go on meanwhile. Functions
 * return 0 or a negative errno, with a sentence only where they are given an `error`.
 */
#ifndef DISK_SNAPSHOTS_INTERNAL_H
#define DISK_SNAPSHOTS_INTERNAL_H

#include "disk/writer_internal.h"
#include "meta/snapshot.h"
#include "meta/snapshot_write.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All that is written by now is stable when it returns. */
int snapshots_sync(struct writer *writer);

/* --- snapshot_table.c ------------------------------------------------------------------------ */

/* The gate holds the clusters of [offset, offset + length) for tables of snapshots, or not (R8). */
void snapshots_know(struct writer *writer, uint64_t offset, uint64_t length, bool know);

/* Writes so many bytes to clusters of their own, filled up with zeros; *place of them: none of no
 * bytes. */
int snapshots_place(struct writer *writer, const void *bytes, uint64_t length,
                    struct allocation *place);

/* writer_replace_snapshot_table() with what the edit makes of the table. */
int snapshots_edit_table(struct writer *writer, const struct snapshot_edit *edit, bool *begun,
                         struct error *error);

/* --- snapshot_share.c ------------------------------------------------------------------------ */

/*
 * Raises all counts below the table of `entries` L1 entries (host byte order), and makes the *copy
 * of it that is to name them, without COPIED bits. After an error all is as before, or a leak.
 */
int snapshots_share(struct writer *writer, const uint64_t *l1, uint64_t entries,
                    struct allocation *copy);

/* Nothing has come to name what snapshots_share() made: it goes again. */
void snapshots_take_back(struct writer *writer, const uint64_t *l1, uint64_t entries,
                         const struct allocation *copy);

/* The snapshot's L1 table in host byte order, the caller's; NULL with *result where there is none
 * to be had. */
uint64_t *snapshots_read_l1(struct writer *writer, const struct snapshot *snapshot, int *result);

/*
 * References that nobody holds any more, and then the table that made them. Errors leave leaks.
 * Where `others_go_on`, all requests do meanwhile, but for parts of COPIED bits; and wait again
 * when it returns.
 */
int snapshots_give_up(struct writer *writer, const uint64_t *l1, uint64_t entries,
                      uint64_t l1_offset, bool others_go_on);

/* How many L2 tables are done at once, so that a writer waits some milliseconds at most. */
uint64_t snapshots_tables_at_once(const struct writer *writer);

/*
 * COPIED as the counts are. Where that fails writer_settle() does it later, and the image is dirty
 * until then. Of the cache nothing may be unwritten: what the tables are is read from the file.
 */
int snapshots_correct_copied(struct writer *writer);

/* --- snapshot_make.c ------------------------------------------------------------------------- */

/* writer_snapshot_make(), its name known to be fit; all wait when it returns. */
int snapshots_make_now(struct writer *writer, const char *name, struct error *error);

/* --- snapshot_back.c ------------------------------------------------------------------------- */

int snapshots_go_back(struct writer *writer, size_t index, struct error *error);
int snapshots_go_to_nothing(struct writer *writer, struct error *error);

#endif
