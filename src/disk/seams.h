/* SPDX-License-Identifier: MIT */
/*
 * Requests that follow each other on the disk, and meet in the midst of a cluster: the kernel hands
 * over what was written in order in pieces of 1 MiB, which need not begin where a cluster does, and
 * several at once.
 *
 *     clusters   |     |     |     |     |     |     |
 *     requests      [------- one -------][--- other ---
 *                                     ^ ^ the two parts of a cluster
 *
 * Each offers its part before it does the rest; who comes second takes that of the first, and
 * writes the cluster as a whole for both. Neither has been answered before that, so for the rules
 * it is as if both parts had been written at once. A part that nobody takes its owner writes by
 * itself; he waits for somebody only where that has been worth it of late.
 *
 * Any thread may call. The mutex is a leaf. Who has taken a part waits for nobody before he has
 * answered, so nobody waits in a circle.
 */
#ifndef IMAGE_SEAMS_H
#define IMAGE_SEAMS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct seams;

/* What a request brings of a cluster. The first four are the caller's, who keeps it until it ends.
 */
struct seam_part {
    uint64_t cluster;  /* guest offset */
    uint64_t from, to; /* in it: one of them is an end of the cluster, the other is not */
    const uint8_t *data;

    enum {
        SEAM_OFFERED,
        SEAM_TAKEN,
        SEAM_ANSWERED
    } state;
    int result;
    struct seam_part *next;
    pthread_cond_t changed;
};

/* NULL when memory ran out. */
struct seams *seams_create(uint64_t cluster_size);
void seams_destroy(struct seams *seams); /* may be NULL */

/*
 * The other part of the same cluster, where it was offered: it is to be answered, soon. NULL, where
 * it was not: then `part` is offered, and to be ended with seams_end().
 */
struct seam_part *seams_meet(struct seams *seams, struct seam_part *part);

/* The part that was taken is written, or (a negative errno) may be; or 1: it is not. */
void seams_answer(struct seams *seams, struct seam_part *taken, int result);

/* Takes the offer back: 1, or the answer of who has taken it. */
int seams_end(struct seams *seams, struct seam_part *part);

#endif
