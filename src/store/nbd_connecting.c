/* SPDX-License-Identifier: MIT */
#include "config.h"

#ifdef HAVE_LIBNBD

#include "store/nbd_connection_internal.h"

#include "util/checked.h"
#include "util/stop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <time.h>

/* --- Making one ------------------------------------------------------------------------------- */

static struct nbd_handle *make_handle(const struct nbd_library *library)
{
    struct nbd_handle *handle = library->create();

    /* The address is the user's: an image's word alone leads to none, so to no files by one. */
    if (handle != NULL && library->set_uri_allow_local_file(handle, true) == 0 &&
        library->add_meta_context(handle, NBD_CONTEXT) == 0 &&
        library->set_request_structured_replies(handle, true) == 0) {
        return handle;
    }
    library->close(handle);
    return NULL;
}

/* *handle is NULL where memory ran out. */
static int begin_to_connect(struct nbd_connection *connection, struct nbd_handle **handle)
{
    const struct nbd_library *library = nbd_library_of(connection);

    *handle = make_handle(library);
    if (*handle == NULL) {
        return -ENOMEM;
    }
    return library->aio_connect_uri(*handle, connection->export->address) == 0
               ? 0
               : nbd_failure(connection);
}

/* What came of it: the handle is the connection's, or closed. */
static int has_connected(struct nbd_connection *connection, struct nbd_handle *handle, int result)
{
    const struct nbd_library *library = nbd_library_of(connection);

    if (result == 0 && library->aio_is_ready(handle) <= 0) {
        result = -ECONNRESET;
    }
    if (result < 0) {
        library->close(handle);
    } else {
        connection->handle = handle;
        connection->generation++;
    }
    return result;
}

/* With the mutex held: a connection, or a negative errno. */
static int connect_to(struct nbd_connection *connection, uint64_t deadline)
{
    struct nbd_handle *handle;
    int result = begin_to_connect(connection, &handle);

    while (result == 0 && nbd_library_of(connection)->aio_is_connecting(handle) > 0) {
        result = nbd_wait_once(connection, handle, deadline);
    }
    return has_connected(connection, handle, result);
}

/* --- Coming back ------------------------------------------------------------------------------ */

/*
 * Whether the connection is gone without anybody having looked: where nothing is under way the
 * server has nothing to say but that it hangs up. So a write is not sent where nobody hears it.
 */
static bool has_hung_up(struct nbd_connection *connection)
{
    struct pollfd socket = {.fd = nbd_library_of(connection)->aio_get_fd(connection->handle),
                            .events = POLLIN};

    if (connection->first == NULL && !connection->polled && poll(&socket, 1, 0) > 0) {
        (void)nbd_serve(connection, connection->handle, socket.revents);
    }
    return nbd_is_lost(connection);
}

/* Another size is another export. */
static int check_size(struct nbd_connection *connection)
{
    int64_t size = nbd_library_of(connection)->get_size(connection->handle);

    if (size != (int64_t)connection->export->size) {
        nbd_give_up(connection, -EIO);
        return -EIO;
    }
    return 0;
}

/* Waits, but not for ever, until nobody else makes the connection. */
static void wait_for_others(struct nbd_connection *connection, uint64_t until)
{
    const struct timespec end = {.tv_sec = (time_t)(until / 1000000000),
                                 .tv_nsec = (long)(until % 1000000000)};

    while (connection->connecting && stop_clock() < until) {
        pthread_cond_timedwait(&connection->changed, &connection->mutex, &end);
    }
}

/*
 * Another connection, where there is none any more: to the same export. Whatever keeps it from
 * being made may pass, as the server did once serve it: a tunnel whose other end is away hangs up,
 * a server that starts refuses, or does not know the export yet.
 */
int nbd_come_back(struct nbd_connection *connection, uint64_t until)
{
    const struct nbd_export *export = connection->export;
    int result = 0;

    wait_for_others(connection, until);
    if (connection->connecting) {
        return -ETIMEDOUT;
    }
    if (connection->handle != NULL && has_hung_up(connection)) {
        if (connection->polled) { /* who polls sees it, too, and has the handle */
            return -ECONNRESET;
        }
        nbd_give_up(connection, -ECONNRESET);
    }
    if (connection->handle == NULL && connection->is_for_once) {
        return -ECONNRESET;
    }
    if (connection->handle == NULL) {
        connection->connecting = true;
        result = connect_to(connection, min_u64(until, stop_clock() + export->timeout / NBD_TRIES));
        connection->connecting = false;
        pthread_cond_broadcast(&connection->changed);
        if (result < 0 && result != -ENOMEM) {
            return -ECONNRESET;
        }
    }
    return result == 0 ? check_size(connection) : result;
}

/* --- The first, and those that nobody waits for ----------------------------------------------- */

int nbd_connection_begin(struct nbd_connection *connection, uint64_t until)
{
    int result;

    pthread_mutex_lock(&connection->mutex);
    result = connect_to(connection, until);
    nbd_unlock(connection);
    return result;
}

/* Takes and sends what can be without waiting. */
static int serve_at_once(struct nbd_connection *connection, struct nbd_handle *handle)
{
    const struct nbd_library *library = nbd_library_of(connection);
    int result = 0;

    while (result == 0 && library->aio_is_connecting(handle) > 0) {
        struct pollfd socket = {.fd = library->aio_get_fd(handle),
                                .events = nbd_events_of(library, handle)};

        if (poll(&socket, 1, 0) <= 0) {
            break;
        }
        result = nbd_serve(connection, handle, socket.revents);
    }
    return result;
}

int nbd_connection_step(struct nbd_connection *connection)
{
    int result = 0;

    pthread_mutex_lock(&connection->mutex);
    connection->is_for_once = true;
    if (connection->opening == NULL) {
        result = begin_to_connect(connection, &connection->opening);
    }
    if (result == 0) {
        result = serve_at_once(connection, connection->opening);
    }
    if (result < 0 || nbd_library_of(connection)->aio_is_connecting(connection->opening) <= 0) {
        result = has_connected(connection, connection->opening, result);
        connection->opening = NULL;
        result = result == 0 ? check_size(connection) : result;
        result = result == 0 ? 1 : result;
    }
    nbd_unlock(connection);
    return result;
}

#else

typedef int nbd_connecting_is_not_built; /* a file is not empty */

#endif
