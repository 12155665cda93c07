/* SPDX-License-Identifier: MIT */
#include "config.h"

#ifdef HAVE_LIBNBD

#include "store/nbd_readers.h"

#include "util/checked.h"

#include <pthread.h>
#include <stdlib.h>

#define BUSY     8 /* requests of each connection that are under way, before another is opened */
#define PATIENCE (UINT64_C(9) * 1000000000) /* nanoseconds: the main connection has more */

struct reader {
    struct nbd_connection *connection; /* NULL: there is none */
    uint64_t generation;               /* the life of the main connection that it belongs to */
    uint64_t under_way;                /* requests */
    bool broken;
};

struct nbd_readers {
    struct nbd_export export; /* as these see it: nothing of what they do is to be flushed */
    struct nbd_unflushed *const *unflushed; /* of the main connection */
    struct nbd_connection *main;

    pthread_mutex_t mutex; /* guards all that follows; a leaf */
    bool allowed;
    uint64_t main_under_way; /* requests */
    struct reader readers[NBD_CONNECTIONS - 1];
};

struct nbd_readers *nbd_readers_create(const struct nbd_export *export, struct nbd_connection *main)
{
    struct nbd_readers *readers = calloc(1, sizeof(*readers));

    if (readers != NULL) {
        readers->unflushed = &export->unflushed;
        readers->main = main;
        readers->export = *export;
        readers->export.unflushed = NULL;
        readers->export.timeout = min_u64(export->timeout, PATIENCE);
        pthread_mutex_init(&readers->mutex, NULL);
    }
    return readers;
}

void nbd_readers_destroy(struct nbd_readers *readers)
{
    if (readers != NULL) {
        for (unsigned i = 0; i < NBD_CONNECTIONS - 1; i++) {
            nbd_connection_destroy(readers->readers[i].connection);
        }
        pthread_mutex_destroy(&readers->mutex);
        free(readers);
    }
}

void nbd_readers_allow(struct nbd_readers *readers, uint64_t size, bool allowed)
{
    readers->export.size = size;
    readers->allowed = allowed;
}

/* Whether others than the main connection may be asked. */
static bool is_for_anyone(const struct nbd_readers *readers, const struct nbd_request *requests,
                          size_t count)
{
    bool result = true;

    for (size_t i = 0; i < count && result; i++) {
        result =
            requests[i].kind == NBD_READ &&
            nbd_unflushed_is_stable(*readers->unflushed, requests[i].offset, requests[i].length);
    }
    return result;
}

/* Makes the place ready for this life; NULL where it cannot be. With the mutex held. */
static struct reader *revive(struct nbd_readers *readers, struct reader *reader,
                             uint64_t generation)
{
    if (reader->connection != NULL && reader->generation == generation) {
        return reader->broken ? NULL : reader;
    }
    if (reader->under_way > 0) {
        return NULL; /* of a life that is over */
    }
    nbd_connection_destroy(reader->connection);
    *reader = (struct reader){.generation = generation,
                              .connection = nbd_connection_create(&readers->export)};
    return reader->connection != NULL ? reader : NULL;
}

/* The reader that has least to do, or NULL where that is the main connection. */
static struct reader *least_busy(struct nbd_readers *readers)
{
    uint64_t generation = nbd_connection_generation(readers->main);
    uint64_t least = readers->main_under_way;
    struct reader *found = NULL;

    for (unsigned i = 0; i < NBD_CONNECTIONS - 1 && least > 0; i++) {
        struct reader *reader = &readers->readers[i];
        bool is_open = reader->connection != NULL && reader->generation == generation;

        if (!is_open && least < BUSY) {
            continue;
        }
        reader = revive(readers, reader, generation);
        if (reader != NULL && reader->under_way < least) {
            least = reader->under_way;
            found = reader;
        }
    }
    return found;
}

struct nbd_connection *nbd_readers_take(struct nbd_readers *readers,
                                        const struct nbd_request *requests, size_t count)
{
    bool for_anyone = is_for_anyone(readers, requests, count);
    struct reader *reader;
    struct nbd_connection *result;

    pthread_mutex_lock(&readers->mutex);
    reader = for_anyone && readers->allowed ? least_busy(readers) : NULL;
    *(reader != NULL ? &reader->under_way : &readers->main_under_way) += count;
    result = reader != NULL ? reader->connection : readers->main;
    pthread_mutex_unlock(&readers->mutex);
    return result;
}

void nbd_readers_give_back(struct nbd_readers *readers, const struct nbd_connection *connection,
                           size_t count, bool broken)
{
    pthread_mutex_lock(&readers->mutex);
    if (connection == readers->main) {
        readers->main_under_way -= count;
    }
    for (unsigned i = 0; i < NBD_CONNECTIONS - 1; i++) {
        struct reader *reader = &readers->readers[i];

        if (reader->connection == connection) {
            reader->under_way -= count;
            reader->broken = reader->broken || broken;
        }
    }
    pthread_mutex_unlock(&readers->mutex);
}

#else

typedef int nbd_readers_is_not_built; /* a file is not empty */

#endif
