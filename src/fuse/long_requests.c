/* SPDX-License-Identifier: MIT */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/long_requests.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdlib.h>

void long_requests_init(struct long_requests *all, unsigned threads)
{
    pthread_mutex_init(&all->mutex, NULL);
    stop_init(&all->ending, NULL);
    all->most = threads > 1 ? threads - 1 : 1;
    all->serving = 0;
    all->alone = threads == 1;
    all->first = NULL;
    all->last = &all->first;
}

void long_requests_destroy(struct long_requests *all)
{
    pthread_mutex_destroy(&all->mutex);
}

void long_requests_set_alone(struct long_requests *all)
{
    all->alone = true;
}

static bool has_ended(const void *context)
{
    /* It looks at a flag; that it asks for a session that can change is an oversight. */
    return fuse_session_exited((struct fuse_session *)(uintptr_t)context) != 0;
}

void long_requests_end_with(struct long_requests *all, struct fuse_session *fuse)
{
    stop_ask(&all->ending, has_ended, fuse);
}

void long_requests_end(struct long_requests *all)
{
    stop_request(&all->ending);
}

static void on_interrupt(fuse_req_t request, void *stop)
{
    (void)request;
    stop_request(stop);
}

static void serve(struct long_requests *all, struct long_request *asked)
{
    stop_init(&asked->stop, &all->ending);
    /* One that came while the request waited is told now. */
    fuse_req_interrupt_func(asked->request, on_interrupt, &asked->stop);
    asked->serve(asked);
}

void long_requests_serve(struct long_requests *all, const struct long_request *asked)
{
    struct long_request here = *asked;

    serve(all, &here);
}

void long_request_end(struct long_request *asked)
{
    fuse_req_interrupt_func(asked->request, NULL, NULL);
}

/* Whether the calling thread is to serve a request; otherwise the copy waits. */
static bool may_serve(struct long_requests *all, struct long_request *copy)
{
    bool may;

    pthread_mutex_lock(&all->mutex);
    may = all->serving < all->most;
    if (may) {
        all->serving++;
    } else if (copy != NULL) {
        copy->next = NULL;
        *all->last = copy;
        all->last = &copy->next;
    }
    pthread_mutex_unlock(&all->mutex);
    return may;
}

/* The next that waits; NULL, and one fewer is being served, when there is none. */
static struct long_request *next_that_waits(struct long_requests *all)
{
    struct long_request *next;

    pthread_mutex_lock(&all->mutex);
    next = all->first;
    if (next == NULL) {
        all->serving--;
    } else {
        all->first = next->next;
        if (all->first == NULL) {
            all->last = &all->first;
        }
    }
    pthread_mutex_unlock(&all->mutex);
    return next;
}

bool long_requests_wait(struct long_requests *all)
{
    bool wait;

    pthread_mutex_lock(&all->mutex);
    wait = all->first != NULL;
    pthread_mutex_unlock(&all->mutex);
    return wait;
}

void long_requests_take(struct long_requests *all, const struct long_request *asked)
{
    struct long_request here = *asked, *waited;

    if (!may_serve(all, NULL)) {
        struct long_request *copy = malloc(sizeof(*copy));

        if (copy == NULL) {
            fuse_reply_err(asked->request, ENOMEM);
            return;
        }
        *copy = *asked;
        if (!may_serve(all, copy)) {
            return;
        }
        free(copy);
    }
    serve(all, &here);
    while ((waited = next_that_waits(all)) != NULL) {
        serve(all, waited);
        free(waited);
    }
}
