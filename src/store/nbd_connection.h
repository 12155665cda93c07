/* SPDX-License-Identifier: MIT */
/*
 * One connection to an NBD server, with many requests under way on it.
 *
 * It has no thread: who waits for an answer reads what the server sends, for all that wait, until
 * its own has come; the next one goes on then. So nothing runs where nothing is asked for, and a
 * process may fork. A connection that broke, or on which something is not answered in time, is
 * given up: all that is under way on it fails, and whoever asks next makes another.
 *
 * Takes its own mutex, and under it that of struct nbd_unflushed; no callback of its user runs.
 * Internal to the store.
 */
#ifndef STORE_NBD_CONNECTION_H
#define STORE_NBD_CONNECTION_H

#include "store/nbd_library.h"
#include "store/nbd_unflushed.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_CONTEXT LIBNBD_CONTEXT_BASE_ALLOCATION

struct nbd_connection;
struct nbd_waiter;

/* What is the same for all connections of a store; borrowed. */
struct nbd_export {
    const struct nbd_library *library;
    const char *address;
    struct nbd_unflushed *unflushed; /* NULL: it is only read */
    uint64_t size;                   /* bytes; another size is another export */
    uint64_t timeout;                /* nanoseconds that a request may take, all in all */
};

enum nbd_kind {
    NBD_READ,
    NBD_WRITE,
    NBD_ZEROES,
    NBD_FLUSH,
    NBD_EXTENT, /* of what kind the bytes at `offset` are */
};

struct nbd_request {
    enum nbd_kind kind;
    uint64_t offset, length; /* bytes */
    void *buffer;            /* of a read or a write (which does not change it) */
    /* Of an extent, the answer: it has so many bytes (0: nothing was told), and is data, or zeros.
     */
    uint64_t found;
    bool is_data;

    /* What follows is the connection's. */
    struct nbd_connection *connection;
    struct nbd_waiter *waiter;
    struct nbd_request *next, **link; /* in the list of those under way */
    uint64_t asked, until;            /* stop_clock() */
    bool done;
    int result;
};

/* NULL when memory ran out. Nothing is connected yet. */
struct nbd_connection *nbd_connection_create(const struct nbd_export *export);
/* Nobody asks any more. `connection` may be NULL. */
void nbd_connection_destroy(struct nbd_connection *connection);

/*
 * The first connection, whose size nobody knows yet; until `until` (stop_clock()). A negative
 * errno, of which libnbd may say more to this thread.
 */
int nbd_connection_begin(struct nbd_connection *connection, uint64_t until);
/* The handle of a connection that was begun, for questions about the export, by who alone uses it.
 */
struct nbd_handle *nbd_connection_handle(struct nbd_connection *connection);

/* Grows with each connection that is made: what is learned of one need not be so of the next. */
uint64_t nbd_connection_generation(const struct nbd_connection *connection);

/* By when a request that begins now must have ended: sooner where the server is known to be away.
 */
uint64_t nbd_connection_deadline(const struct nbd_connection *connection);

/*
 * A step towards a connection that nobody waits for: 1 when it is there, to the same export; 0 when
 * the server has yet to answer; or a negative errno. By one thread at a time, before anything is
 * asked on it; once it breaks it is not made again.
 */
int nbd_connection_step(struct nbd_connection *connection);

/*
 * Asks all `count` requests at once, on another connection where there is none any more, and waits
 * until they are answered. 0, or a negative errno of one that failed: nbd_is_broken() for what
 * another try may put right. -ENOTSUP for an extent that this server does not tell of.
 */
int nbd_connection_ask(struct nbd_connection *connection, struct nbd_request *requests,
                       size_t count, uint64_t until);

/* Whether it is the connection that failed, and not the request. */
bool nbd_is_broken(int result);

#endif
