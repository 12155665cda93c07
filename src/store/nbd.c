/* SPDX-License-Identifier: MIT */
#include "config.h"

#ifdef HAVE_LIBNBD

#include "store/nbd_internal.h"

#include "store/nbd_readers.h"
#include "store/nbdkit.h"
#include "util/checked.h"
#include "util/range_lock.h"
#include "util/stop.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SECOND     UINT64_C(1000000000) /* nanoseconds */
#define PIECE_MAX  (UINT64_C(1) << 20)  /* of one request, bytes: several are under way */
#define SMALL      (UINT64_C(64) << 10) /* fewer bytes than these take a server no less time */
#define ZEROES_MAX (UINT64_C(32) << 20) /* any server takes so many bytes of zeros at once */
#define PIECES     8
#define ZEROS_SIZE 65536

static const uint8_t zeros[ZEROS_SIZE];

struct nbd_store {
    struct store store;
    struct nbd_library library;
    struct nbd_export export;
    char *address;                     /* as it was named */
    char *server;                      /* that of its server */
    struct nbd_connection *connection; /* the main one */
    struct nbd_readers *readers;
    uint64_t size;      /* bytes, of the export when it was opened */
    uint64_t minimum;   /* a request begins and ends at multiples of so many bytes */
    uint64_t preferred; /* and does best so at multiples of so many */
    uint64_t maximum;   /* and has at most so many */
    time_t opened;

    /* Where it is written, else NULL or not used. */
    struct nbd_unflushed *unflushed;
    bool unsafe;               /* nothing is flushed */
    bool has_zeroes;           /* the server makes zeros itself, and may give their space back */
    struct range_locks blocks; /* of `minimum` bytes, that are changed: only where that is not 1 */
    pthread_mutex_t flush;     /* held while one is under way */
};

static struct nbd_store *to_nbd(struct store *store)
{
    return (struct nbd_store *)store;
}

/* --- Requests -------------------------------------------------------------------------------- */

/*
 * All at once. What fails with the connection is asked again on another: a write only where none
 * that was sent could have been lost with it.
 */
static int transfer(struct nbd_store *nbd, struct nbd_request *requests, size_t count)
{
    uint64_t until = nbd_connection_deadline(nbd->connection);
    struct nbd_connection *connection;
    bool broken = false;
    int result;

    do {
        connection = broken ? nbd->connection : nbd_readers_take(nbd->readers, requests, count);
        result = nbd_connection_ask(connection, requests, count, until);
        if (!broken) {
            nbd_readers_give_back(nbd->readers, connection, count, nbd_is_broken(result));
        }
        broken = nbd_is_broken(result);
    } while (broken && stop_clock() < until);
    return nbd_is_broken(result) ? -EIO : result;
}

/* Of a request that is too long for one: up to where one of the server's best size begins. */
static uint64_t first_piece(const struct nbd_store *nbd, uint64_t offset, uint64_t length,
                            uint64_t most)
{
    return length <= most ? length : round_down(offset + most, nbd->preferred) - offset;
}

/* Whole blocks of the server, in pieces; `buffer` is NULL for zeros. */
static int transfer_blocks(struct nbd_store *nbd, enum nbd_kind kind, uint64_t offset,
                           uint8_t *buffer, uint64_t length)
{
    uint64_t piece = kind == NBD_ZEROES ? ZEROES_MAX : min_u64(PIECE_MAX, nbd->maximum);
    int result = 0;

    while (length > 0 && result == 0) {
        struct nbd_request requests[PIECES];
        size_t count = 0;

        while (count < PIECES && length > 0) {
            uint64_t part = first_piece(nbd, offset, length, piece);

            requests[count++] = (struct nbd_request){
                .kind = kind, .offset = offset, .length = part, .buffer = buffer};
            offset += part;
            buffer = buffer != NULL ? buffer + part : NULL;
            length -= part;
        }
        result = transfer(nbd, requests, count);
    }
    return result;
}

/* The blocks that a range touches, which the export may end within. */
static uint64_t blocks_begin(const struct nbd_store *nbd, uint64_t offset)
{
    return offset / nbd->minimum * nbd->minimum;
}

static uint64_t blocks_end(const struct nbd_store *nbd, uint64_t end)
{
    return min_u64(div_round_up(end, nbd->minimum) * nbd->minimum, nbd->size);
}

static bool is_whole(const struct nbd_store *nbd, uint64_t offset, uint64_t length)
{
    return offset == blocks_begin(nbd, offset) &&
           offset + length == blocks_end(nbd, offset + length);
}

/* --- Reading --------------------------------------------------------------------------------- */

/* By a buffer of whole blocks. */
static int read_around(struct nbd_store *nbd, uint64_t offset, uint8_t *buffer, uint64_t length)
{
    uint64_t begin = blocks_begin(nbd, offset), end = blocks_end(nbd, offset + length);
    uint8_t *blocks = malloc(in_memory(end - begin));
    int result =
        blocks == NULL ? -ENOMEM : transfer_blocks(nbd, NBD_READ, begin, blocks, end - begin);

    if (result == 0) {
        memcpy(buffer, blocks + (offset - begin), in_memory(length));
    }
    free(blocks);
    return result;
}

static int nbd_store_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    struct nbd_store *nbd = to_nbd(store);
    uint64_t there = offset < nbd->size ? min_u64(length, nbd->size - offset) : 0;

    memset((uint8_t *)buffer + there, 0, in_memory(length - there));
    if (there == 0) {
        return 0;
    }
    return is_whole(nbd, offset, there) ? transfer_blocks(nbd, NBD_READ, offset, buffer, there)
                                        : read_around(nbd, offset, buffer, there);
}

static int nbd_store_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                            uint64_t *length)
{
    struct nbd_store *nbd = to_nbd(store);
    uint64_t begin = blocks_begin(nbd, offset);
    struct nbd_request request = {.kind = NBD_EXTENT, .offset = begin};

    if (offset >= nbd->size) {
        *is_data = false;
        *length = limit;
        return 0;
    }
    limit = min_u64(limit, nbd->size - offset);
    request.length =
        min_u64(blocks_end(nbd, offset + limit) - begin, UINT32_MAX / nbd->minimum * nbd->minimum);
    *is_data = true;
    *length = limit;
    if (transfer(nbd, &request, 1) == 0 && request.found > offset - begin) {
        *is_data = request.is_data;
        *length = min_u64(limit, request.found - (offset - begin));
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
        .preferred = max_u64(nbd->preferred, SMALL),
        .mode = S_IFBLK | (nbd->unflushed != NULL ? 0600 : 0400), /* its size is fixed as theirs */
        .atime.tv_sec = nbd->opened,
        .mtime.tv_sec = nbd->opened,
        .ctime.tv_sec = nbd->opened,
    };
    return 0;
}

/* --- Writing --------------------------------------------------------------------------------- */

/* What is around the range in its blocks is read and written back: they are held meanwhile. */
static int write_around(struct nbd_store *nbd, uint64_t offset, const uint8_t *buffer,
                        uint64_t length)
{
    uint64_t begin = blocks_begin(nbd, offset), end = blocks_end(nbd, offset + length);
    uint8_t *blocks = malloc(in_memory(end - begin));
    int result =
        blocks == NULL ? -ENOMEM : transfer_blocks(nbd, NBD_READ, begin, blocks, end - begin);

    if (result == 0) {
        memcpy(blocks + (offset - begin), buffer, in_memory(length));
        result = transfer_blocks(nbd, NBD_WRITE, begin, blocks, end - begin);
    }
    free(blocks);
    return result;
}

static int nbd_store_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    struct nbd_store *nbd = to_nbd(store);
    struct range_lock lock = {.first = offset / nbd->minimum,
                              .last = (offset + length - 1) / nbd->minimum};
    uint8_t *bytes = (uint8_t *)(uintptr_t)buffer; /* which a write does not change */
    int result;

    if (nbd->unflushed == NULL) {
        return -EROFS;
    }
    if (!range_within(offset, length, nbd->size)) {
        return -ENOSPC;
    }
    if (length == 0) {
        return 0;
    }
    if (nbd->minimum == 1) {
        return transfer_blocks(nbd, NBD_WRITE, offset, bytes, length);
    }
    range_lock_take(&nbd->blocks, &lock);
    result = is_whole(nbd, offset, length) ? transfer_blocks(nbd, NBD_WRITE, offset, bytes, length)
                                           : write_around(nbd, offset, bytes, length);
    range_lock_release(&nbd->blocks, &lock);
    return result;
}

/* One at a time, so that it is known what each covers. */
static int nbd_store_sync(struct store *store)
{
    struct nbd_store *nbd = to_nbd(store);
    struct nbd_request request = {.kind = NBD_FLUSH};
    bool at_stake;
    int result;

    if (nbd->unflushed == NULL || nbd->unsafe) {
        return 0;
    }
    pthread_mutex_lock(&nbd->flush);
    nbd_unflushed_flush_begins(nbd->unflushed);
    at_stake = nbd_unflushed_at_stake(nbd->unflushed);
    result = transfer(nbd, &request, 1);
    if (result == 0 || at_stake) { /* R7 */
        nbd_unflushed_flush_ends(nbd->unflushed, result == 0);
    }
    pthread_mutex_unlock(&nbd->flush);
    return result;
}

static int write_zeros(struct store *store, uint64_t offset, uint64_t length)
{
    int result = 0;

    while (length > 0 && result == 0) {
        size_t part = (size_t)min_u64(length, sizeof(zeros));

        result = nbd_store_write(store, offset, zeros, part);
        offset += part;
        length -= part;
    }
    return result;
}

/*
 * By WRITE_ZEROES, which lets the server give the space back; TRIM alone would promise nothing of
 * what is read afterwards.
 */
static int nbd_store_punch(struct store *store, uint64_t offset, uint64_t length)
{
    struct nbd_store *nbd = to_nbd(store);
    uint64_t end, first, last;
    struct range_lock lock;
    int result;

    if (nbd->unflushed == NULL) {
        return -EROFS;
    }
    if (offset >= nbd->size || length == 0) {
        return 0;
    }
    end = offset + min_u64(length, nbd->size - offset);
    first = min_u64(div_round_up(offset, nbd->minimum) * nbd->minimum, end);
    last = end == nbd->size ? end : max_u64(blocks_begin(nbd, end), first);
    if (!nbd->has_zeroes) {
        return write_zeros(store, offset, end - offset);
    }
    result = write_zeros(store, offset, first - offset);
    if (result == 0 && first < last) {
        lock.first = first / nbd->minimum;
        lock.last = (last - 1) / nbd->minimum;
        range_lock_take(&nbd->blocks, &lock);
        result = transfer_blocks(nbd, NBD_ZEROES, first, NULL, last - first);
        range_lock_release(&nbd->blocks, &lock);
    }
    return result == 0 ? write_zeros(store, last, end - last) : result;
}

static bool nbd_store_refuses_holes(struct store *store)
{
    return !to_nbd(store)->has_zeroes;
}

static int no_resize(struct store *store, uint64_t size)
{
    (void)store;
    (void)size;
    return -ENOTSUP;
}

/* --- Opening and closing --------------------------------------------------------------------- */

static void nbd_store_close(struct store *store)
{
    struct nbd_store *nbd = to_nbd(store);

    nbd_readers_destroy(nbd->readers);
    nbd_connection_destroy(nbd->connection);
    nbd_unflushed_destroy(nbd->unflushed);
    range_locks_destroy(&nbd->blocks);
    pthread_mutex_destroy(&nbd->flush);
    free(nbd->address);
    free(nbd->server);
    free(nbd);
}

static const struct store_ops nbd_ops = {
    .read = nbd_store_read,
    .write = nbd_store_write,
    .sync = nbd_store_sync,
    .punch = nbd_store_punch,
    .refuses_holes = nbd_store_refuses_holes,
    .resize = no_resize,
    .info = nbd_store_info,
    .extent = nbd_store_extent,
    .close = nbd_store_close,
};

static int learn_sizes(struct nbd_store *nbd)
{
    const struct nbd_library *library = &nbd->library;
    struct nbd_handle *handle = nbd_connection_handle(nbd->connection);
    int64_t size = library->get_size(handle);
    int64_t minimum = library->get_block_size(handle, LIBNBD_SIZE_MINIMUM);
    int64_t preferred = library->get_block_size(handle, LIBNBD_SIZE_PREFERRED);
    int64_t maximum = library->get_block_size(handle, LIBNBD_SIZE_MAXIMUM);

    if (size < 0) {
        return nbd_library_failure(library);
    }
    nbd->size = (uint64_t)size;
    nbd->minimum = minimum > 0 ? (uint64_t)minimum : 1;
    nbd->maximum = maximum > 0 ? (uint64_t)maximum : PIECE_MAX;
    nbd->maximum = max_u64(nbd->maximum / nbd->minimum, 1) * nbd->minimum;
    nbd->preferred = preferred > 0 ? (uint64_t)preferred : nbd->minimum;
    if (!is_power_of_two(nbd->preferred) || nbd->preferred < nbd->minimum ||
        nbd->preferred > min_u64(nbd->maximum, PIECE_MAX)) {
        nbd->preferred = nbd->minimum;
    }
    nbd->export.size = nbd->size;
    nbd_readers_allow(nbd->readers, nbd->size, library->can_multi_conn(handle) > 0);
    return (nbd->minimum & (nbd->minimum - 1)) == 0 && nbd->minimum <= PIECE_MAX ? 0 : -EPROTO;
}

static struct nbd_store *create(const char *address, const char *server,
                                const struct nbd_library *library,
                                const struct store_file_options *options)
{
    struct nbd_store *nbd = calloc(1, sizeof(*nbd));
    uint64_t seconds = options->nbd_timeout != 0 ? options->nbd_timeout : STORE_NBD_TIMEOUT_DEFAULT;

    if (nbd == NULL) {
        return NULL;
    }
    nbd->store.ops = &nbd_ops;
    nbd->library = *library;
    nbd->opened = time(NULL);
    nbd->unsafe = options->cache == STORE_CACHE_UNSAFE;
    range_locks_init(&nbd->blocks);
    pthread_mutex_init(&nbd->flush, NULL);
    nbd->address = strdup(address);
    nbd->server = strdup(server); /* to come back to, when the caller's is gone */
    nbd->export = (struct nbd_export){
        .library = &nbd->library, .address = nbd->server, .timeout = seconds * SECOND};
    nbd->connection = nbd_connection_create(&nbd->export);
    nbd->readers = nbd_readers_create(&nbd->export, nbd->connection);
    if (nbd->connection == NULL || nbd->readers == NULL || nbd->address == NULL ||
        nbd->server == NULL) {
        nbd_store_close(&nbd->store);
        return NULL;
    }
    return nbd;
}

static int explain_nbdkit(const struct nbd_store *nbd, const char *what, int result,
                          struct error *error)
{
    char said[NBDKIT_SAID];

    nbdkit_said(nbd->address, said);
    return error_set(error, -result, "%s: this %s cannot be had from nbdkit: %s", nbd->address,
                     what, said[0] != '\0' ? said : strerror(-result));
}

/* Connects, and learns what the server has. */
static int connect_to_export(struct nbd_store *nbd, const char *what, struct error *error)
{
    const char *said;
    int result = nbd_connection_begin(nbd->connection, stop_clock() + nbd->export.timeout);

    said = result < 0 && result != -ETIMEDOUT ? nbd->library.get_error() : NULL;
    if (result == 0) {
        result = learn_sizes(nbd);
    }
    if (result == 0) {
        return 0;
    }
    if (nbdkit_is_address(nbd->address)) {
        return explain_nbdkit(nbd, what, result, error);
    }
    return error_set(error, -result, "%s: this %s cannot be had from its NBD server: %s%s%s%s",
                     nbd->address, what, strerror(-result), said != NULL ? " (" : "",
                     said != NULL ? said : "", said != NULL ? ")" : "");
}

/*
 * What was written before, by whoever did, is flushed: only then is what is read now what is there
 * after a loss as well.
 */
static int prepare_to_write(struct nbd_store *nbd, const char *what, struct error *error)
{
    struct nbd_handle *handle = nbd_connection_handle(nbd->connection);
    int result;

    if (nbd->library.is_read_only(handle) != 0) {
        return error_set(error, EROFS,
                         "%s: its server lets nobody write to this %s; serve it to be written, or "
                         "open it read-only",
                         nbd->address, what);
    }
    if (nbd->library.can_flush(handle) <= 0 && !nbd->unsafe) {
        return error_set(error, EROFS,
                         "%s: its server has no flush, so it promises to keep nothing that is "
                         "written to this %s; serve it otherwise, or write with -o cache=unsafe "
                         "what may be lost",
                         nbd->address, what);
    }
    nbd->has_zeroes = nbd->library.can_zero(handle) > 0;
    nbd->unflushed = nbd_unflushed_create(nbd->size);
    nbd->export.unflushed = nbd->unflushed;
    if (nbd->unflushed == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory while opening this %s", nbd->address,
                         what);
    }
    result = nbd_store_sync(&nbd->store);
    return result == 0 ? 0
                       : error_set(error, -result, "%s: its server cannot flush this %s: %s",
                                   nbd->address, what, strerror(-result));
}

int nbd_export_open(const char *address, const char *server, const char *what,
                    const struct nbd_library *library, const struct store_file_options *options,
                    struct store **store, struct error *error)
{
    struct nbd_store *nbd = create(address, server, library, options);
    int result;

    if (nbd == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory while opening this %s", address, what);
    }
    result = connect_to_export(nbd, what, error);
    if (result == 0 && options->access == STORE_WRITE) {
        result = prepare_to_write(nbd, what, error);
    }
    if (result < 0) {
        nbd_store_close(&nbd->store);
        return result;
    }
    *store = &nbd->store;
    return 0;
}

#else

typedef int nbd_is_not_built; /* a file is not empty */

#endif
