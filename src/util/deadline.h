/* SPDX-License-Identifier: MIT */
/* A moment on the monotonic clock, and a condition whose pthread_cond_timedwait() goes by it. */
#ifndef UTIL_DEADLINE_H
#define UTIL_DEADLINE_H

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

/* Makes a condition whose waiting goes by the clock of these moments; pthread_cond_destroy() ends
 * it. */
static inline void deadline_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

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

static inline bool deadline_is_before(const struct timespec *one, const struct timespec *other)
{
    return one->tv_sec != other->tv_sec ? one->tv_sec < other->tv_sec
                                        : one->tv_nsec < other->tv_nsec;
}

#endif
