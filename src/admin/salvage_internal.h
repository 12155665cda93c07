/* SPDX-License-Identifier: MIT */
/* What the parts of salvaging share. */
#ifndef ADMIN_SALVAGE_INTERNAL_H
#define ADMIN_SALVAGE_INTERNAL_H

#include "admin/salvage.h"

#include "check/counts.h"
#include "meta/header.h"
#include "meta/snapshot.h"

/* Behind the end of any file, too: where the tables are that are made. */
#define SALVAGE_L1        (UINT64_C(1) << 54)
#define SALVAGE_REFCOUNTS (SALVAGE_L1 + (UINT64_C(64) << 20))

#define SALVAGE_COMPARED_MAX (UINT64_C(4) << 30) /* bytes of tables that are compared */

enum salvage_use { /* of a cluster, by what is believed */
    SALVAGE_FREE,
    SALVAGE_USED,
    SALVAGE_TWICE, /* as data of two entries */
    SALVAGE_TABLE, /* an L2 table */
};

enum salvage_look { /* of a cluster, by its contents */
    SALVAGE_LOOK_UNKNOWN,
    SALVAGE_LOOK_NOTHING,
    SALVAGE_LOOK_HARDLY, /* an L2 table with more faults than entries */
    SALVAGE_LOOK_SHARED, /* an L2 table of which nothing is its alone */
    SALVAGE_LOOK_TABLE,
};

enum salvage_entry {
    SALVAGE_ENTRY_EMPTY,
    SALVAGE_ENTRY_DATA,    /* names a cluster of the file */
    SALVAGE_ENTRY_OTHER,   /* compressed, or zeros */
    SALVAGE_ENTRY_OUTSIDE, /* names what was cut off */
    SALVAGE_ENTRY_BAD,
    SALVAGE_ENTRY_KINDS,
};

struct salvage_work {
    struct store *file; /* as it is */
    const char *path;
    uint64_t file_size; /* bytes */
    const struct salvage_options *options;
    struct salvage_report *report;
    struct error *error;
    struct store *patched;
    uint64_t patches; /* bytes of L2 tables in it */

    uint8_t *first;       /* the first cluster as it will be; of 2 MiB */
    struct header header; /* cluster size, features, sizes; what is derived from these */
    uint64_t clusters;    /* of the file */
    struct check_counts *uses;
    struct check_counts *looks; /* enum salvage_look of clusters that L1 entries may name */
    uint8_t *table;             /* a cluster */
    bool is_hole;               /* that is one of the host's, so all zeros */
    bool shared_too;            /* a table of which no entry is its alone may be one, too */

    uint64_t extent_begin, extent_end; /* of the host's last one that was asked for */
    bool extent_is_data;

    uint8_t *refcount_table; /* NULL where it cannot be used */
    uint8_t *refcount_block; /* a cluster */
    uint64_t block_index;    /* which it is; UINT64_MAX: none */

    struct snapshot_table *snapshots; /* NULL: none can be read */
    uint32_t snapshot_count;          /* of these */
    uint64_t *l1;                     /* host byte order; header.l1_entries of them */
    uint8_t *bad;                     /* of each: 1: it leads nowhere */
    /* L2 tables that nothing refers to, in the order of their offsets; 0: has its place by now. */
    uint64_t *orphans;
    size_t orphan_count;
    uint64_t asked;    /* entries of snapshots that were looked at for lost ones */
    uint64_t compared; /* bytes of tables that were read to compare them */
    uint64_t searched; /* clusters that were looked at for left ones */
    bool lost_tables;  /* some L1 entry leads nowhere, or to a table of which nothing is left */
};

void salvage_tell(struct salvage_work *work, enum salvage_certainty certainty, const char *what,
                  uint64_t count, const char *how);
int salvage_no_memory(struct salvage_work *work);

/* --- salvage_header.c */

/* Reads the first bytes; magic, version, cluster size, features. 0 or a negative errno. */
int salvage_begin_header(struct salvage_work *work);

/* Another cluster size, and kind of entries, than the header says, by the file's contents. */
int salvage_deduce_geometry(struct salvage_work *work);

/* Once the L1 table is known: a header that can be opened. */
int salvage_finish_header(struct salvage_work *work);

/* --- salvage_tables.c */

/* Finds the L1 table, and what its entries may be. */
int salvage_find_l1(struct salvage_work *work);

/* While the L1 table is looked for. */
struct salvage_l1 {
    struct salvage_work *work;
    uint64_t offset;    /* of the table that is believed */
    uint64_t good, bad; /* of its entries */
    bool has_vm_state;
    uint64_t deduced, from_snapshots, ruins, missing;
};

/* Whether no entry of [begin, end) names anything, and none is bad. */
bool salvage_is_empty(const struct salvage_work *work, uint64_t begin, uint64_t end);

/* Whether the entries there, and zeros behind them, are an L1 table: each that is none names an L2
 * table, or what was cut off. */
bool salvage_names_tables_alone(struct salvage_work *work, uint64_t offset, uint64_t entries);

/* The entry of a snapshot's L1 table; false: there is none, or it is 0. */
bool salvage_snapshot_entry(const struct salvage_work *work, const struct snapshot *snapshot,
                            uint64_t index, uint64_t *entry);

/* What the header says, or was given, of the disk's size in bytes, whatever that is. */
uint64_t salvage_recorded_size(const struct salvage_work *work);

/* --- salvage_copies.c */

/* Adds to work->snapshots the L1 tables of those that the snapshot table does not tell. 0 or
 * -ENOMEM. */
int salvage_find_copies(struct salvage_work *work);

/* --- salvage_size.c */

/* The disk's size, by what the header says if that can be. 0 or -ENOMEM. */
int salvage_settle_size(struct salvage_l1 *search);

/* --- salvage_places.c */

/* Finds tables for entries that lead nowhere; what is left of these is lost. 0 or -ENOMEM. */
int salvage_complete_l1(struct salvage_l1 *search);

/* --- salvage_entries.c */

/* Prepares for the cluster size that is known by now. */
int salvage_open_entries(struct salvage_work *work);
void salvage_close_entries(struct salvage_work *work);

/*
 * Whether the cluster at `offset` may be an L2 table; *whole: with hardly a fault. It is in
 * work->table then.
 */
bool salvage_is_table(struct salvage_work *work, uint64_t offset, bool *whole);

/* What the table in work->table names is used from here on; and itself, at `offset`. */
int salvage_use_table(struct salvage_work *work, uint64_t offset);

/* In how many entries the tables at these offsets name the same clusters for the same places. */
uint64_t salvage_alike(struct salvage_work *work, uint64_t one, uint64_t other);

/*
 * Whether what the tables at these offsets map was written in one go: the data of the other begins
 * where that of the one ends.
 */
bool salvage_follows(struct salvage_work *work, uint64_t one, uint64_t other);

/*
 * Of how many bytes from here on, which is in the file, the host keeps nothing; 0: it does, or that
 * is not known. Cheap in the order of the file: some hosts look through all of it to answer.
 */
uint64_t salvage_hole(struct salvage_work *work, uint64_t offset);

#define SALVAGE_COUNT_UNKNOWN UINT64_MAX

/* The refcount of a cluster. */
uint64_t salvage_count(struct salvage_work *work, uint64_t cluster);

/* Whether it may be in use: false only where its refcount is 0. */
bool salvage_is_counted(struct salvage_work *work, uint64_t cluster);

/* Fills work->orphans. */
int salvage_find_orphans(struct salvage_work *work);

/* Of the table in work->table. */
uint64_t salvage_entries_of(const struct salvage_work *work);
uint8_t *salvage_entry_at(const struct salvage_work *work, uint64_t index);
enum salvage_entry salvage_judge(const struct salvage_work *work, uint64_t entry);

/* An entry names the cluster as data. 0 or -ENOMEM. */
int salvage_use_data(struct salvage_work *work, uint64_t cluster);

/* --- salvage_repair.c */

/* Entries of all L2 tables that work->l1 names. */
int salvage_repair_entries(struct salvage_work *work);

#endif
