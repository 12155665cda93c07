/* SPDX-License-Identifier: MIT */
/* A moment on the monotonic clock, for pthread_cond_timedwait() of a condition that goes by it. */
#ifndef UTIL_DEADLINE_H
#define UTIL_DEADLINE_H

#include <time.h>

/* So many milliseconds from now. */
static inline struct timespec deadline_after(unsigned milliseconds)
{
    const long second = 1000000000;
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += milliseconds / 1000;
    time.tv_nsec += (long)(milliseconds % 1000) * 1000000;
    if (time.tv_nsec >= second) {
        time.tv_sec++;
        time.tv_nsec -= second;
    }
    return time;
}

#endif
