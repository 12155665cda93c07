/* SPDX-License-Identifier: MIT */
/*
 * Locks on ranges of numbers: guest clusters that are being given other host
 * clusters, blocks of a file that are being changed in part. Who wants a number
 * that is held waits; all others go on.
 *
 * The lists are as long as there are threads that hold one, or wait; a search
 * through them costs less than anything cleverer. Each who waits is woken by a
 * condition of its own: with one for all, every release would wake all of them,
 * mostly in vain.
 */
#ifndef UTIL_RANGE_LOCK_H
#define UTIL_RANGE_LOCK_H

#include <pthread.h>
#include <stdint.h>

struct range_lock {
    uint64_t first, last; /* both are in it */
    struct range_lock *next;
    pthread_cond_t freed; /* only while it waits: part of the range was given up */
};

struct range_locks {
    pthread_mutex_t mutex;
    struct range_lock *held;
    struct range_lock *waiting;
};

static inline void range_locks_init(struct range_locks *locks)
{
    pthread_mutex_init(&locks->mutex, NULL);
    locks->held = NULL;
    locks->waiting = NULL;
}

static inline void range_locks_destroy(struct range_locks *locks)
{
    pthread_mutex_destroy(&locks->mutex);
}

static inline int range_lock_overlaps(const struct range_lock *one, const struct range_lock *other)
{
    return one->first <= other->last && other->first <= one->last;
}

static inline int range_locks_overlap(const struct range_locks *locks,
                                      const struct range_lock *lock)
{
    const struct range_lock *held;

    for (held = locks->held; held != NULL; held = held->next) {
        if (range_lock_overlaps(held, lock)) {
            return 1;
        }
    }
    return 0;
}

static inline void range_lock_unlink(struct range_lock **link, const struct range_lock *lock)
{
    while (*link != lock) {
        link = &(*link)->next;
    }
    *link = lock->next;
}

/* With the mutex held, which is given up meanwhile. */
static inline void range_lock_wait(struct range_locks *locks, struct range_lock *lock)
{
    pthread_cond_init(&lock->freed, NULL);
    lock->next = locks->waiting;
    locks->waiting = lock;
    do {
        pthread_cond_wait(&lock->freed, &locks->mutex);
    } while (range_locks_overlap(locks, lock));
    range_lock_unlink(&locks->waiting, lock);
    pthread_cond_destroy(&lock->freed);
}

/* Waits until nobody holds a number of lock->first to lock->last; holds them then. */
static inline void range_lock_take(struct range_locks *locks, struct range_lock *lock)
{
    pthread_mutex_lock(&locks->mutex);
    if (range_locks_overlap(locks, lock)) {
        range_lock_wait(locks, lock);
    }
    lock->next = locks->held;
    locks->held = lock;
    pthread_mutex_unlock(&locks->mutex);
}

static inline void range_lock_release(struct range_locks *locks, struct range_lock *lock)
{
    struct range_lock *waiting;

    pthread_mutex_lock(&locks->mutex);
    range_lock_unlink(&locks->held, lock);
    for (waiting = locks->waiting; waiting != NULL; waiting = waiting->next) {
        if (range_lock_overlaps(lock, waiting)) {
            pthread_cond_signal(&waiting->freed);
        }
    }
    pthread_mutex_unlock(&locks->mutex);
}

#endif
