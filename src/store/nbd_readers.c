/* SPDX-License-Identifier: MIT */
#include "config.h"

#ifdef HAVE_LIBNBD

#include "store/nbd_readers.h"

#include "util/checked.h"
#include "util/stop.h"

#include <pthread.h>
#include <stdlib.h>

#define BUSY     8 /* requests of each connection that are under way, before another is opened */
#define SECOND   UINT64_C(1000000000) /* nanoseconds */
#define PATIENCE (9 * SECOND)         /* of a request: the main connection has more */
#define OPENING  (3 * SECOND)         /* a connection that is not there by then is none */

enum reader_state {
    READER_NONE,    /* there is no connection */
    READER_OPENING, /* whoever asks next takes it a step further */
    READER_OPEN,
    READER_BROKEN,
};

struct reader {
    enum reader_state state;
    struct nbd_connection *connection; /* NULL: there is none */
    uint64_t generation;               /* the life of the main connection that it belongs to */
    uint64_t under_way;                /* requests */
    uint64_t begun;                    /* stop_clock(), when it began to be opened */
    bool stepping;                     /* somebody takes it a step further */
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

/* --- Opening; the mutex is held -------------------------------------------------------------- */

static bool is_open(const struct nbd_readers *readers, const struct reader *reader)
{
    return reader->state == READER_OPEN &&
           reader->generation == nbd_connection_generation(readers->main);
}

/* The reader that has least to do, or NULL where that is the main connection. */
static struct reader *least_busy(struct nbd_readers *readers)
{
    uint64_t least = readers->main_under_way;
    struct reader *found = NULL;

    for (unsigned i = 0; i < NBD_CONNECTIONS - 1; i++) {
        struct reader *reader = &readers->readers[i];

        if (is_open(readers, reader) && reader->under_way < least) {
            least = reader->under_way;
            found = reader;
        }
    }
    return found;
}

static bool all_are_busy(struct nbd_readers *readers)
{
    const struct reader *reader = least_busy(readers);

    return (reader != NULL ? reader->under_way : readers->main_under_way) >= BUSY;
}

static void close_reader(struct reader *reader, enum reader_state state)
{
    nbd_connection_destroy(reader->connection);
    reader->connection = NULL;
    reader->state = state;
}

/* Makes the place ready for this life of the main connection, where that is of use. */
static void begin(struct nbd_readers *readers, struct reader *reader)
{
    uint64_t generation = nbd_connection_generation(readers->main);
    bool is_new = reader->state == READER_NONE || reader->generation != generation;

    if (!is_new || reader->under_way > 0 || !all_are_busy(readers)) {
        return;
    }
    close_reader(reader, READER_NONE);
    reader->connection = nbd_connection_create(&readers->export);
    if (reader->connection != NULL) {
        reader->state = READER_OPENING;
        reader->generation = generation;
        reader->begun = stop_clock();
    }
}

/* The mutex is given up meanwhile: a name may have to be looked up. */
static void step(struct nbd_readers *readers, struct reader *reader)
{
    int result;

    reader->stepping = true;
    pthread_mutex_unlock(&readers->mutex);
    result = nbd_connection_step(reader->connection);
    pthread_mutex_lock(&readers->mutex);
    reader->stepping = false;
    if (result > 0) {
        reader->state = READER_OPEN;
    } else if (result < 0 || stop_clock() - reader->begun > OPENING) {
        close_reader(reader, READER_BROKEN);
    }
}

/*
 * Nobody waits for it: there are servers that take one connection, and let others hang where they
 * knock, as qemu-nbd does unless it is told how many it is to share its export with.
 */
static void open_more(struct nbd_readers *readers)
{
    for (unsigned i = 0; i < NBD_CONNECTIONS - 1; i++) {
        struct reader *reader = &readers->readers[i];

        if (!reader->stepping) {
            begin(readers, reader);
            if (reader->state == READER_OPENING) {
                step(readers, reader);
            }
        }
    }
}

/* --- Asking ---------------------------------------------------------------------------------- */

struct nbd_connection *nbd_readers_take(struct nbd_readers *readers,
                                        const struct nbd_request *requests, size_t count)
{
    bool for_anyone = is_for_anyone(readers, requests, count);
    struct reader *reader = NULL;
    struct nbd_connection *result;

    pthread_mutex_lock(&readers->mutex);
    if (for_anyone && readers->allowed) {
        open_more(readers);
        reader = least_busy(readers);
    }
    *(reader != NULL ? &reader->under_way : &readers->main_under_way) += count;
    result = reader != NULL ? reader->connection : readers->main;
    pthread_mutex_unlock(&readers->mutex);
    return result;
}

/* They may have the one place that the server has for the main connection, which is made again. */
static void close_idle(struct nbd_readers *readers)
{
    for (unsigned i = 0; i < NBD_CONNECTIONS - 1; i++) {
        struct reader *reader = &readers->readers[i];

        if (reader->under_way == 0 && !reader->stepping) {
            close_reader(reader, READER_NONE);
        }
    }
}

void nbd_readers_give_back(struct nbd_readers *readers, const struct nbd_connection *connection,
                           size_t count, bool broken)
{
    pthread_mutex_lock(&readers->mutex);
    if (connection == readers->main) {
        readers->main_under_way -= count;
        if (broken) {
            close_idle(readers);
        }
    }
    for (unsigned i = 0; i < NBD_CONNECTIONS - 1; i++) {
        struct reader *reader = &readers->readers[i];

        if (reader->connection == connection) {
            reader->under_way -= count;
            reader->state = broken ? READER_BROKEN : reader->state;
        }
    }
    pthread_mutex_unlock(&readers->mutex);
}

#else

typedef int nbd_readers_is_not_built; /* a file is not empty */

#endif
