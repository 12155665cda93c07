/* SPDX-License-Identifier: MIT */
/*
 * Those who wait for answers on a connection, of whom one polls, for all.
 *
 * Answers wake those alone whose they are; who leaves has one other woken to poll. Nobody is woken
 * while the connection's mutex is held, nor needs it to see that all is answered: else who wakes
 * another is pushed aside by it with the mutex held, and all wait for both.
 *
 *     nbd_waiters_add(), unlock, nbd_waiter_wait()       who waits
 *     nbd_waiters_one_less(), nbd_waiters_choose(),
 *     nbd_waiters_take(), unlock, nbd_waiters_wake()     who polls, or gives up the connection
 *
 * Whoever takes a waiter out of the list wakes it, once, and that is the last that is seen of it:
 * it may be gone then. The lists are guarded by the connection's mutex. Internal to the store.
 */
#ifndef STORE_NBD_WAITERS_H
#define STORE_NBD_WAITERS_H

#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>

struct nbd_waiter {
    _Atomic size_t pending;          /* requests that are not answered; counted up by who asks */
    sem_t wake;                      /* nothing is pending any more, or it is to poll */
    struct nbd_waiter *next, **link; /* link is NULL: it is not in the list of those that wait */
};

/* All NULL at first. */
struct nbd_waiters {
    struct nbd_waiter *waiting; /* the last that was added first */
    struct nbd_waiter *ended;   /* out of that list, and not woken yet */
};

void nbd_waiter_init(struct nbd_waiter *waiter);
void nbd_waiter_destroy(struct nbd_waiter *waiter);

/* Without the mutex. Whether all is answered; else it was chosen to poll. */
bool nbd_waiter_wait(struct nbd_waiter *waiter);

/* --- With the mutex held ---------------------------------------------------------------------- */

void nbd_waiters_add(struct nbd_waiters *waiters, struct nbd_waiter *waiter);

/* One of its requests is answered. Where it is in no list it is awake, or woken already. */
void nbd_waiters_one_less(struct nbd_waiters *waiters, struct nbd_waiter *waiter);

/* One of those that wait, if any, is to poll. */
void nbd_waiters_choose(struct nbd_waiters *waiters);

/* Those that are to be woken: by nbd_waiters_wake(), when the mutex is free. NULL: nobody. */
struct nbd_waiter *nbd_waiters_take(struct nbd_waiters *waiters);

/* --- Without it ------------------------------------------------------------------------------- */

void nbd_waiters_wake(struct nbd_waiter *ended);

#endif
