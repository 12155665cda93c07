/* SPDX-License-Identifier: MIT */
/*
 * Counts all references of an image to the clusters of its file, compares them
 * with its refcounts, and repairs these.
 *
 * The checker walks L1 and L2 by itself, not through the mapping: it must see
 * every entry, also those that cannot be and those that no guest offset leads
 * to, in the order in which they lie in the file, and what the file holds
 * rather than what a cache does. It decodes them with meta/format.h alone, as
 * the mapping does.
 *
 * It needs the image to itself: nothing of the image may be in a cache, and
 * nobody may change it until the check has returned. Afterwards whatever was
 * opened before (struct refcounts, a mapping) is out of date.
 *
 * Memory: the numbers counted, see meta/check_counts.h (128 MiB for a full file
 * of 64 TiB with clusters of 64 KiB), and buffers of some MiB. Sizes that the
 * image states are not believed: what it refers to past the end of its file is
 * an error, and takes no memory.
 *
 * A repair can be cut off at any moment and begun again. It never writes where
 * the file may hold something else (R8), and keeps R2:
 *
 *     1. counts that are too low are raised                          sync
 *     2. wrong COPIED bits are corrected                             sync
 *     3. counts that are too high are lowered                        sync
 *
 * Where the blocks themselves cannot be trusted (one is missing or impossible,
 * or something else refers to its cluster, or to one of the table's), 1 and 3
 * are replaced by a new refcount table with new blocks behind the end of the
 * file: written, synced, and only then named by the header (R3).
 *
 * As long as something could not be read, nothing is repaired; as long as the
 * image holds references that lead nowhere, counts are raised and nothing
 * else: the clusters that seem to be free may be those that were meant.
 */
#ifndef META_CHECK_H
#define META_CHECK_H

#include "meta/header.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>

enum check_finding {
    CHECK_LEAK,       /* space is lost, nothing else */
    CHECK_ERROR,      /* data is in danger, or lost */
    CHECK_UNREADABLE, /* could not be checked */
};

/* The callbacks run in the calling thread, and may be NULL. */
struct check_options {
    bool repair_leaks;
    bool repair_errors;
    /* One line a finding; millions, for a badly damaged image. */
    void (*report)(void *context, enum check_finding finding, const char *line);
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
};

/* Findings are counted as by qemu-img check. */
struct check_result {
    uint64_t total_clusters;      /* of the disk */
    uint64_t allocated_clusters;  /* of these, in the active state */
    uint64_t compressed_clusters; /* of these */
    uint64_t fragmented_clusters; /* of these: not behind the one before; all compressed ones */
    uint64_t image_end_offset;    /* host offset behind the last cluster in use, bytes */

    uint64_t leaks;      /* clusters whose count is too high */
    uint64_t errors;     /* counts that are too low, wrong COPIED bits, impossible entries */
    uint64_t unreadable; /* tables that could not be read */
    /* Of these, what is repaired now. */
    uint64_t fixed_leaks;
    uint64_t fixed_errors;
};

/*
 * Checks the image and repairs what `options` says. `header`, which is of the
 * file and not NULL, is changed when the refcount table moves; `name` begins
 * the sentences. 0 when all was checked, and repaired as far as it can be,
 * whatever was found. Otherwise a negative errno with a sentence: -EINVAL when
 * the snapshot table or the bitmap directory cannot be understood, -ENOMEM,
 * errors of the host; a repair may then be half done, which a further one
 * completes.
 */
int check_image(struct header *header, struct store *file, const char *name,
                const struct check_options *options, struct check_result *result,
                struct error *error);

/* Whether nothing is left that makes it dangerous to write to the image. */
static inline bool check_is_clean(const struct check_result *result)
{
    return result->unreadable == 0 && result->errors == result->fixed_errors;
}

/*
 * Clears the dirty bit, once all that was written before is stable, stably
 * (R5); nothing happens where it is not set. 0, or a negative errno with a sentence.
 */
int check_clear_dirty(struct header *header, struct store *file, const char *name,
                      struct error *error);

/* The same with the corrupt bit, for an image that was found clean. */
int check_clear_corrupt(struct header *header, struct store *file, const char *name,
                        struct error *error);

#endif
