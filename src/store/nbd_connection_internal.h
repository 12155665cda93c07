/* SPDX-License-Identifier: MIT */
/*
 * What the files of a connection share: nbd_connection.c has what is asked and who waits for it,
 * nbd_connecting.c how it is made, and made again.
 */
#ifndef STORE_NBD_CONNECTION_INTERNAL_H
#define STORE_NBD_CONNECTION_INTERNAL_H

#include "store/nbd_connection.h"
#include "store/nbd_waiters.h"

#include <pthread.h>

#define NBD_TRIES 3 /* connections are tried at least so often within a request's time */

struct nbd_connection {
    const struct nbd_export *export;
    int wake; /* an eventfd: who polls is to look again */

    /*
     * Guards all below, and every call of libnbd but the wait for the socket, which is outside: so
     * a callback runs under it.
     */
    pthread_mutex_t mutex;
    pthread_cond_t changed;      /* nobody makes a connection any more */
    struct nbd_handle *handle;   /* NULL: it broke */
    struct nbd_handle *opening;  /* of nbd_connection_step(): not connected yet */
    bool is_for_once;            /* it is made by that alone */
    bool connecting;             /* somebody makes another connection */
    bool polled;                 /* somebody waits for the socket */
    struct nbd_waiters waiters;  /* all others who have asked */
    _Atomic uint64_t generation; /* counts connections */
    _Atomic uint64_t away;     /* stop_clock() of the first failure since an answer came; 0: none */
    struct nbd_request *first; /* asked, and not answered */
};

static inline const struct nbd_library *nbd_library_of(const struct nbd_connection *connection)
{
    return connection->export->library;
}

static inline int nbd_failure(const struct nbd_connection *connection)
{
    return nbd_library_failure(nbd_library_of(connection));
}

/* Gives up the mutex, and wakes who has waited for what happened under it. */
void nbd_unlock(struct nbd_connection *connection);

/* --- With the mutex held ---------------------------------------------------------------------- */

/* What the server has sent is taken, and what it takes is sent; `events` are of poll(). */
int nbd_serve(struct nbd_connection *connection, struct nbd_handle *handle, int events);

/* What libnbd waits for. */
short nbd_events_of(const struct nbd_library *library, struct nbd_handle *handle);

/* Waits for the socket once, until `deadline` (stop_clock()): the mutex is given up meanwhile. */
int nbd_wait_once(struct nbd_connection *connection, struct nbd_handle *handle, uint64_t deadline);

bool nbd_is_lost(const struct nbd_connection *connection);

/* It broke, or does not answer: all that was asked has failed with `result`. */
void nbd_give_up(struct nbd_connection *connection, int result);

/*
 * Sees to it that there is a connection, to the same export: another one where it is gone. 0, or a
 * negative errno.
 */
int nbd_come_back(struct nbd_connection *connection, uint64_t until);

#endif
