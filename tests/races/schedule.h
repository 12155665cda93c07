/* SPDX-License-Identifier: MIT */
/*
 * Decides which thread runs. The linker brings every lock, condition and
 * thread of the program here (--wrap), and the store calls schedule_point(), so
 * that there are two ways to run the same code:
 *
 *     serial   one thread at a time. At each of these points the schedule may
 *              put the thread to sleep for a number of points, and have another
 *              go on, as the seed says: the same seed gives the same run, to
 *              the last byte. Timeouts come when the schedule wants them. Where
 *              nobody can run any more, that is a deadlock, and is reported.
 *     free     all at once on real locks, with sleeps at the same points: what
 *              ThreadSanitizer needs, and what finds races between points.
 *
 * What is between two points of a serial run is never interrupted.
 */
#ifndef RACES_SCHEDULE_H
#define RACES_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

struct schedule_options {
    bool free;
    uint64_t seed;
    unsigned often;   /* one of so many points is a pause */
    unsigned longest; /* points, or microseconds, that a pause lasts at most */
};

/* The calling thread is the first; from here on those that it creates belong to the schedule. */
void schedule_begin(const struct schedule_options *options);

/* All other threads have been joined. */
void schedule_end(void);

/* Others may run here. */
void schedule_point(void);

/* How many points there were; and how often another thread went on. */
uint64_t schedule_points(void);
uint64_t schedule_switches(void);

/* Called, with no thread able to run, before the program is ended. */
void schedule_on_deadlock(void (*report)(void));

#endif
