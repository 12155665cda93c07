/* SPDX-License-Identifier: MIT */
#include "config.h"

#ifdef HAVE_LIBNBD

#include "store/nbd_connection_internal.h"

#include "util/checked.h"
#include "util/stop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define GRACE 8 /* this part of its time a request has at least, even of a server long away */

bool nbd_is_broken(int result)
{
    return result == -ECONNRESET || result == -ENOTCONN || result == -EPIPE ||
           result == -ETIMEDOUT || result == -ESHUTDOWN || result == -ECONNABORTED;
}

void nbd_unlock(struct nbd_connection *connection)
{
    struct nbd_waiter *ended = nbd_waiters_take(&connection->waiters);

    pthread_mutex_unlock(&connection->mutex);
    nbd_waiters_wake(ended);
}

/* --- The socket ------------------------------------------------------------------------------ */

int nbd_serve(struct nbd_connection *connection, struct nbd_handle *handle, int events)
{
    const struct nbd_library *library = nbd_library_of(connection);
    unsigned direction = library->aio_get_direction(handle);
    int result = 0;

    if ((events & (POLLIN | POLLHUP | POLLERR)) != 0 &&
        (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
        result = library->aio_notify_read(handle);
    } else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
        result = library->aio_notify_write(handle);
    }
    return result < 0 ? nbd_failure(connection) : 0;
}

short nbd_events_of(const struct nbd_library *library, struct nbd_handle *handle)
{
    unsigned direction = library->aio_get_direction(handle);

    return (short)(((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                   ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0));
}

int nbd_wait_once(struct nbd_connection *connection, struct nbd_handle *handle, uint64_t deadline)
{
    const struct nbd_library *library = nbd_library_of(connection);
    uint64_t now = stop_clock();
    struct pollfd sockets[] = {
        {.fd = library->aio_get_fd(handle), .events = nbd_events_of(library, handle)},
        {.fd = connection->wake, .events = POLLIN},
    };
    uint64_t count;
    int result;

    if (now >= deadline) {
        return -ETIMEDOUT;
    }
    nbd_unlock(connection);
    result = poll(sockets, 2, (int)min_u64((deadline - now) / 1000000 + 1, 1000000));
    pthread_mutex_lock(&connection->mutex);
    if (result < 0 && errno != EINTR) {
        return -errno;
    }
    if (result > 0 && sockets[1].revents != 0) {
        (void)!read(connection->wake, &count, sizeof(count));
    }
    return result > 0 && sockets[0].revents != 0 ? nbd_serve(connection, handle, sockets[0].revents)
                                                 : 0;
}

bool nbd_is_lost(const struct nbd_connection *connection)
{
    return nbd_library_of(connection)->aio_is_dead(connection->handle) > 0 ||
           nbd_library_of(connection)->aio_is_closed(connection->handle) > 0;
}

/* --- Answers, and giving up ------------------------------------------------------------------- */

static bool is_write(const struct nbd_request *request)
{
    return request->kind == NBD_WRITE || request->kind == NBD_ZEROES;
}

static void answered(struct nbd_request *request, int result)
{
    const struct nbd_export *export = request->connection->export;

    if (!request->done) {
        request->done = true;
        request->result = result;
        *request->link = request->next;
        if (request->next != NULL) {
            request->next->link = request->link;
        }
        if (is_write(request)) {
            nbd_unflushed_write_ends(export->unflushed, request->offset, request->length);
        }
        nbd_waiters_one_less(&request->connection->waiters,
                             request->waiter); /* the request may be gone */
    }
}

void nbd_give_up(struct nbd_connection *connection, int result)
{
    nbd_unflushed_lost(connection->export->unflushed); /* R7 */
    nbd_library_of(connection)->close(connection->handle);
    connection->handle = NULL;
    while (connection->first != NULL) { /* whose buffers may be gone then */
        answered(connection->first, result);
    }
}

/* --- Requests -------------------------------------------------------------------------------- */

static int on_answer(void *context, int *error)
{
    struct nbd_request *request = context;

    request->connection->away = 0;
    answered(request, *error != 0 ? -*error : 0);
    return 1; /* it is forgotten */
}

static int on_extent(void *context, const char *name, uint64_t offset, uint32_t *entries,
                     size_t count, int *error)
{
    struct nbd_request *request = context;

    (void)offset;
    (void)error;
    if (strcmp(name, NBD_CONTEXT) == 0 && count >= 2 && request->found == 0) {
        request->is_data = (entries[1] & LIBNBD_STATE_ZERO) == 0;
        for (size_t i = 0;
             i + 1 < count && ((entries[i + 1] & LIBNBD_STATE_ZERO) == 0) == request->is_data;
             i += 2) {
            request->found += entries[i];
        }
    }
    return 0;
}

static int64_t issue(struct nbd_connection *connection, struct nbd_request *request)
{
    const struct nbd_library *library = nbd_library_of(connection);
    struct nbd_handle *handle = connection->handle;
    nbd_completion_callback done = {.callback = on_answer, .user_data = request};
    nbd_extent_callback extent = {.callback = on_extent, .user_data = request};

    switch (request->kind) {
    case NBD_READ:
        return library->aio_pread(handle, request->buffer, in_memory(request->length),
                                  request->offset, done, 0);
    case NBD_WRITE:
        return library->aio_pwrite(handle, request->buffer, in_memory(request->length),
                                   request->offset, done, 0);
    case NBD_ZEROES:
        return library->aio_zero(handle, request->length, request->offset, done, 0);
    case NBD_FLUSH:
        return library->aio_flush(handle, done, 0);
    case NBD_EXTENT:
    default:
        return library->aio_block_status(handle, request->length, request->offset, extent, done, 0);
    }
}

static bool changes(enum nbd_kind kind)
{
    return kind == NBD_WRITE || kind == NBD_ZEROES || kind == NBD_FLUSH;
}

/* Whether the request may be asked at all (R7). */
static int check_unflushed(const struct nbd_connection *connection,
                           const struct nbd_request *request)
{
    struct nbd_unflushed *unflushed = connection->export->unflushed;
    bool refused = changes(request->kind)
                       ? nbd_unflushed_is_broken(unflushed)
                       : nbd_unflushed_is_doubtful(unflushed, request->offset, request->length);

    return refused ? -EIO : 0;
}

static int check_all(const struct nbd_connection *connection, const struct nbd_request *requests,
                     size_t count)
{
    int result = 0;

    for (size_t i = 0; i < count && result == 0; i++) {
        result = check_unflushed(connection, &requests[i]);
    }
    return result;
}

/* Asks, with the mutex held. Not asked at all where it fails. */
static int ask(struct nbd_connection *connection, struct nbd_request *request,
               struct nbd_waiter *waiter, uint64_t until)
{
    /* The connection may be a new one, since nobody had heard yet that the last one was gone. */
    int result = check_unflushed(connection, request);

    if (result < 0) {
        return result;
    }
    request->connection = connection;
    request->waiter = waiter;
    waiter->pending++;
    request->next = connection->first;
    request->link = &connection->first;
    request->asked = stop_clock();
    request->until = until;
    request->done = false;
    request->found = 0;
    if (connection->first != NULL) {
        connection->first->link = &request->next;
    }
    connection->first = request;
    if (is_write(request)) {
        nbd_unflushed_write_begins(connection->export->unflushed);
    }
    if (issue(connection, request) < 0) {
        answered(request, nbd_is_lost(connection) ? -ECONNRESET : nbd_failure(connection));
    }
    /* With the connection all has failed that was asked before; and who polls does not wait for
       what is still to be sent. */
    if (connection->polled &&
        (request->done || (nbd_library_of(connection)->aio_get_direction(connection->handle) &
                           LIBNBD_AIO_DIRECTION_WRITE) != 0)) {
        const uint64_t one = 1;

        (void)!write(connection->wake, &one, sizeof(one));
    }
    return request->done ? request->result : 0;
}

/*
 * When the connection is to be given up unless something is answered: for reads soon enough to try
 * again on another, but not where that would cost what was written (struct nbd_unflushed).
 */
static uint64_t earliest_end(const struct nbd_connection *connection)
{
    const struct nbd_export *export = connection->export;
    uint64_t earliest = UINT64_MAX;
    uint64_t patience =
        nbd_unflushed_at_stake(export->unflushed) ? export->timeout : export->timeout / NBD_TRIES;

    for (const struct nbd_request *each = connection->first; each != NULL; each = each->next) {
        earliest = min_u64(earliest, min_u64(each->until, each->asked + patience));
    }
    return earliest;
}

/* Waits until all is answered: polls where nobody else does. The mutex is held, and given up. */
static void await(struct nbd_connection *connection, struct nbd_waiter *waiter)
{
    while (waiter->pending > 0) {
        struct nbd_handle *handle = connection->handle;
        int result;

        if (connection->polled) {
            nbd_waiters_add(&connection->waiters, waiter);
            nbd_unlock(connection);
            if (nbd_waiter_wait(waiter)) {
                return; /* who has polled meanwhile sees to the others */
            }
            pthread_mutex_lock(&connection->mutex);
            continue;
        }
        connection->polled = true;
        result = nbd_wait_once(connection, handle, earliest_end(connection));
        connection->polled = false;
        if (connection->handle == handle && (result < 0 || nbd_is_lost(connection))) {
            nbd_give_up(connection, result == -ETIMEDOUT ? -ETIMEDOUT : -ECONNRESET);
        }
    }
    if (!connection->polled) {
        nbd_waiters_choose(&connection->waiters);
    }
    nbd_unlock(connection);
}

/* It has failed: a moment before it is tried again. */
static void pause_shortly(struct nbd_connection *connection, uint64_t until)
{
    const struct timespec moment = {.tv_nsec = 100 * 1000000};

    pthread_mutex_lock(&connection->mutex);
    connection->away = connection->away == 0 ? stop_clock() : connection->away;
    nbd_unlock(connection);
    if (stop_clock() < until) {
        nanosleep(&moment, NULL);
    }
}

int nbd_connection_ask(struct nbd_connection *connection, struct nbd_request *requests,
                       size_t count, uint64_t until)
{
    struct nbd_waiter waiter;
    size_t asked = 0;
    int result;

    nbd_waiter_init(&waiter);
    pthread_mutex_lock(&connection->mutex);
    result = check_all(connection, requests, count); /* so that it does not wait for a server */
    if (result == 0) {
        result = nbd_come_back(connection, until);
    }
    if (result == 0 && requests[0].kind == NBD_EXTENT &&
        nbd_library_of(connection)->can_meta_context(connection->handle, NBD_CONTEXT) <= 0) {
        result = -ENOTSUP;
    }
    while (result == 0 && asked < count) {
        result = ask(connection, &requests[asked], &waiter, until);
        asked += result == 0;
    }
    await(connection, &waiter);
    for (size_t i = 0; i < asked && result == 0; i++) {
        result = requests[i].result;
    }
    if (nbd_is_broken(result)) {
        pause_shortly(connection, until);
    }
    nbd_waiter_destroy(&waiter);
    return result;
}

uint64_t nbd_connection_generation(const struct nbd_connection *connection)
{
    return connection->generation;
}

uint64_t nbd_connection_deadline(const struct nbd_connection *connection)
{
    uint64_t now = stop_clock(), timeout = connection->export->timeout, away = connection->away;

    return away == 0 ? now + timeout : max_u64(away + timeout, now + timeout / GRACE);
}

/* --- From beginning to end ---------------------------------------------------------------------
 */

struct nbd_handle *nbd_connection_handle(struct nbd_connection *connection)
{
    return connection->handle;
}

struct nbd_connection *nbd_connection_create(const struct nbd_export *export)
{
    struct nbd_connection *connection = calloc(1, sizeof(*connection));
    pthread_condattr_t monotonic;

    if (connection == NULL) {
        return NULL;
    }
    connection->export = export;
    connection->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&connection->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&connection->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (connection->wake < 0) {
        nbd_connection_destroy(connection);
        return NULL;
    }
    return connection;
}

void nbd_connection_destroy(struct nbd_connection *connection)
{
    if (connection == NULL) {
        return;
    }
    nbd_library_of(connection)->close(connection->handle);
    nbd_library_of(connection)->close(connection->opening);
    if (connection->wake >= 0) {
        close(connection->wake);
    }
    pthread_cond_destroy(&connection->changed);
    pthread_mutex_destroy(&connection->mutex);
    free(connection);
}

#else

typedef int nbd_connection_is_not_built; /* a file is not empty */

#endif
