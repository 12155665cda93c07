/* SPDX-License-Identifier: MIT */
/*
 * What it costs at least to show an NBD export through FUSE: what no file system that asks a server
 * can do with less. For the rows of tests/bench/run whose server is far away:
 *
 *     far-floor URI FILE SIZE
 *
 * The first SIZE bytes of the export are shown over FILE, to be read, until that is unmounted. One
 * thread has both ends: what the kernel asks is sent on at once, over the one of a few connections
 * that has least to do, and what the server answers is handed on as it comes. There is no format,
 * no cache and no lock, and nobody wakes anybody; where something fails, that is the end.
 */
#define FUSE_USE_VERSION 312

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <libnbd.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CONNECTIONS 4  /* as many as qcow2fs has */
#define UNDER_WAY   64 /* requests that the kernel sends at once, in the background */
#define ENTRY_LASTS 1000.0
#define READ_ONLY   (S_IFREG | 0444)

struct connection {
    struct nbd_handle *handle;
    unsigned under_way; /* requests */
};

struct floor {
    struct connection connections[CONNECTIONS];
    off_t size; /* bytes that are shown */
};

struct asked {
    struct connection *connection;
    fuse_req_t request;
    size_t length;
    char buffer[];
};

/* --- What the kernel asks ------------------------------------------------------------------------
 */

static void on_init(void *context, struct fuse_conn_info *kernel)
{
    (void)context;
    kernel->max_background = UNDER_WAY;
    kernel->congestion_threshold = UNDER_WAY;
}

static void on_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    const struct floor *shown = fuse_req_userdata(request);
    struct stat attributes = {
        .st_ino = inode, .st_mode = READ_ONLY, .st_nlink = 1, .st_size = shown->size};

    (void)info;
    fuse_reply_attr(request, &attributes, ENTRY_LASTS);
}

static void on_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    (void)inode;
    info->keep_cache = 1;
    fuse_reply_open(request, info);
}

static struct connection *least_busy(struct floor *shown)
{
    struct connection *found = &shown->connections[0];

    for (unsigned i = 1; i < CONNECTIONS; i++) {
        if (shown->connections[i].under_way < found->under_way) {
            found = &shown->connections[i];
        }
    }
    return found;
}

static int on_answer(void *context, int *error)
{
    struct asked *asked = context;

    asked->connection->under_way--;
    if (*error != 0) {
        fuse_reply_err(asked->request, *error);
    } else {
        fuse_reply_buf(asked->request, asked->buffer, asked->length);
    }
    free(asked);
    return 1; /* it is forgotten */
}

static void ask(struct floor *shown, fuse_req_t request, size_t length, off_t offset)
{
    struct asked *asked = malloc(sizeof(*asked) + length);
    nbd_completion_callback done = {.callback = on_answer, .user_data = asked};

    if (asked == NULL) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    *asked = (struct asked){.connection = least_busy(shown), .request = request, .length = length};
    asked->connection->under_way++;
    if (nbd_aio_pread(asked->connection->handle, asked->buffer, length, (uint64_t)offset, done, 0) <
        0) {
        asked->connection->under_way--;
        fuse_reply_err(request, EIO);
        free(asked);
    }
}

static void on_read(fuse_req_t request, fuse_ino_t inode, size_t length, off_t offset,
                    struct fuse_file_info *info)
{
    struct floor *shown = fuse_req_userdata(request);
    off_t left = offset < shown->size ? shown->size - offset : 0;

    (void)inode;
    (void)info;
    length = (off_t)length < left ? length : (size_t)left;
    if (length == 0) {
        fuse_reply_buf(request, NULL, 0);
    } else {
        ask(shown, request, length, offset);
    }
}

static const struct fuse_lowlevel_ops operations = {
    .init = on_init,
    .getattr = on_getattr,
    .open = on_open,
    .read = on_read,
};

/* --- Both ends ------------------------------------------------------------------------------- */

static bool serve_kernel(struct fuse_session *session, struct fuse_buf *request)
{
    int length;

    while ((length = fuse_session_receive_buf(session, request)) > 0) {
        fuse_session_process_buf(session, request);
    }
    return length == -EAGAIN || length == -EINTR;
}

static bool serve_server(struct nbd_handle *handle, short events)
{
    bool reads = (events & (POLLIN | POLLHUP | POLLERR)) != 0 &&
                 (nbd_aio_get_direction(handle) & LIBNBD_AIO_DIRECTION_READ) != 0;
    int result = reads ? nbd_aio_notify_read(handle) : nbd_aio_notify_write(handle);

    if (result < 0 || nbd_aio_is_dead(handle) > 0) {
        fprintf(stderr, "far-floor: the server is gone: %s\n", nbd_get_error());
        return false;
    }
    return true;
}

static void wait_for(struct floor *shown, int kernel, struct pollfd ends[CONNECTIONS + 1])
{
    ends[CONNECTIONS] = (struct pollfd){.fd = kernel, .events = POLLIN};
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        struct nbd_handle *handle = shown->connections[i].handle;
        unsigned direction = nbd_aio_get_direction(handle);

        ends[i].fd = nbd_aio_get_fd(handle);
        ends[i].events = (short)(((direction & LIBNBD_AIO_DIRECTION_READ) != 0 ? POLLIN : 0) |
                                 ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 ? POLLOUT : 0));
        ends[i].revents = 0;
    }
    (void)!poll(ends, CONNECTIONS + 1, -1);
}

static bool serve(struct floor *shown, struct fuse_session *session)
{
    struct pollfd ends[CONNECTIONS + 1];
    struct fuse_buf request = {.mem = NULL};
    int kernel = fuse_session_fd(session);
    bool goes_on = fcntl(kernel, F_SETFL, fcntl(kernel, F_GETFL) | O_NONBLOCK) == 0;

    while (goes_on && !fuse_session_exited(session)) {
        wait_for(shown, kernel, ends);
        for (unsigned i = 0; i < CONNECTIONS && goes_on; i++) {
            goes_on =
                ends[i].revents == 0 || serve_server(shown->connections[i].handle, ends[i].revents);
        }
        if (goes_on && ends[CONNECTIONS].revents != 0) {
            goes_on = serve_kernel(session, &request);
        }
    }
    free(request.mem);
    return fuse_session_exited(session) != 0;
}

/* --- From beginning to end
 * ------------------------------------------------------------------------ */

static bool connect_all(struct floor *shown, const char *uri)
{
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        struct nbd_handle *handle = nbd_create();

        shown->connections[i].handle = handle;
        if (handle == NULL || nbd_set_uri_allow_local_file(handle, true) < 0 ||
            nbd_connect_uri(handle, uri) < 0) {
            fprintf(stderr, "far-floor: %s: %s\n", uri, nbd_get_error());
            return false;
        }
    }
    if (shown->size <= 0 || nbd_get_size(shown->connections[0].handle) < shown->size) {
        fprintf(stderr, "far-floor: %s: has no %lld bytes to be shown\n", uri,
                (long long)shown->size);
        return false;
    }
    return true;
}

static bool mount_over(struct floor *shown, const char *file)
{
    char name[] = "far-floor";
    char *words[] = {name};
    struct fuse_args arguments = FUSE_ARGS_INIT(1, words);
    struct fuse_session *session =
        fuse_session_new(&arguments, &operations, sizeof(operations), shown);
    bool ended_well = false;

    if (session != NULL && fuse_set_signal_handlers(session) == 0 &&
        fuse_session_mount(session, file) == 0) {
        ended_well = serve(shown, session);
        fuse_session_unmount(session);
    }
    fuse_opt_free_args(&arguments);
    if (session != NULL) {
        fuse_remove_signal_handlers(session);
        fuse_session_destroy(session);
    }
    return ended_well;
}

int main(int count, char **words)
{
    struct floor shown = {.size = 0};
    bool ended_well;

    if (count != 4) {
        fprintf(stderr, "usage: far-floor URI FILE SIZE\n");
        return 2;
    }
    shown.size = strtoll(words[3], NULL, 10);
    ended_well = connect_all(&shown, words[1]) && mount_over(&shown, words[2]);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        nbd_close(shown.connections[i].handle);
    }
    return ended_well ? EXIT_SUCCESS : EXIT_FAILURE;
}
