/* SPDX-License-Identifier: MIT */
/* What the parts of the audit share. */
#ifndef IMAGE_AUDIT_INTERNAL_H
#define IMAGE_AUDIT_INTERNAL_H

#include "admin/audit.h"

#define AUDIT_DATA_MAX   (UINT64_C(1) << 30) /* bytes of the disk that are searched for images */
#define AUDIT_TABLES_MAX (UINT64_C(1) << 29) /* bytes of L2 tables that are read at a time */

/* Adds a finding about this image of the chain. */
void audit_add(struct audit *audit, enum audit_grade grade, const char *code,
               const struct inspection *image, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* The same, with a host offset. */
void audit_add_at(struct audit *audit, enum audit_grade grade, const char *code,
                  const struct inspection *image, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

/* Its backing file, and its data file. */
void audit_names(struct audit *audit, const struct inspection *image);

void audit_slack(struct audit *audit, const struct inspection *image);

/* --- audit_contents.c: what clusters hold */

struct audit_nested { /* where a qcow2 image begins within the disk */
    uint64_t host_offset, virtual_size;
    uint32_t version;
    bool used;             /* a table refers to it */
    bool has_guest;        /* the active state does: */
    uint64_t guest_offset; /* bytes */
};

struct audit_entry { /* of an old snapshot table */
    uint64_t l1_offset, date;
};

struct audit_contents {
    struct audit *audit;
    const struct inspection *image;
    uint64_t data_left; /* bytes that may still be searched */

    struct audit_nested nested[AUDIT_LIST_MAX];
    size_t nested_count;  /* that there are */
    bool guests_left_out; /* not all tables were asked for where they are on the disk */
    struct audit_entry entries[AUDIT_LIST_MAX];
    size_t entry_count; /* that were told */
    bool entries_left_out;

    /* Pieces that nothing refers to: how many, and of which entropy. */
    uint64_t windows, random, plain;
    uint64_t entropy_sum;
    uint64_t first_window, first_random; /* host offsets, bytes */
};

/* Whole clusters, but at the end of the file, that nothing refers to, or that hold data. */
void audit_look_at_unused(struct audit_contents *contents, uint64_t host_offset,
                          const uint8_t *bytes, size_t length);
void audit_look_at_data(struct audit_contents *contents, uint64_t host_offset, const uint8_t *bytes,
                        size_t length);
void audit_tell_contents(struct audit_contents *contents);

/* --- audit_tables.c: what the order of tables tells */

/* Where on the disk what was found is. */
void audit_find_guests(struct audit_contents *contents);

/* What its header and its tables tell of the program that made it; snapshots that are missing. */
void audit_origin(struct audit *audit, const struct inspection *image);

/* --- audit_clusters.c */

void audit_clusters(struct audit *audit, const struct inspection *image,
                    const struct audit_options *options);

#endif
