/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/nbd_waiters.h"

void nbd_waiter_init(struct nbd_waiter *waiter)
{
    waiter->pending = 0;
    waiter->next = NULL;
    waiter->link = NULL;
    sem_init(&waiter->wake, 0, 0);
}

void nbd_waiter_destroy(struct nbd_waiter *waiter)
{
    sem_destroy(&waiter->wake);
}

bool nbd_waiter_wait(struct nbd_waiter *waiter)
{
    while (sem_wait(&waiter->wake) != 0) {
        /* a signal */
    }
    return waiter->pending == 0;
}

void nbd_waiters_add(struct nbd_waiters *waiters, struct nbd_waiter *waiter)
{
    waiter->next = waiters->waiting;
    waiter->link = &waiters->waiting;
    if (waiter->next != NULL) {
        waiter->next->link = &waiter->next;
    }
    waiters->waiting = waiter;
}

static void end_waiting(struct nbd_waiters *waiters, struct nbd_waiter *waiter)
{
    *waiter->link = waiter->next;
    if (waiter->next != NULL) {
        waiter->next->link = waiter->link;
    }
    waiter->link = NULL;
    waiter->next = waiters->ended;
    waiters->ended = waiter;
}

void nbd_waiters_one_less(struct nbd_waiters *waiters, struct nbd_waiter *waiter)
{
    if (waiter->link != NULL && waiter->pending == 1) {
        end_waiting(waiters, waiter);
    }
    waiter->pending--;
}

void nbd_waiters_choose(struct nbd_waiters *waiters)
{
    if (waiters->waiting != NULL) {
        end_waiting(waiters, waiters->waiting);
    }
}

struct nbd_waiter *nbd_waiters_take(struct nbd_waiters *waiters)
{
    struct nbd_waiter *ended = waiters->ended;

    waiters->ended = NULL;
    return ended;
}

void nbd_waiters_wake(struct nbd_waiter *ended)
{
    struct nbd_waiter *next;

    for (; ended != NULL; ended = next) {
        next = ended->next;
        sem_post(&ended->wake);
    }
}
