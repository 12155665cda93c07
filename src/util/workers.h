/* SPDX-License-Identifier: MIT */
/*
 * Work in order on several processors: jobs are made and taken back by one thread, in the order in
 * which they were made, and done by others in between.
 *
 *     workers_next() ... workers_submit()      a job is filled, and given away
 *          any thread: work(context, job)
 *     workers_oldest() ... workers_release()   the first that is left is done: what came of it
 *
 * The jobs are a ring of equal pieces of memory, zeros at first, which whoever made the workers
 * prepares and empties; what a job keeps (a buffer) stays there from round to round.
 *
 * The mutex is a leaf, and not held during the work. Only work() runs in other threads.
 */
#ifndef UTIL_WORKERS_H
#define UTIL_WORKERS_H

#include <stddef.h>

struct workers;

struct workers_options {
    unsigned threads; /* beside the one that calls; as many as can be started are */
    unsigned jobs;    /* at once */
    size_t job_size;  /* bytes */
    /* Does it. `thread` tells which, less than `threads`, or `threads` for the one that calls. */
    void (*work)(void *context, void *job, unsigned thread);
    void *context;
};

/* 0 or -ENOMEM. */
int workers_create(const struct workers_options *options, struct workers **workers);

/* Waits for work that is under way, and drops what is not begun. `workers` may be NULL. */
void workers_destroy(struct workers *workers);

/* Piece number `index` of the ring, to prepare it before the first job, or to empty it before
 * workers_destroy() when workers_drop() has been called. */
void *workers_job(struct workers *workers, unsigned index);

/* Ends the threads, as workers_destroy() does; the pieces are still there. */
void workers_drop(struct workers *workers);

/* The next piece to be filled; NULL where all are given away. */
void *workers_next(struct workers *workers);

/* Gives away what workers_next() said. */
void workers_submit(struct workers *workers);

/* The job that was given away first of those that are left, when it is done; NULL without any. */
void *workers_oldest(struct workers *workers);

/* What workers_oldest() said may be used again. */
void workers_release(struct workers *workers);

#endif
