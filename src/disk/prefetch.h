/* SPDX-License-Identifier: MIT */
/*
 * Work that is done ahead of a reader, on processors that have nothing to do:
 * decompressing what it will ask for next.
 *
 *     |  done  | request | jobs: one for each step  |
 *              ^ a read  ^ where the next is expected
 *                             ^ next job            ^ limit
 *
 * A few readings are told apart. One is sequential when its reads begin where
 * the last one ended, and the further that goes on the further ahead its jobs
 * may be. A read that is long is cut into jobs, too, which the reader itself
 * and the threads share. A job that the reader gets to first is the reader's.
 *
 * The readers are callers, and the threads helpers, of util/helpers.h. Any thread may call.
 */
#ifndef IMAGE_PREFETCH_H
#define IMAGE_PREFETCH_H

#include <stdbool.h>
#include <stdint.h>

/* Does the job [offset, offset + length). It runs in any thread, and has nobody to tell errors. */
typedef void prefetch_fn(void *context, uint64_t offset, uint64_t length);

struct prefetch_options {
    prefetch_fn *job;
    void *context;
    uint64_t step;      /* bytes of a job, a power of two */
    uint64_t long_read; /* bytes of a read that may overtake others; 0: a step */
    uint64_t window;    /* bytes that may be done ahead of each of PREFETCH_READINGS readings */
    unsigned threads;   /* at most, with the readers */
};

#define PREFETCH_READINGS 4

struct prefetch;

/* 0 or -ENOMEM. */
int prefetch_create(const struct prefetch_options *options, struct prefetch **prefetch);

/* Returns when no job is being done, and the threads have ended. `prefetch` may be NULL. */
void prefetch_destroy(struct prefetch *prefetch);

/*
 * A read of these bytes begins: wakes or starts threads for what is worth it.
 * Returns whether it is part of a sequential reading.
 */
bool prefetch_begin(struct prefetch *prefetch, uint64_t offset, uint64_t length);

/* That read has ended. */
void prefetch_end(struct prefetch *prefetch);

/* The reader is at this part of its read: no job shall be begun there any more. */
void prefetch_claim(struct prefetch *prefetch, uint64_t offset, uint64_t length);

#endif
