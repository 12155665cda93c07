/* SPDX-License-Identifier: MIT */
/*
 * Locks on ranges of numbers: guest clusters that are being given other host
 * clusters, blocks of a file that are being changed in part. Who wants a number
 * that is held waits; all others go on.
 *
 * Who came first goes first: a range waits for all that overlap it and were
 * asked for earlier, whether those are held or wait themselves. So one that is
 * large gets its turn, however many small ones come and go. A thread must not
 * ask for a range while it holds another of the same locks: somebody who waits
 * for the one could stand before it.
 *
 *     queue:  held [0,4] - held [9,9] - waits [0,99] - waits [2,2] - held ...
 *
 * The queue is as long as there are threads that hold a range, or wait; a
 * search through it costs less than anything cleverer. Each who waits is woken
 * by a condition of its own: with one for all, every release would wake all of
 * them, mostly in vain.
 */
#ifndef UTIL_RANGE_LOCK_H
#define UTIL_RANGE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct range_lock {
    uint64_t first, last;    /* both are in it */
    struct range_lock *next; /* asked for later */
    bool waits;
    pthread_cond_t freed; /* only while it waits: one that overlaps it was released */
};

struct range_locks {
    pthread_mutex_t mutex;
    struct range_lock *queue; /* held or waited for, in the order in which they were asked for */
};

static inline void range_locks_init(struct range_locks *locks)
{
    pthread_mutex_init(&locks->mutex, NULL);
    locks->queue = NULL;
}

static inline void range_locks_destroy(struct range_locks *locks)
{
    pthread_mutex_destroy(&locks->mutex);
}

static inline bool range_lock_overlaps(const struct range_lock *one, const struct range_lock *other)
{
    return one->first <= other->last && other->first <= one->last;
}

/* Whether one that was asked for earlier overlaps it. `lock` is in the queue, or comes last. */
static inline bool range_locks_must_wait(const struct range_locks *locks,
                                         const struct range_lock *lock)
{
    const struct range_lock *earlier;

    for (earlier = locks->queue; earlier != NULL && earlier != lock; earlier = earlier->next) {
        if (range_lock_overlaps(earlier, lock)) {
            return true;
        }
    }
    return false;
}

static inline struct range_lock **range_locks_find(struct range_locks *locks,
                                                   const struct range_lock *lock)
{
    struct range_lock **link = &locks->queue;

    while (*link != lock) {
        link = &(*link)->next;
    }
    return link;
}

/* With the mutex held, which is given up meanwhile. */
static inline void range_lock_wait(struct range_locks *locks, struct range_lock *lock)
{
    pthread_cond_init(&lock->freed, NULL);
    lock->waits = true;
    do {
        pthread_cond_wait(&lock->freed, &locks->mutex);
    } while (range_locks_must_wait(locks, lock));
    lock->waits = false;
    pthread_cond_destroy(&lock->freed);
}

/* Waits until all that overlaps lock->first to lock->last was released; holds them then. */
static inline void range_lock_take(struct range_locks *locks, struct range_lock *lock)
{
    pthread_mutex_lock(&locks->mutex);
    lock->next = NULL;
    lock->waits = false;
    *range_locks_find(locks, NULL) = lock;
    if (range_locks_must_wait(locks, lock)) {
        range_lock_wait(locks, lock);
    }
    pthread_mutex_unlock(&locks->mutex);
}

static inline void range_lock_release(struct range_locks *locks, struct range_lock *lock)
{
    struct range_lock **link, *waiting;

    pthread_mutex_lock(&locks->mutex);
    link = range_locks_find(locks, lock);
    *link = lock->next;
    for (waiting = *link; waiting != NULL; waiting = waiting->next) {
        if (waiting->waits && range_lock_overlaps(lock, waiting)) {
            pthread_cond_signal(&waiting->freed);
        }
    }
    pthread_mutex_unlock(&locks->mutex);
}

/* Whether somebody waits just now. For tests. */
static inline bool range_locks_waited_for(struct range_locks *locks)
{
    const struct range_lock *lock;
    bool found = false;

    pthread_mutex_lock(&locks->mutex);
    for (lock = locks->queue; lock != NULL && !found; lock = lock->next) {
        found = lock->waits;
    }
    pthread_mutex_unlock(&locks->mutex);
    return found;
}

#endif
