/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/nbd.h"

#include <string.h>

bool store_nbd_is_address(const char *name)
{
    static const char *const schemes[] = {
        "nbd://", "nbds://", "nbd+unix:", "nbds+unix:", "nbd+vsock:", "nbds+vsock:",
    };

    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        if (strncmp(name, schemes[i], strlen(schemes[i])) == 0) {
            return true;
        }
    }
    return false;
}

#ifdef HAVE_LIBNBD

#include "util/checked.h"
#include "util/stop.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <libnbd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define TIMEOUT_NS (UINT64_C(60) * 1000000000) /* of a request, with all that is tried */
#define PATIENCE_NS \
    (UINT64_C(20) * 1000000000)       /* without an answer a connection is taken for dead */
#define PIECE_MAX (UINT64_C(1) << 20) /* of one request, bytes: several are under way */
#define PIECES    8
#define LIBRARY   "libnbd.so.0"
#define CONTEXT   LIBNBD_CONTEXT_BASE_ALLOCATION

/*
 * What is called of libnbd. It is loaded where an address is opened, and nowhere else: with it come
 * a dozen libraries (of TLS, of XML), which would cost every other start time and memory.
 */
#define FUNCTIONS(F)     \
    F(add_meta_context)  \
    F(aio_block_status)  \
    F(aio_connect_uri)   \
    F(aio_get_direction) \
    F(aio_get_fd)        \
    F(aio_is_closed)     \
    F(aio_is_connecting) \
    F(aio_is_dead)       \
    F(aio_is_ready)      \
    F(aio_notify_read)   \
    F(aio_notify_write)  \
    F(aio_pread)         \
    F(can_meta_context)  \
    F(close)             \
    F(create)            \
    F(get_block_size)    \
    F(get_errno)         \
    F(get_error)         \
    F(get_size)          \
    F(set_request_structured_replies)

#define DECLARE(name) __typeof__(&nbd_##name) name;

struct library {
    FUNCTIONS(DECLARE)
};

struct nbd_store {
    struct store store;
    struct library library;
    char *address;
    uint64_t size;    /* bytes, of the export when it was opened */
    uint64_t minimum; /* a request begins and ends at multiples of so many bytes */
    uint64_t maximum; /* and has at most so many */
    time_t opened;
    int wake; /* an eventfd: who polls is to look again */

    /*
     * Guards all below, and every call of libnbd but the wait for the socket, which is outside: so
     * a callback runs under it.
     */
    pthread_mutex_t mutex;
    pthread_cond_t changed;    /* an answer came, or nobody polls any more */
    struct nbd_handle *handle; /* NULL: it broke */
    uint64_t heard;        /* stop_clock() when the server last sent something, or was asked anew */
    bool connecting;       /* somebody makes another connection */
    bool polled;           /* somebody waits for the socket */
    struct request *first; /* asked, and not answered */
};

struct request {
    struct nbd_store *store;
    struct request *next, **link; /* in the list */
    bool done;
    int result; /* 0 or a negative errno */
    /* Of a question for extents: the first piece that is told. */
    uint64_t length;
    bool is_data;
};

static struct nbd_store *to_nbd(struct store *store)
{
    return (struct nbd_store *)store;
}

/* What libnbd says of its last failure in this thread, as a negative errno. */
static int nbd_failure(const struct nbd_store *nbd)
{
    int number = nbd->library.get_errno();

    return number > 0 ? -number : -EIO;
}

/* --- The connection -------------------------------------------------------------------------- */

/* Waits for the socket once. The mutex is held, and given up meanwhile. */
static int wait_once(struct nbd_store *nbd, struct nbd_handle *handle, uint64_t deadline)
{
    unsigned direction = nbd->library.aio_get_direction(handle);
    uint64_t now = stop_clock();
    struct pollfd sockets[] = {
        {.fd = nbd->library.aio_get_fd(handle),
         .events = (short)(((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                           ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0))},
        {.fd = nbd->wake, .events = POLLIN},
    };
    uint64_t count;
    int result;

    if (now >= deadline) {
        return -ETIMEDOUT;
    }
    pthread_mutex_unlock(&nbd->mutex);
    result = poll(sockets, 2, (int)((deadline - now) / 1000000) + 1);
    pthread_mutex_lock(&nbd->mutex);
    if (result < 0 && errno != EINTR) {
        return -errno;
    }
    if (result > 0 && sockets[1].revents != 0) {
        (void)!read(nbd->wake, &count, sizeof(count));
    }
    if (result <= 0 || sockets[0].revents == 0) {
        return 0;
    }
    direction = nbd->library.aio_get_direction(handle);
    nbd->heard = stop_clock();
    if ((sockets[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0 &&
        (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
        result = nbd->library.aio_notify_read(handle);
    } else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
        result = nbd->library.aio_notify_write(handle);
    } else {
        result = 0;
    }
    return result < 0 ? nbd_failure(nbd) : 0;
}

static struct nbd_handle *make_handle(const struct nbd_store *nbd)
{
    struct nbd_handle *handle = nbd->library.create();

    if (handle != NULL && nbd->library.add_meta_context(handle, CONTEXT) == 0 &&
        nbd->library.set_request_structured_replies(handle, true) == 0) {
        return handle;
    }
    nbd->library.close(handle);
    return NULL;
}

/* With the mutex held: a connection, or a negative errno. */
static int connect_to(struct nbd_store *nbd, uint64_t deadline)
{
    struct nbd_handle *handle = make_handle(nbd);
    int result = handle == NULL                                            ? -ENOMEM
                 : nbd->library.aio_connect_uri(handle, nbd->address) == 0 ? 0
                                                                           : nbd_failure(nbd);

    while (result == 0 && nbd->library.aio_is_connecting(handle) > 0) {
        result = wait_once(nbd, handle, deadline);
    }
    if (result == 0 && nbd->library.aio_is_ready(handle) <= 0) {
        result = -ECONNRESET;
    }
    if (result < 0) {
        nbd->library.close(handle);
    } else {
        nbd->handle = handle;
    }
    return result;
}

static void answered(struct request *request, int result)
{
    if (!request->done) {
        request->done = true;
        request->result = result;
        *request->link = request->next;
        if (request->next != NULL) {
            request->next->link = request->link;
        }
    }
}

/* It broke, or does not answer: all that was asked has failed. */
static void give_up(struct nbd_store *nbd, int result)
{
    while (nbd->first != NULL) {
        answered(nbd->first, result);
    }
    nbd->library.close(nbd->handle);
    nbd->handle = NULL;
    pthread_cond_broadcast(&nbd->changed);
}

static bool is_lost(const struct nbd_store *nbd, struct nbd_handle *handle)
{
    return nbd->library.aio_is_dead(handle) > 0 || nbd->library.aio_is_closed(handle) > 0;
}

/* --- Requests -------------------------------------------------------------------------------- */

static int on_answer(void *context, int *error)
{
    struct request *request = context;

    answered(request, *error != 0 ? -*error : 0);
    pthread_cond_broadcast(&request->store->changed);
    return 1; /* it is forgotten */
}

static int on_extent(void *context, const char *name, uint64_t offset, uint32_t *entries,
                     size_t count, int *error)
{
    struct request *request = context;

    (void)offset;
    (void)error;
    if (strcmp(name, CONTEXT) == 0 && count >= 2 && request->length == 0) {
        request->is_data = (entries[1] & LIBNBD_STATE_ZERO) == 0;
        for (size_t i = 0;
             i + 1 < count && ((entries[i + 1] & LIBNBD_STATE_ZERO) == 0) == request->is_data;
             i += 2) {
            request->length += entries[i];
        }
    }
    return 0;
}

/* Asks, with the mutex held; `buffer` NULL: for extents. Not asked at all where it fails. */
static int ask(struct nbd_store *nbd, struct request *request, uint64_t offset, void *buffer,
               uint64_t length)
{
    nbd_completion_callback done = {.callback = on_answer, .user_data = request};
    nbd_extent_callback extent = {.callback = on_extent, .user_data = request};
    int64_t cookie;

    *request = (struct request){.store = nbd, .next = nbd->first, .link = &nbd->first};
    if (nbd->first != NULL) {
        nbd->first->link = &request->next;
    } else {
        nbd->heard = stop_clock();
    }
    nbd->first = request;
    cookie = buffer != NULL
                 ? nbd->library.aio_pread(nbd->handle, buffer, length, offset, done, 0)
                 : nbd->library.aio_block_status(nbd->handle, length, offset, extent, done, 0);
    if (cookie < 0) {
        answered(request, is_lost(nbd, nbd->handle) ? -ECONNRESET : nbd_failure(nbd));
        return request->result;
    }
    if (nbd->polled &&
        (nbd->library.aio_get_direction(nbd->handle) & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
        const uint64_t one = 1;

        (void)!write(nbd->wake, &one, sizeof(one)); /* who polls does not wait for that */
    }
    return 0;
}

/* Waits until all are answered, with the mutex held: polls where nobody else does. */
static void await(struct nbd_store *nbd, struct request *requests, size_t count)
{
    size_t i = 0;

    while (i < count) {
        struct nbd_handle *handle = nbd->handle;
        int result;

        if (requests[i].done) {
            i++;
        } else if (nbd->polled) {
            pthread_cond_wait(&nbd->changed, &nbd->mutex);
        } else {
            nbd->polled = true;
            result = wait_once(nbd, handle, nbd->heard + PATIENCE_NS);
            nbd->polled = false;
            if (nbd->handle == handle && (result < 0 || is_lost(nbd, handle))) {
                give_up(nbd, result == -ETIMEDOUT ? -ETIMEDOUT : -ECONNRESET);
            }
            pthread_cond_broadcast(&nbd->changed); /* somebody else may poll */
        }
    }
}

static bool is_broken(int result)
{
    return result == -ECONNRESET || result == -ENOTCONN || result == -EPIPE ||
           result == -ETIMEDOUT || result == -ESHUTDOWN || result == -ECONNABORTED;
}

/*
 * Another connection, where there is none any more: to the same export. Whatever keeps it from
 * being made may pass, as the server did once serve it: a tunnel whose other end is away hangs up,
 * a server that starts refuses, or does not know the export yet.
 */
static int connect_again(struct nbd_store *nbd, uint64_t until)
{
    int result = 0;

    while (nbd->connecting) {
        pthread_cond_wait(&nbd->changed, &nbd->mutex);
    }
    if (nbd->handle == NULL) {
        nbd->connecting = true;
        result = connect_to(nbd, min_u64(until, stop_clock() + PATIENCE_NS));
        nbd->connecting = false;
        pthread_cond_broadcast(&nbd->changed);
        if (result < 0 && result != -ENOMEM) {
            return -ECONNRESET;
        }
    } else if (is_lost(nbd, nbd->handle)) {
        if (!nbd->polled) { /* else who polls sees it, too, and has the handle */
            give_up(nbd, -ECONNRESET);
        }
        return -ECONNRESET;
    }
    if (result == 0 && nbd->library.get_size(nbd->handle) != (int64_t)nbd->size) {
        give_up(nbd, -EIO);
        result = -EIO;
    }
    return result;
}

/* A moment before it is tried again; with the mutex held, which is given up meanwhile. */
static void pause_shortly(struct nbd_store *nbd)
{
    const struct timespec moment = {.tv_nsec = 100 * 1000000};

    pthread_mutex_unlock(&nbd->mutex);
    nanosleep(&moment, NULL);
    pthread_mutex_lock(&nbd->mutex);
}

/*
 * Asks for `length` bytes in pieces, all at once, or (buffer NULL) for the extent there. What fails
 * with the connection is asked again on another.
 */
static int transfer(struct nbd_store *nbd, uint64_t offset, uint8_t *buffer, uint64_t length,
                    struct request *extent)
{
    struct request requests[PIECES];
    uint64_t until = stop_clock() + TIMEOUT_NS, piece = min_u64(PIECE_MAX, nbd->maximum);
    int result;

    pthread_mutex_lock(&nbd->mutex);
    do {
        size_t count = 0;

        result = connect_again(nbd, until);
        for (uint64_t at = 0; result == 0 && at < length && count < PIECES; at += piece) {
            result = ask(nbd, &requests[count], offset + at, buffer != NULL ? buffer + at : NULL,
                         buffer != NULL ? min_u64(piece, length - at) : length);
            count += result == 0;
            if (buffer == NULL) {
                break;
            }
        }
        await(nbd, requests, count);
        for (size_t i = 0; i < count && result == 0; i++) {
            result = requests[i].result;
        }
        if (result == 0 && extent != NULL) {
            *extent = requests[0];
        }
        if (is_broken(result) && stop_clock() < until) {
            pause_shortly(nbd);
        }
    } while (is_broken(result) && stop_clock() < until);
    pthread_mutex_unlock(&nbd->mutex);
    return is_broken(result) ? -EIO : result;
}

/* Whole blocks of the server. */
static int read_blocks(struct nbd_store *nbd, uint64_t offset, uint8_t *buffer, uint64_t length)
{
    uint64_t most = min_u64(PIECE_MAX, nbd->maximum) * PIECES;
    int result = 0;

    while (length > 0 && result == 0) {
        uint64_t part = min_u64(length, most);

        result = transfer(nbd, offset, buffer, part, NULL);
        offset += part;
        buffer += part;
        length -= part;
    }
    return result;
}

/* By a buffer of whole blocks, which the export may end within. */
static int read_around(struct nbd_store *nbd, uint64_t offset, uint8_t *buffer, uint64_t length)
{
    uint64_t begin = offset / nbd->minimum * nbd->minimum;
    uint64_t end = min_u64(div_round_up(offset + length, nbd->minimum) * nbd->minimum, nbd->size);
    uint8_t *blocks = malloc(end - begin);
    int result = blocks == NULL ? -ENOMEM : read_blocks(nbd, begin, blocks, end - begin);

    if (result == 0) {
        memcpy(buffer, blocks + (offset - begin), length);
    }
    free(blocks);
    return result;
}

static int nbd_store_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    struct nbd_store *nbd = to_nbd(store);
    uint64_t there = offset < nbd->size ? min_u64(length, nbd->size - offset) : 0;
    bool whole = offset % nbd->minimum == 0 && there % nbd->minimum == 0;

    memset((uint8_t *)buffer + there, 0, length - there);
    if (there == 0) {
        return 0;
    }
    return whole ? read_blocks(nbd, offset, buffer, there)
                 : read_around(nbd, offset, buffer, there);
}

static int nbd_store_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                            uint64_t *length)
{
    struct nbd_store *nbd = to_nbd(store);
    uint64_t begin = offset / nbd->minimum * nbd->minimum, asked;
    struct request found = {.length = 0};
    bool can_tell;

    if (offset >= nbd->size) {
        *is_data = false;
        *length = limit;
        return 0;
    }
    limit = min_u64(limit, nbd->size - offset);
    pthread_mutex_lock(&nbd->mutex);
    can_tell = nbd->handle != NULL && nbd->library.can_meta_context(nbd->handle, CONTEXT) > 0;
    pthread_mutex_unlock(&nbd->mutex);
    asked = min_u64(div_round_up(limit + (offset - begin), nbd->minimum) * nbd->minimum,
                    min_u64(nbd->size - begin, UINT32_MAX / nbd->minimum * nbd->minimum));
    *is_data = true;
    *length = limit;
    if (can_tell && transfer(nbd, begin, NULL, asked, &found) == 0 &&
        found.length > offset - begin) {
        *is_data = found.is_data;
        *length = min_u64(limit, found.length - (offset - begin));
    }
    return 0; /* what cannot be told is data */
}

static int nbd_store_info(struct store *store, struct store_info *info)
{
    const struct nbd_store *nbd = to_nbd(store);
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* of the address, which is what it is known by */

    for (const char *at = nbd->address; *at != '\0'; at++) {
        hash = (hash ^ (uint8_t)*at) * UINT64_C(0x100000001b3);
    }
    *info = (struct store_info){
        .size = nbd->size,
        .allocated = nbd->size,
        .inode = (ino_t)hash,
        .uid = geteuid(),
        .gid = getegid(),
        .mode = 0100400,
        .atime.tv_sec = nbd->opened,
        .mtime.tv_sec = nbd->opened,
        .ctime.tv_sec = nbd->opened,
    };
    return 0;
}

/* --- What an export that is only read does not do --------------------------------------------- */

static int no_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    (void)store;
    (void)offset;
    (void)buffer;
    (void)length;
    return -EROFS;
}

static int no_sync(struct store *store)
{
    (void)store;
    return 0;
}

static int no_punch(struct store *store, uint64_t offset, uint64_t length)
{
    (void)store;
    (void)offset;
    (void)length;
    return -EROFS;
}

static int no_resize(struct store *store, uint64_t size)
{
    (void)store;
    (void)size;
    return -EROFS;
}

static void nbd_store_close(struct store *store)
{
    struct nbd_store *nbd = to_nbd(store);

    if (nbd->handle != NULL) {
        nbd->library.close(nbd->handle);
    }
    if (nbd->wake >= 0) {
        close(nbd->wake);
    }
    pthread_cond_destroy(&nbd->changed);
    pthread_mutex_destroy(&nbd->mutex);
    free(nbd->address);
    free(nbd);
}

/* --- Opening --------------------------------------------------------------------------------- */

static const struct store_ops nbd_ops = {
    .read = nbd_store_read,
    .write = no_write,
    .sync = no_sync,
    .punch = no_punch,
    .resize = no_resize,
    .info = nbd_store_info,
    .extent = nbd_store_extent,
    .close = nbd_store_close,
};

static int learn_sizes(struct nbd_store *nbd)
{
    int64_t size = nbd->library.get_size(nbd->handle);
    int64_t minimum = nbd->library.get_block_size(nbd->handle, LIBNBD_SIZE_MINIMUM);
    int64_t maximum = nbd->library.get_block_size(nbd->handle, LIBNBD_SIZE_MAXIMUM);

    if (size < 0) {
        return nbd_failure(nbd);
    }
    nbd->size = (uint64_t)size;
    nbd->minimum = minimum > 0 ? (uint64_t)minimum : 1;
    nbd->maximum = maximum > 0 ? (uint64_t)maximum : PIECE_MAX;
    nbd->maximum = max_u64(nbd->maximum / nbd->minimum, 1) * nbd->minimum;
    return (nbd->minimum & (nbd->minimum - 1)) == 0 && nbd->minimum <= PIECE_MAX ? 0 : -EPROTO;
}

/* NULL, or what is missing. */
static const char *load(struct library *library)
{
    void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE), *symbol;

    if (handle == NULL) {
        return LIBRARY;
    }
#define TAKE(name)                        \
    symbol = dlsym(handle, "nbd_" #name); \
    if (symbol == NULL) {                 \
        return "nbd_" #name;              \
    }                                     \
    memcpy(&library->name, &symbol, sizeof(symbol));
    FUNCTIONS(TAKE)
    return NULL;
}

static struct nbd_store *create(const char *address)
{
    struct nbd_store *nbd = calloc(1, sizeof(*nbd));

    if (nbd == NULL) {
        return NULL;
    }
    nbd->store.ops = &nbd_ops;
    nbd->opened = time(NULL);
    pthread_mutex_init(&nbd->mutex, NULL);
    pthread_cond_init(&nbd->changed, NULL);
    nbd->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    nbd->address = strdup(address);
    if (nbd->wake < 0 || nbd->address == NULL) {
        nbd_store_close(&nbd->store);
        return NULL;
    }
    return nbd;
}

/* The process may work in another directory when the connection has to be made again. */
static bool has_relative_socket(const char *address)
{
    const char *socket = strstr(address, "socket=");

    return socket != NULL && socket[strlen("socket=")] != '/' &&
           strncmp(socket + strlen("socket="), "%2F", 3) != 0 &&
           strncmp(socket + strlen("socket="), "%2f", 3) != 0;
}

static int open_export(const char *address, const char *what, struct store **store,
                       struct error *error)
{
    struct nbd_store *nbd = create(address);
    const char *said;
    int result;

    if (nbd == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory while opening this %s", address, what);
    }
    said = load(&nbd->library);
    if (said != NULL) {
        nbd_store_close(&nbd->store);
        return error_set(error, ENOTSUP,
                         "%s: libnbd, which reads from NBD servers, is not there (%s); install it "
                         "(Debian: apt-get install libnbd0)",
                         address, said);
    }
    pthread_mutex_lock(&nbd->mutex);
    result = connect_to(nbd, stop_clock() + PATIENCE_NS);
    said = result < 0 && result != -ETIMEDOUT ? nbd->library.get_error() : NULL;
    if (result == 0) {
        result = learn_sizes(nbd);
    }
    pthread_mutex_unlock(&nbd->mutex);
    if (result < 0) {
        error_set(error, -result, "%s: this %s cannot be had from its NBD server: %s%s%s%s",
                  address, what, strerror(-result), said != NULL ? " (" : "",
                  said != NULL ? said : "", said != NULL ? ")" : "");
        nbd_store_close(&nbd->store);
        return result;
    }
    *store = &nbd->store;
    return 0;
}

#endif

int store_nbd_open(const char *address, const char *what, const struct store_file_options *options,
                   struct store **store, struct error *error)
{
    if (options->named_by != NULL) {
        return error_set(error, EPERM,
                         "%s: is an address that %s brings along as its %s; a server is asked for "
                         "nothing on an image's word alone, give the name yourself",
                         address, options->named_by, what);
    }
    if (options->access == STORE_WRITE) {
        return error_set(error, EROFS,
                         "%s: an NBD export is only read; put an overlay on it to write", address);
    }
#ifdef HAVE_LIBNBD
    if (has_relative_socket(address)) {
        return error_set(error, EINVAL, "%s: give the socket with its whole path, from / on",
                         address);
    }
    return open_export(address, what, store, error);
#else
    (void)store;
    return error_set(error, ENOTSUP,
                     "%s: this program was built without libnbd, which reads from NBD servers",
                     address);
#endif
}
