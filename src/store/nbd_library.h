/* SPDX-License-Identifier: MIT */
/*
 * What is called of libnbd. It is loaded where an address is opened, and nowhere else: with it come
 * a dozen libraries (of TLS, of XML), which would cost every other start time and memory.
 * Internal to the store; only where libnbd was there to build with.
 */
#ifndef STORE_NBD_LIBRARY_H
#define STORE_NBD_LIBRARY_H

#include <errno.h>
#include <libnbd.h>

#define NBD_FUNCTIONS(F)              \
    F(add_meta_context)               \
    F(aio_block_status)               \
    F(aio_connect_uri)                \
    F(aio_flush)                      \
    F(aio_get_direction)              \
    F(aio_get_fd)                     \
    F(aio_is_closed)                  \
    F(aio_is_connecting)              \
    F(aio_is_dead)                    \
    F(aio_is_ready)                   \
    F(aio_notify_read)                \
    F(aio_notify_write)               \
    F(aio_pread)                      \
    F(aio_pwrite)                     \
    F(aio_zero)                       \
    F(can_flush)                      \
    F(can_meta_context)               \
    F(can_multi_conn)                 \
    F(can_zero)                       \
    F(close)                          \
    F(create)                         \
    F(get_block_size)                 \
    F(get_errno)                      \
    F(get_error)                      \
    F(get_size)                       \
    F(is_read_only)                   \
    F(set_request_structured_replies) \
    F(set_uri_allow_local_file)

#define NBD_DECLARE(name) __typeof__(&nbd_##name) name;

/* Each function by its name without nbd_. */
struct nbd_library {
    NBD_FUNCTIONS(NBD_DECLARE)
};

/* Fills `library`, which stays loaded for ever. NULL, or what is missing. */
const char *nbd_library_load(struct nbd_library *library);

/* What libnbd says of its last failure in this thread, as a negative errno. */
static inline int nbd_library_failure(const struct nbd_library *library)
{
    int number = library->get_errno();

    return number > 0 ? -number : -EIO;
}

#endif
