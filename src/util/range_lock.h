/* SPDX-License-Identifier: MIT */
/*
 * Locks on ranges of numbers: guest clusters that are being given other host
 * clusters, blocks of a file that are being changed in part. Who wants a number
 * that is held waits; all others go on.
 *
 * The list is as long as there are threads that hold one; a search through it
 * costs less than anything cleverer.
 */
#ifndef UTIL_RANGE_LOCK_H
#define UTIL_RANGE_LOCK_H

#include <pthread.h>
#include <stdint.h>

struct range_lock {
    uint64_t first, last; /* both are in it */
    struct range_lock *next;
};

struct range_locks {
    pthread_mutex_t mutex;
    pthread_cond_t released;
    struct range_lock *held;
};

static inline void range_locks_init(struct range_locks *locks)
{
    pthread_mutex_init(&locks->mutex, NULL);
    pthread_cond_init(&locks->released, NULL);
    locks->held = NULL;
}

static inline void range_locks_destroy(struct range_locks *locks)
{
    pthread_cond_destroy(&locks->released);
    pthread_mutex_destroy(&locks->mutex);
}

static inline int range_locks_overlap(const struct range_locks *locks,
                                      const struct range_lock *lock)
{
    const struct range_lock *held;

    for (held = locks->held; held != NULL; held = held->next) {
        if (held->first <= lock->last && lock->first <= held->last) {
            return 1;
        }
    }
    return 0;
}

/* Waits until nobody holds a number of lock->first to lock->last; holds them then. */
static inline void range_lock_take(struct range_locks *locks, struct range_lock *lock)
{
    pthread_mutex_lock(&locks->mutex);
    while (range_locks_overlap(locks, lock)) {
        pthread_cond_wait(&locks->released, &locks->mutex);
    }
    lock->next = locks->held;
    locks->held = lock;
    pthread_mutex_unlock(&locks->mutex);
}

static inline void range_lock_release(struct range_locks *locks, struct range_lock *lock)
{
    struct range_lock **link = &locks->held;

    pthread_mutex_lock(&locks->mutex);
    while (*link != lock) {
        link = &(*link)->next;
    }
    *link = lock->next;
    pthread_cond_broadcast(&locks->released);
    pthread_mutex_unlock(&locks->mutex);
}

#endif
