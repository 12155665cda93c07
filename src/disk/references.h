/* SPDX-License-Identifier: MIT */
/*
 * The references that an L1 table makes, as a whole: to its L2 tables and to what these name. For
 * snapshots, which share all of it with the active state.
 *
 * All of this reads and writes tables where they lie in the file, past the cache: nobody changes
 * these tables meanwhile, and nothing of them is unwritten. Reading goes on, and so may writing
 * where other tables map the disk. Counts may change at any time.
 */
#ifndef IMAGE_REFERENCES_H
#define IMAGE_REFERENCES_H

#include <stdbool.h>
#include <stdint.h>

struct writer;

/*
 * One more reference to each host cluster that the table of `entries` L1 entries (host byte order)
 * reaches; *made of them. 0; -EOVERFLOW where the width of the counts is in the way; -EUCLEAN for
 * an entry that cannot be; -EIO; -ENOMEM. The counts need allocator_write_back() and a sync (R2).
 */
int references_add(struct writer *writer, const uint64_t *l1, uint64_t entries, uint64_t *made);

/*
 * One less, to the first `limit` of them; what has none left is free, so nothing of the disk may
 * name it any more, and no reader (R4). Goes on after an error, which leaves leaks; returns the
 * first.
 */
int references_remove(struct writer *writer, const uint64_t *l1, uint64_t entries, uint64_t limit);

/*
 * Clears the COPIED bits of all entries in the L2 tables below: what they name is shared now. To be
 * stable before anything else comes to name it. The L1 table is the caller's.
 */
int references_clear_copied(struct writer *writer, const uint64_t *l1, uint64_t entries);

/*
 * Makes the COPIED bits of the active state say what the counts are: those of up to `count` L1
 * entries from `first` on, in memory (mapping_write_l1()), and in the L2 tables that they name.
 */
int references_correct_copied(struct writer *writer, uint64_t first, uint64_t count);

#endif
