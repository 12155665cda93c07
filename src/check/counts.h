/* SPDX-License-Identifier: MIT */
/*
 * One number for each host cluster of a file, mostly 0 or 1: what check.c has
 * counted.
 *
 *     chunks   [ none ][ 1 bit ][ 8 bits ][ none ] ...   each of 65536 clusters
 *
 * A chunk takes memory from its first number that is not 0 on, one bit a
 * cluster at first, and is packed anew, twice or more as wide, when a number
 * does not fit. A file of 64 TiB with clusters of 64 KiB, full, takes 128 MiB so
 * for as long as nothing is shared, 256 MiB or 512 MiB with few snapshots.
 *
 * Not for more than one thread.
 */
#ifndef META_CHECK_COUNTS_H
#define META_CHECK_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

struct check_counts;

/* For the clusters 0 to clusters - 1, all 0. 0 or -ENOMEM. */
int check_counts_create(uint64_t clusters, struct check_counts **counts);
void check_counts_destroy(struct check_counts *counts);

/* Makes room for more clusters. 0 or -ENOMEM. */
int check_counts_grow(struct check_counts *counts, uint64_t clusters);

/* 0 for a cluster that there is no room for. */
uint64_t check_counts_get(const struct check_counts *counts, uint64_t cluster);

/* 0; -ENOMEM; -ERANGE for a cluster that there is no room for. */
int check_counts_set(struct check_counts *counts, uint64_t cluster, uint64_t count);

/*
 * Adds 1 to the numbers from `first` on, until it has done so for `length` of
 * them or one is `max` already; *done of them. *shared becomes true when one of
 * these was not 0 before. 0; -ENOMEM; -ERANGE where there is no room for all.
 */
int check_counts_add(struct check_counts *counts, uint64_t first, uint64_t length, uint64_t max,
                     uint64_t *done, bool *shared);

/*
 * What the 64 numbers from `first`, a multiple of 64, are, as far as that can be
 * said without looking at each.
 */
enum check_counts_group {
    CHECK_COUNTS_ZERO,  /* all are 0 */
    CHECK_COUNTS_ONE,   /* all are 1 */
    CHECK_COUNTS_MIXED, /* anything */
};

#define CHECK_COUNTS_GROUP 64

enum check_counts_group check_counts_group(const struct check_counts *counts, uint64_t first);

/* The first cluster in [from, limit) whose number is not 0; `limit` where there is none. */
uint64_t check_counts_next(const struct check_counts *counts, uint64_t from, uint64_t limit);

#endif
