/* SPDX-License-Identifier: MIT */
/*
 * What somebody who examines an image should know of it, as graded findings:
 * what could mislead, what is hidden, what nothing refers to. Reads, and changes
 * nothing. Works with images that cannot be opened, as far as they can be
 * understood.
 *
 *     audit.c           what the header says
 *     audit_names.c     the files that it names
 *     audit_slack.c     bytes that lie behind the end of a table
 *     audit_clusters.c  which clusters of the file nothing, or too much, refers to
 *     audit_contents.c  what these hold, and data clusters: images, old snapshot tables, entropy
 *     audit_tables.c    who made the image, by its header and the order of its tables
 *
 * Memory: that of the checker (check/check.h), and at most four bits for each
 * cluster of the file (512 MiB for a full file of 64 TiB with clusters of 64 KiB).
 */
#ifndef IMAGE_AUDIT_H
#define IMAGE_AUDIT_H

#include "admin/inspect.h"
#include "check/check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUDIT_LIST_MAX 64 /* findings of one kind; one more then tells how many are left out */

enum audit_grade {
    AUDIT_NOTE,    /* good to know */
    AUDIT_WARNING, /* may surprise, or hide something */
    AUDIT_DANGER,  /* data is lost or wrong, or another file than expected may be read */
};

struct audit_finding {
    enum audit_grade grade;
    const char *code; /* a word that does not change: "snapshot", "leaked-clusters" */
    char *file;       /* the image of the chain that it is about */
    char *text;       /* one sentence, nothing in it that a terminal obeys */
    bool has_offset;
    uint64_t offset; /* host offset, bytes */
};

struct audit {
    struct audit_finding *findings;
    size_t count;
    bool counted;                 /* the clusters of the active image: */
    struct check_result clusters; /* as check/check.h counts them */
    bool incomplete;              /* memory ran out on the way */
};

/* The callbacks run in the calling thread, and may be NULL. */
struct audit_options {
    /* Something begins that takes long: what it does, and the unit of progress; NULL: bytes. */
    void (*phase)(void *context, const char *what, const char *unit);
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
};

/*
 * Headers, names, snapshots and bitmaps of the whole chain; slack and clusters
 * of the active image. -ENOMEM.
 */
int audit_image(const struct inspection *inspection, const struct audit_options *options,
                struct audit **audit);
void audit_free(struct audit *audit);

/* "note", "warning", "danger" */
const char *audit_grade_name(enum audit_grade grade);

#endif
