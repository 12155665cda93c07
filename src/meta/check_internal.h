/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the checker share: check.c (the order of it all),
 * check_walk.c (L1 and L2 tables), check_references.c (counts what refers to
 * what), check_refcounts.c (compares with the refcounts, and corrects them in
 * place), check_copied.c (the COPIED bits), check_rebuild.c (new blocks).
 */
#ifndef META_CHECK_INTERNAL_H
#define META_CHECK_INTERNAL_H

#include "meta/check.h"
#include "meta/check_counts.h"

#include <stddef.h>

#define CHECK_READ_SIZE ((size_t)1 << 20) /* bytes of one read, or a cluster where that is more */

/* What is to be repaired. */
struct check_plan {
    bool raise;   /* counts, in place */
    bool lower;   /* counts, in place */
    bool copied;  /* COPIED bits */
    bool rebuild; /* the refcount table and all blocks */
};

struct check {
    struct header *header;
    struct store *file;
    const char *name;
    const struct check_options *options;
    struct check_result *result;
    struct error *error;
    bool quiet; /* findings were reported already: they are only counted */

    uint64_t file_size; /* bytes, in whole sectors */
    uint64_t limit;     /* clusters: of the file, and what is referred to right behind its end */
    bool block_device;  /* its size is not that of the image */
    uint8_t *buffer;    /* of buffer_size bytes, for the walk or the blocks */
    size_t buffer_size;

    /*
     * The references of each cluster; from check_compare() on, what its count
     * is to be: that of the file where it is not repaired.
     */
    struct check_counts *counts;
    bool references_unknown; /* some entry leads nowhere */
    bool saturated;          /* some cluster has more references than its count can say */

    uint64_t *blocks;        /* host offsets of the refcount blocks, 0: none that could be one */
    uint64_t table_entries;  /* how many */
    uint64_t block_counts;   /* counts in a block */
    uint64_t unsound_blocks; /* each is an error */
    bool missing_blocks;
    bool table_shared; /* something else refers to clusters of the refcount table */

    struct check_plan plan;
    uint64_t too_low, too_high, wrong_copied; /* findings that are repaired together */

    uint64_t work_done, work_total; /* L1 entries, for progress() */
};

/* --- check.c ----------------------------------------------------------------------- */

/* Counts the finding, and reports it. */
void check_found(struct check *check, enum check_finding finding, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Sets the error for a call of the host that failed while `what` was done. */
int check_failed(const struct check *check, int result, const char *what);

/* Makes what was written stable. */
int check_sync(const struct check *check);

/*
 * Reads the tables of one cluster each at `offsets` that follow each other in
 * the file, from the first on, to the buffer: as many as fit, *read of them.
 */
int check_read_run(struct check *check, const uint64_t *offsets, size_t count, size_t *read);

/* --- check_walk.c ------------------------------------------------------------------ */

/* A range of bytes that was changed; none where end is 0. */
struct check_dirty {
    size_t begin, end;
};

void check_dirty_add(struct check_dirty *dirty, size_t begin, size_t length);

struct check_visitor {
    /*
     * An entry that names a table. It may be changed (*changed). Returns whether
     * the walk is to go on in the table: 1, 0, or a negative errno.
     */
    int (*l1_entry)(struct check *check, uint64_t index, uint64_t *entry, bool *changed);
    /* The whole table; what is changed of it is written. 0 or a negative errno. */
    int (*l2_table)(struct check *check, uint64_t host_offset, uint8_t *table,
                    struct check_dirty *dirty);
};

/*
 * Shows all entries of an L1 table, and the L2 tables below, in order. A table
 * that cannot be read is a finding, no error.
 */
int check_walk(struct check *check, uint64_t l1_offset, uint64_t entries,
               const struct check_visitor *visitor);

/* --- check_references.c ------------------------------------------------------------ */

/* Counts all; with_refcounts: also the refcount table and its blocks. */
int check_count_references(struct check *check, bool with_refcounts);

/* Whether an L2 entry that is not compressed names a host cluster. */
bool check_has_host_cluster(const struct header *header, uint64_t entry);

/* --- check_refcounts.c ------------------------------------------------------------- */

/* Reads the refcount table; what cannot be a block in it is a finding. */
int check_open_refcounts(struct check *check);

/* Sets check->missing_blocks: where something is referred to that no block counts. */
void check_find_missing_blocks(struct check *check);

/* Compares the counts in the file with the references. */
int check_compare(struct check *check);

/* Writes the counts that are too low, or those that are too high. */
int check_correct_counts(struct check *check, bool raise);

/* --- check_copied.c ---------------------------------------------------------------- */

int check_copied_bits(struct check *check);

/* --- check_rebuild.c --------------------------------------------------------------- */

/*
 * Makes a new refcount table with new blocks, of the references without the old
 * ones, in the clusters from `first` on, which nothing uses.
 */
int check_rebuild(struct check *check, uint64_t first);

#endif
