/* SPDX-License-Identifier: MIT */
/*
 * What the suites of amending share: a small image in memory with zero clusters of every kind, in
 * the disk and in three snapshots; what it shows; and the change itself.
 */
#ifndef UNIT_AMEND_CASE_H
#define UNIT_AMEND_CASE_H

#include "memory_log.h"
#include "writer_case.h"

#include "admin/amend.h"
#include "check/check.h"

#include <stdbool.h>
#include <stdint.h>

#define AMEND_CLUSTER   UINT64_C(4096) /* bytes */
#define AMEND_CLUSTERS  UINT64_C(8)    /* of the disk */
#define AMEND_DISK      (AMEND_CLUSTERS * AMEND_CLUSTER)
#define AMEND_SECTOR    512
#define AMEND_SNAPSHOTS 3
#define AMEND_UNUSED    UINT64_C(6) /* clusters */

/* What it has, too, and no program knows. */
#define AMEND_EXTENSION      UINT32_C(0x12345678)
#define AMEND_EXTENSION_SIZE 600 /* bytes; those of builder_pattern() 60 */
#define AMEND_AUTOCLEAR      (UINT64_C(1) << 50)

/*
 * What is free in it holds something, and its header takes several sectors, so
 * that what does not lead to zeros, and what tears, is seen. `written`: the disk has
 * data where else it has zero clusters, as if it had gone back to a snapshot.
 */
struct store *amend_case_make_of(uint32_t version, bool backing, bool written);
struct store *amend_case_make(uint32_t version, bool backing); /* not written */

/* The image in a copy of the store, upon a backing file that is not zero where it wants one. */
struct image *amend_case_open(struct store *file, struct log_lines *log);

/* All that is shown, in the order of the disk and the snapshots. */
struct amend_shown {
    uint8_t bytes[AMEND_SNAPSHOTS + 1][AMEND_DISK];
};

void amend_case_show(struct store *file, struct amend_shown *shown);
void amend_case_expect(struct store *file, const struct amend_shown *expected);

/*
 * Amends a copy, which is returned; `log` (or NULL) has what is done to it. `expected` is what
 * amending has to return.
 */
struct store *amend_case_apply(struct store *file, const struct amend_change *change,
                               struct memory_log *log, int expected);

/* What a check finds, and, where it `repairs`, has mended. */
struct check_result amend_case_check(struct store *file, bool repairs);

/* What is dirty is repaired, as when it is opened to be written. */
void amend_case_mend(struct store *state);

#endif
