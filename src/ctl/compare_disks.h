/* SPDX-License-Identifier: MIT */
/*
 * Two disks, gone through side by side: whether they hold the same bytes, or all ranges where they
 * do not.
 *
 * The maps of both are walked by one thread, and what at least one of them has data for is read
 * and compared by others: nothing is read where both read as zeros without it, or show the same
 * bytes of the same file, or one L2 table says what both have.
 */
#ifndef CTL_COMPARE_DISKS_H
#define CTL_COMPARE_DISKS_H

#include "ctl/disk.h"
#include "util/progress.h"
#include "util/workers.h"

#define COMPARE_SECTOR UINT64_C(512) /* ranges begin and end at multiples of this, or at an end */

/* The exit status: those of qemu-img compare. */
enum compare_status {
    COMPARE_EQUAL = 0,
    COMPARE_DIFFERENT = 1,
    COMPARE_FAILED = 2,
};

enum difference {
    DIFFERENCE_NONE,
    DIFFERENCE_BYTES,
    DIFFERENCE_SIZE,
    DIFFERENCE_ALLOCATION, /* one has data where the other has none */
};

/* What one of the disks has at a position. */
struct compare_side {
    struct ctl_disk disk;
    const char *path;
    bool shares_image; /* the second's is the first's: both are states of one image */
    struct disk_walk walk;
};

/* A range in which they differ, as far as it goes; in order. 0 or a negative errno with ctl->error.
 */
typedef int compare_range_fn(void *context, uint64_t offset, uint64_t length);

struct comparison {
    struct ctl *ctl;
    bool strict;             /* different sizes, and data in one where the other has none, count */
    compare_range_fn *range; /* for each; NULL: what is first is found, and nothing behind it */
    void *context;
    struct compare_side sides[2];
    enum difference found; /* the result, and where: its offset, bytes; with `range` not set */
    uint64_t offset;

    uint64_t position, end;          /* of both, bytes: what is planned, and the longer size */
    uint64_t range_begin, range_end; /* what is not told yet, bytes; empty where they are equal */
    struct workers *workers;
    struct progress progress;
    struct error planned; /* what is wrong with a map, behind the jobs made so far */
};

/*
 * Opens both disks. The second of the same path and format is opened once with the first. 0, or a
 * negative errno with a sentence in ctl->error; compare_close() it then, too.
 */
int compare_open(struct comparison *comparison, const struct ctl_disk_request requests[2],
                 const struct common_flags *flags);
void compare_close(struct comparison *comparison);

/* Compares them. 0, whatever was found; or a negative errno with a sentence in ctl->error. */
int compare_disks(struct comparison *comparison);

#endif
