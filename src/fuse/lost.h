/* SPDX-License-Identifier: MIT */
/*
 * What the kernel handed over and could not be put into the image. A program
 * that writes is told of its own failures; but what comes from the kernel's
 * page cache was acknowledged long before, and the kernel tells whoever syncs
 * next, once. So the ranges are remembered (R7): every flush fails, and so does
 * the daemon at its end, until they have been written again. Then the image has
 * what was written last.
 *
 * A leaf mutex, and none at all while nothing is lost.
 */
#ifndef FUSE_LOST_H
#define FUSE_LOST_H

#include "util/error.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOST_RANGES_MAX 4096 /* with more of them apart, nothing takes the last away any more */

/* Bytes of the disk, [from, to). */
struct lost_range {
    uint64_t from, to;
};

struct lost {
    atomic_int result;         /* the negative errno of the first failure; 0: nothing is lost */
    pthread_mutex_t mutex;     /* guards what follows */
    struct lost_range *ranges; /* by their beginning, none touching another */
    size_t count;
    bool has_too_many; /* or no memory for one more: lost for good */
};

void lost_init(struct lost *lost);
void lost_release(struct lost *lost);

/* A write of the kernel's to [from, to) failed with `result`. */
void lost_add(struct lost *lost, uint64_t from, uint64_t to, int result);

/* [from, to) was written, or zeroed: not to be called while lost_result() is 0. */
void lost_remove(struct lost *lost, uint64_t from, uint64_t to);

/* 0, or what a flush is to be answered with whatever it did. */
static inline int lost_result(const struct lost *lost)
{
    return atomic_load_explicit(&lost->result, memory_order_acquire);
}

/* 0; or the negative errno, with a sentence that says how much, and where. */
int lost_explain(struct lost *lost, const char *image, struct error *error);

#endif
