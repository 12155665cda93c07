/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the checker share: check.c (the order of it all),
 * check_walk.c (L1 and L2 tables), check_references.c (counts what refers to
 * what), check_snapshots.c and check_bitmaps.c (the tables of these),
 * check_refcounts.c (compares with the refcounts, and corrects them in place),
 * check_copied.c (the COPIED bits), check_rebuild.c (new blocks);
 * check_header.c (what can be checked at all) stands before them.
 */
#ifndef META_CHECK_INTERNAL_H
#define META_CHECK_INTERNAL_H

#include "check/check.h"
#include "check/counts.h"

#include <stddef.h>

#define CHECK_READ_SIZE ((size_t)1 << 20) /* bytes of one read, or a cluster where that is more */

/* What is to be repaired. */
struct check_plan {
    bool raise;   /* counts, in place */
    bool lower;   /* counts, in place */
    bool copied;  /* COPIED bits */
    bool rebuild; /* the refcount table and all blocks; a snapshot table with faults, too */
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
    struct check_counts *exclusive; /* 1: of a table that nothing else may refer to; 2: that does */
    bool references_unknown;        /* some entry leads nowhere, or into such a table */
    bool bitmaps_lost;              /* their directory is damaged */
    bool walk_cut;                  /* an L1 table names more L2 tables than can be */
    bool saturated;                 /* some cluster has more references than its count can say */

    /*
     * Where none of these is true and nothing is wrong, every COPIED bit of the
     * active state is right: all are set, and all counts are 1.
     */
    bool copied_clear;    /* some entry of the active state has it not */
    bool clusters_shared; /* some cluster has more than one reference */
    bool counts_wrong;    /* some cluster that is in use has another count in the file */

    uint8_t all_zero[CHECK_COUNTS_GROUP * sizeof(uint64_t)]; /* 64 counts of the file's width */
    uint8_t all_one[CHECK_COUNTS_GROUP * sizeof(uint64_t)];

    uint64_t *blocks;        /* host offsets of the refcount blocks, 0: none that could be one */
    uint64_t table_entries;  /* how many */
    uint64_t block_counts;   /* counts in a block */
    uint64_t unsound_blocks; /* each is an error */
    bool missing_blocks;
    bool table_shared;  /* something else refers to clusters of the refcount table */
    bool table_outside; /* it ends past the end of the file */

    /*
     * L2 tables, each with a number of its own: those that were walked, and how often those were
     * met again, by a snapshot and in the active state. However often, each is walked once more.
     */
    struct check_counts *tables_seen, *tables_again[2];
    uint64_t weight;    /* how many references, or findings, what is being looked at stands for */
    uint32_t hidden;    /* what is told of the data clusters that are being counted */
    bool sparse;        /* the file has holes: these need not be read */
    uint64_t allocated; /* what the file occupies, bytes */
    uint64_t unasked;   /* so much is looked at before holes are asked for, bytes */
    uint64_t hole_begin, hole_end; /* the hole of the file that was met last, bytes */

    struct check_snapshot *snapshots; /* header->snapshot_count of them */
    uint64_t snapshots_size;          /* of the table, bytes */
    uint64_t unsound_snapshots;       /* entries with faults, each is an error */
    bool stray_snapshots;             /* there are none, but the header names an impossible place */

    struct check_counts *leaked; /* 1: only one refers to it, whatever its count; NULL: none */

    struct check_plan plan;
    uint64_t too_low, too_high; /* findings that are repaired together */
    uint64_t uncountable;       /* references that a count of this width cannot say */
    uint64_t falsely_copied;    /* COPIED bits that are set where more than one reference is */
    uint64_t corrected_copied;  /* COPIED bits that are now as they should be */

    uint64_t work_done, work_total; /* L1 entries, for progress() */
    uint64_t work_shown;
};

/* --- check.c ----------------------------------------------------------------------- */

/*
 * Prepares what counting references needs: the size of the file, memory, the
 * snapshot table. check_close() gives it back, after a failure too.
 */
int check_open(struct check *check);
void check_close(struct check *check);

/* Counts the finding, and reports it. */
void check_found(struct check *check, enum check_finding finding, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Sets the error for a call of the host that failed while `what` was done. */
int check_failed(const struct check *check, int result, const char *what);

/* 0, or -EINTR and the error: whether it is to go on. Asked for each MiB that is read, at least. */
int check_go_on(const struct check *check);

/* R6: what an unknown autoclear feature refers to was not counted. 0, or failed. */
int check_clear_unknown(struct check *check);

/* Tells who wants to know how far it is. */
void check_progress(struct check *check);

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
    bool active; /* of the active state, not of a snapshot */
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
 * Shows all entries of an L1 table that lie in the file, and the L2 tables
 * below, in order. A table that cannot be read is a finding, no error. Of
 * impossibly many tables the first are shown, and check->walk_cut is set.
 */
int check_walk(struct check *check, uint64_t l1_offset, uint64_t entries,
               const struct check_visitor *visitor);

/*
 * Before the first of some walks, and behind the last: in between a table that was shown is not
 * shown again. The second shows it once more, with check->weight for all times.
 */
int check_walk_begin(struct check *check);
int check_walk_again(struct check *check, bool active, const struct check_visitor *visitor);
void check_walk_end(struct check *check);

/*
 * How many bytes from `offset` on, at most `length`, are known to be a hole of the file: they are
 * zeros, and need not be read. The host is asked once as many bytes were asked for here as the file
 * occupies: a sound image never gets there.
 */
uint64_t check_hole(struct check *check, uint64_t offset, uint64_t length);

/* After something was written: what was known of holes is not. */
void check_holes_forget(struct check *check);

/* --- ranges.c ---------------------------------------------------------------------- */

/* A range of the file that something claims; `owner` is the caller's. */
struct check_range {
    uint64_t begin, end;
    size_t owner;
};

/* Of [begin, end): claimed `weight` times, by `owner` among others, whose range begins last. */
typedef int check_segment_fn(struct check *check, void *context, uint64_t begin, uint64_t end,
                             const struct check_range *owner, uint64_t weight);

/* Shows what `count` ranges cover, each byte once. 0, a negative errno, or what `segment` returned.
 */
int check_segments(struct check *check, const struct check_range *ranges, size_t count,
                   check_segment_fn *segment, void *context);

/* --- check_references.c ------------------------------------------------------------ */

/*
 * Counts all; without with_refcounts, what is not replaced by a rebuild: neither
 * the refcount table and its blocks, nor a snapshot table with faults.
 */
int check_count_references(struct check *check, bool with_refcounts);

/*
 * One more reference to each cluster that [offset, offset + length) touches.
 * The last cluster need not be in the file as a whole; *inside tells whether
 * the range is in it apart from that.
 */
int check_count_inside(struct check *check, uint64_t offset, uint64_t length, enum check_use use,
                       bool *inside);
int check_count(struct check *check, uint64_t offset, uint64_t length, enum check_use use);

/* All that is below an L1 table, or a part of one: of the active state, or of snapshots. */
int check_count_l1(struct check *check, uint64_t l1_offset, uint64_t entries, bool active);

/* Whether an L2 entry that is not compressed names a host cluster. */
bool check_has_host_cluster(const struct header *header, uint64_t entry);

/* --- check_snapshots.c ------------------------------------------------------------- */

/* Reads the snapshot table; an entry with faults is a finding. */
int check_open_snapshots(struct check *check);

/* Where there are no snapshots, the header is to name no place of their table. */
int check_clear_snapshots(struct check *check);

/* Counts all that the snapshots refer to; with_table: also their table. */
int check_count_snapshots(struct check *check, bool with_table);

/* The table as it should be, for the caller to free; its size in bytes. 0 or a negative errno. */
int check_rewrite_snapshots(const struct check *check, uint8_t **table, uint64_t *size);

/* --- check_bitmaps.c --------------------------------------------------------------- */

int check_count_bitmaps(struct check *check);

/* --- check_refcounts.c ------------------------------------------------------------- */

/* Reads the refcount table; what cannot be a block in it is a finding. */
int check_open_refcounts(struct check *check);

/* Sets check->missing_blocks: where something is referred to that no block counts. */
void check_find_missing_blocks(struct check *check);

/* What the file says of a cluster past its end; 0 where it says nothing. */
uint64_t check_stored_count(const struct check *check, uint64_t cluster);

/* Compares the counts in the file with the references. */
int check_compare(struct check *check);

/* Writes the counts that are too low, or those that are too high. */
int check_correct_counts(struct check *check, bool raise);

/* --- check_copied.c ---------------------------------------------------------------- */

int check_copied_bits(struct check *check);

/* --- check_rebuild.c --------------------------------------------------------------- */

/*
 * Makes a new refcount table with new blocks, of the references without the old
 * ones, in the clusters from `first` on, which nothing uses; and before them a
 * new snapshot table where the old one has faults.
 */
int check_rebuild(struct check *check, uint64_t first);

#endif
