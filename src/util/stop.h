/* SPDX-License-Identifier: MIT */
/*
 * Whether long work shall end before it is done. Who starts the work makes a
 * struct stop and hands it down; every loop whose length an image, or a request
 * of 2^63 bytes, decides asks stop_requested() in each round, and returns -EINTR.
 * There are three reasons: somebody wants it so (an interrupted request; `ask`
 * looks where nobody calls), the work that it belongs to ends (`also`: the daemon
 * does), or its time is over.
 *
 * Any thread may request it, at any time; nothing is owned, no lock is taken.
 */
#ifndef UTIL_STOP_H
#define UTIL_STOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct stop {
    atomic_bool requested;
    const struct stop *also;          /* what stops that stops this, too; NULL: nothing */
    uint64_t deadline;                /* nanoseconds on the monotonic clock; 0: none */
    bool (*ask)(const void *context); /* whether it is requested now, or NULL; cheap */
    const void *context;
};

static inline uint64_t stop_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline void stop_init(struct stop *stop, const struct stop *also)
{
    atomic_init(&stop->requested, false);
    stop->also = also;
    stop->deadline = 0;
    stop->ask = NULL;
    stop->context = NULL;
}

/* Also when `ask` says so. Before the work begins, by who made it. */
static inline void stop_ask(struct stop *stop, bool (*ask)(const void *context),
                            const void *context)
{
    stop->context = context;
    stop->ask = ask;
}

/* From now on it has `milliseconds`. Before the work begins, by who made it. */
static inline void stop_after(struct stop *stop, uint64_t milliseconds)
{
    stop->deadline = stop_clock() + milliseconds * 1000000;
}

static inline void stop_request(struct stop *stop)
{
    atomic_store_explicit(&stop->requested, true, memory_order_relaxed);
}

/* NULL: never. */
static inline bool stop_requested(const struct stop *stop)
{
    for (; stop != NULL; stop = stop->also) {
        if (atomic_load_explicit(&stop->requested, memory_order_relaxed) ||
            (stop->ask != NULL && stop->ask(stop->context)) ||
            (stop->deadline != 0 && stop_clock() >= stop->deadline)) {
            return true;
        }
    }
    return false;
}

#endif
