/* SPDX-License-Identifier: MIT */
/*
 * A damaged image as it was, as well as can be deduced: a store (store/patched.h) that shows the
 * file with a header, an L1 table and L2 entries that fit what is in it, for image_open() to read
 * like any other. Nothing is written.
 *
 * What the tables say is believed where it can be. Where not: header fields are deduced from the
 * tables, or given; the cluster size from how L2 entries are aligned; an L1 table is found by its
 * contents; an entry of it comes from a snapshot's copy, or names an L2 table that was recognised
 * by its contents, which nothing else refers to; an L2 entry is the one that a snapshot has there,
 * or names the cluster that is left between those of its neighbours. What leads nowhere stays:
 * reading it is -EIO.
 *
 *     salvage.c          the order of it all, and what is told
 *     salvage_header.c   header fields, the cluster size
 *     salvage_tables.c   L1 tables
 *     salvage_copies.c   L1 tables of snapshots that the snapshot table does not tell
 *     salvage_size.c     the size of the disk, also by its table of partitions
 *     salvage_places.c   where L2 tables that nothing names belong
 *     salvage_entries.c  L2 tables: recognising them
 *     salvage_repair.c   the entries of these
 *
 * Memory: a few bits for each cluster of the file, the L1 table (32 MiB), and
 * SALVAGE_PATCHES_MAX of L2 tables. Time: the file is read once or twice, each table a few times;
 * what compares each with each has bounds (SALVAGE_COMPARED_MAX, and in each file its own).
 */
#ifndef ADMIN_SALVAGE_H
#define ADMIN_SALVAGE_H

#include "store/file.h"
#include "util/error.h"
#include "util/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Behind the end of any file: what is lost is named there, so that reading it is -EIO. */
#define SALVAGE_LOST (UINT64_C(1) << 53)

#define SALVAGE_PATCHES_MAX (UINT64_C(256) << 20) /* bytes */

enum salvage_certainty {
    SALVAGE_CERTAIN,
    SALVAGE_DEDUCED, /* or given */
    SALVAGE_MISSING,
};

struct salvage_fact {
    enum salvage_certainty certainty;
    const char *what; /* a word that does not change: "cluster-size" */
    uint64_t count;   /* of entries; of a field its value */
    const char *how;  /* a few words, or NULL */
};

#define SALVAGE_FACTS_MAX 32

struct salvage_report {
    uint64_t file_size; /* of the image as it is, bytes */
    struct salvage_fact facts[SALVAGE_FACTS_MAX];
    size_t count;
};

struct salvage_options {
    /* 0: not given. */
    uint64_t cluster_size, virtual_size, l1_offset; /* bytes */
    /* The callback runs in the calling thread, and may be NULL. */
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
};

/*
 * Takes `file`, whose name is `path`, over in each case; *store is the caller's to close. 0, or a
 * negative errno with a sentence.
 */
int salvage_open(struct store *file, const char *path, const struct salvage_options *options,
                 struct store **store, struct salvage_report *report, struct error *error);

/* As JSON for the caller to free. */
struct json *salvage_json(const struct salvage_report *report, const char *path);

/* "certain", "deduced", "missing" */
const char *salvage_certainty_name(enum salvage_certainty certainty);

#endif
