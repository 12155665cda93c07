/* SPDX-License-Identifier: MIT */
/*
 * For tests of races: lets other threads run, at a place where they seldom
 * would, so that what happens once in many hours happens all the time.
 */
#ifndef UNIT_PAUSE_H
#define UNIT_PAUSE_H

#include <stdint.h>
#include <time.h>

/*
 * One of `often` calls sleeps, for `usecs` and a little more. It does not
 * yield: where others spin, who yields gets nothing any more.
 */
static inline void pause_now(unsigned often, unsigned usecs)
{
    static _Thread_local unsigned turn;

    if (turn++ % often == 0) {
        nanosleep(&(struct timespec){.tv_nsec = (long)usecs * 1000}, NULL);
    }
}

static inline int64_t now_msecs(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

#endif
