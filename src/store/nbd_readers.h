/* SPDX-License-Identifier: MIT */
/*
 * More connections to a server, on which is read: where it says that what one connection has
 * flushed all others see (multi-conn). A server works at so many requests of a connection at once,
 * and no more; so another is opened where each has several under way, up to NBD_CONNECTIONS with
 * the main one.
 *
 * Everything but reading goes over the main connection, and so does reading what no flush has
 * covered yet: on another it might be read as it was before, and from another server where this one
 * has begun anew. So nothing is lost with a reader (R7), and a flush need not cover what others
 * wrote. All readers belong to one life of the main connection: once that is made again they are
 * given up, since they may lead to the server that it has left. One that breaks is not used again
 * in this life; what was asked on it is asked on the main connection, and so is everything while
 * one is being opened: nobody waits for that.
 *
 * Any thread may call; the mutex is a leaf. Internal to the store.
 */
#ifndef STORE_NBD_READERS_H
#define STORE_NBD_READERS_H

#include "store/nbd_connection.h"

#define NBD_CONNECTIONS 4

struct nbd_readers;

/* For the export of `main`; both are borrowed. None is opened yet. NULL when memory ran out. */
struct nbd_readers *nbd_readers_create(const struct nbd_export *export,
                                       struct nbd_connection *main);
/* Nobody asks any more. `readers` may be NULL. */
void nbd_readers_destroy(struct nbd_readers *readers);

/* The connection for `count` requests of one kind, to be given back when they have ended. */
struct nbd_connection *nbd_readers_take(struct nbd_readers *readers,
                                        const struct nbd_request *requests, size_t count);
/* `broken`: the connection failed, and not a request. */
void nbd_readers_give_back(struct nbd_readers *readers, const struct nbd_connection *connection,
                           size_t count, bool broken);

/*
 * What the main connection has learned: the size of the export, and whether the server sees to it
 * that several connections agree. Before the first request; until then it is taken not to.
 */
void nbd_readers_allow(struct nbd_readers *readers, uint64_t size, bool allowed);

#endif
