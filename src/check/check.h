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
 * Memory: the numbers counted, see check/counts.h (128 MiB for a full file
 * of 64 TiB with clusters of 64 KiB), the refcount table (8 MiB at most) and
 * buffers of some MiB; 64 MiB at most while a snapshot table is replaced. Sizes
 * that the image states are not believed: what it refers to past the end of its
 * file is an error, and takes no memory.
 *
 * A repair can be cut off at any moment and begun again. It never writes where
 * the file may hold something else (R8), and keeps R2:
 *
 *     0. unknown autoclear features are cleared (R6), and that of
 *        bitmaps (`give_up_bitmaps`) where their directory cannot be sync
 *     1. counts that are too low are raised                          sync
 *     2. wrong COPIED bits are corrected                             sync
 *     3. counts that are too high are lowered                        sync
 *
 * Where the blocks themselves cannot be trusted (one is missing or impossible,
 * or something else refers to its cluster, or to one of the table's), 1 and 3
 * are replaced by a new refcount table with new blocks behind the end of the
 * file (on a block device, of what is in use): written, synced, and only then
 * named by the header (R3). A snapshot table with entries that are too long or
 * too short is replaced in the same way, by the same write of the header.
 *
 * As long as something could not be read, nothing is repaired; as long as the
 * image holds references that lead nowhere, or into a table, counts are raised
 * and nothing else: the clusters that seem to be free may be those that were
 * meant, and what seems to be an L2 table may be data.
 */
#ifndef META_CHECK_H
#define META_CHECK_H

#include "meta/header.h"
#include "store/store.h"
#include "util/error.h"
#include "util/stop.h"

#include <stdbool.h>
#include <stdint.h>

enum check_finding {
    CHECK_LEAK,       /* space is lost, nothing else */
    CHECK_ERROR,      /* data is in danger, or lost */
    CHECK_UNREADABLE, /* could not be checked */
    CHECK_NOTE,       /* nothing is wrong with the image; counted nowhere */
};

/* What refers to a host cluster. */
enum check_use {
    CHECK_USE_HEADER,
    CHECK_USE_L1_TABLE,
    CHECK_USE_L2_TABLE,
    CHECK_USE_DATA,
    CHECK_USE_COMPRESSED,
    CHECK_USE_SNAPSHOT_TABLE,
    CHECK_USE_BITMAP_DIRECTORY,
    CHECK_USE_BITMAP_TABLE,
    CHECK_USE_BITMAP_DATA,
    CHECK_USE_REFCOUNT_TABLE,
    CHECK_USE_REFCOUNT_BLOCK,
    CHECK_USE_CRYPT_HEADER,
};

/* "L2 table" */
const char *check_use_name(enum check_use use);

/* The callbacks run in the calling thread, and may be NULL. */
struct check_options {
    bool repair_leaks;
    bool repair_errors;
    bool give_up_bitmaps; /* with that: where their directory cannot be; only when somebody asks for
                             it */
    /* One line a finding; millions, for a badly damaged image. */
    void (*report)(void *context, enum check_finding finding, const char *line);
    void (*progress)(void *context, uint64_t done, uint64_t total);
    /*
     * Each reference that is found to a cluster of the file; again, where refcounts are rebuilt.
     * `hidden`: of a data cluster the subclusters (bit n: the n-th; bit 0: a cluster without any)
     * that the entry keeps, but that read as zeros or as what is behind the image.
     */
    void (*reference)(void *context, uint64_t cluster, enum check_use use, uint32_t hidden);
    void *context;
    /* Ends it, with -EINTR; a repair that is half done then is what it is after a crash. */
    const struct stop *stop;
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
    /*
     * Clusters of a table that something else refers to as well, as if they were
     * its own. Counting both is all that can be done about it.
     */
    uint64_t overlaps;
    /* Clusters whose count is lower than what refers to them: a writer would hand these out. */
    uint64_t too_low;
    /*
     * References to clusters that have more of them than refcounts of this width can say: a writer
     * would free what others still name. No repair mends that.
     */
    uint64_t uncountable;
    /* Entries with COPIED set whose cluster others name, too: a writer would change it for all. */
    uint64_t falsely_copied;
    /* Of these, what is repaired now. */
    uint64_t fixed_leaks;
    uint64_t fixed_errors;
};

/*
 * The header, for check_image() alone: as header_read(), but also of an image
 * that nobody could read or write as it is, for lack of a refcount table, say.
 */
int check_read_header(struct store *file, uint64_t file_size, const char *name,
                      struct header **header, struct error *error);

/*
 * Checks the image and repairs what `options` says. `header`, which is of the
 * file and not NULL, is changed when the refcount table moves; `name` begins
 * the sentences. 0 when all was checked, and repaired as far as it can be,
 * whatever was found. Otherwise a negative errno with a sentence: -EINVAL when
 * the snapshot table or the bitmap directory cannot be understood, -ENOMEM,
 * errors of the host, -EINTR; a repair may then be half done, which a further
 * one completes.
 */
int check_image(struct header *header, struct store *file, const char *name,
                const struct check_options *options, struct check_result *result,
                struct error *error);

/*
 * What is wrong with the LUKS header of an image that has one, for options->report: how many
 * errors, or that it could not be read. No repair mends any of it, and none makes it dangerous to
 * write to the image: so it is apart from check_image(), and no key is needed.
 */
void check_encryption(const struct header *header, struct store *file, const char *name,
                      const struct check_options *options, uint64_t *errors, uint64_t *unreadable);

/* Whether nothing is left that makes it dangerous to write to the image. */
static inline bool check_is_clean(const struct check_result *result)
{
    return result->unreadable == 0 && result->overlaps == 0 &&
           result->errors == result->fixed_errors;
}

/*
 * Gives the image, of version 3 and clean, refcounts of 1 << `order` bits: counts
 * all references, clears unknown autoclear features (R6), and writes the counts
 * anew (see width.c). options->repair_... mean nothing. 0, or a negative errno with
 * a sentence: -ERANGE where a cluster has more references than such a count can
 * say, -EUCLEAN for a damaged image, -ENOTSUP on a block device; then the refcounts
 * are as they were.
 */
int check_change_width(struct header *header, struct store *file, const char *name, uint32_t order,
                       const struct check_options *options, struct error *error);

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
