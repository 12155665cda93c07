/* SPDX-License-Identifier: MIT */
/*
 * What each cluster of an image file is used for, and what no entry shows of those that are used:
 * what the audit judges, and what evidence is gathered from. The checker (check/check.h) finds all
 * references; here is kept what was first seen to refer to a cluster.
 *
 * Memory: that of the checker, and at most four bits for each cluster of the file (512 MiB for a
 * full file of 64 TiB with clusters of 64 KiB). Not for more than one thread.
 */
#ifndef ADMIN_USES_H
#define ADMIN_USES_H

#include "admin/inspect.h"
#include "check/check.h"
#include "check/counts.h"

#include <stdbool.h>
#include <stdint.h>

struct uses {
    struct check_counts *used; /* see uses_of() */
    struct check_counts
        *hidden;       /* of data clusters: the subclusters that no entry shows, a bit each */
    uint64_t clusters; /* of the file; the last one may be in it in part */
    struct check_result found;

    /* Clusters that are used for two things at once: how many; of the first one, where it is. */
    uint64_t overlaps;
    uint64_t overlap_offset; /* host offset, bytes */
    enum check_use overlap;  /* what it is also used for */
    enum check_use overlapped;
};

/* The callbacks run in the calling thread, and may be NULL. */
struct uses_options {
    void (*report)(void *context, enum check_finding finding, const char *line);
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
};

/*
 * Finds all uses, of an image for which inspect_obstacle() is NULL. `header` is a copy of its own,
 * of which the caller sees what the checker changed. 0; -ENOMEM; or another negative errno with a
 * sentence, where the references cannot be counted. uses_release() in each case.
 */
int uses_find(const struct inspection *image, struct header *header,
              const struct uses_options *options, struct uses *uses, struct error *error);
void uses_release(struct uses *uses);

/* What a cluster of the file was first seen used for. False: for nothing. */
bool uses_of(const struct uses *uses, uint64_t cluster, enum check_use *use);

/*
 * How many clusters from `cluster` on, which is in the file, are used alike, or are alike unused;
 * *used and *use as uses_of() has it.
 */
uint64_t uses_run(const struct uses *uses, uint64_t cluster, bool *used, enum check_use *use);

#endif
