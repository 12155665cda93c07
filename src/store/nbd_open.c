/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/nbd.h"

#include "store/nbdkit.h"

#include <string.h>

bool store_nbd_is_address(const char *name)
{
    static const char *const schemes[] = {
        "nbd://", "nbds://", "nbd+unix://", "nbds+unix://", "nbd+vsock://", "nbds+vsock://",
    };

    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        if (strncmp(name, schemes[i], strlen(schemes[i])) == 0) {
            return true;
        }
    }
    return nbdkit_is_address(name);
}

int store_nbd_refuse_new(const char *address, const char *what, struct error *error)
{
    return error_set(error, ENOTSUP,
                     "%s: is the address of an NBD server, where this %s is not made; make it in a "
                     "file, and copy that there (nbdcopy)",
                     address, what);
}

/* Nothing is run, or told of it, that nobody said he means. */
static int check_program(const char *address, struct error *error)
{
    return nbdkit_is_address(address) ? nbdkit_check_allowed(address, error) : 0;
}

#ifdef HAVE_LIBNBD

#include "store/ahead.h"
#include "store/nbd_internal.h"
#include "store/read_cache.h"

/* The process may work in another directory when the connection has to be made again. */
static bool has_relative_socket(const char *address)
{
    const char *socket = strstr(address, "socket=");

    return socket != NULL && socket[strlen("socket=")] != '/' &&
           strncmp(socket + strlen("socket="), "%2F", 3) != 0 &&
           strncmp(socket + strlen("socket="), "%2f", 3) != 0;
}

static int load_library(const char *address, struct nbd_library *library, struct error *error)
{
    const char *missing = nbd_library_load(library);

    return missing == NULL
               ? 0
               : error_set(error, ENOTSUP,
                           "%s: libnbd, which speaks with NBD servers, is not there (%s); install "
                           "it (Debian: apt-get install libnbd0)",
                           address, missing);
}

/* What the address stands for. */
static int find_server(const char *address, const struct store_file_options *options,
                       const char **server, struct error *error)
{
    if (nbdkit_is_address(address)) {
        return nbdkit_start(address, options->access != STORE_WRITE, server, error);
    }
    *server = address;
    return has_relative_socket(address)
               ? error_set(error, EINVAL, "%s: give the socket with its whole path, from / on",
                           address)
               : 0;
}

/* What stands before an export that nobody else changes; on failure *store is as it was. */
static int put_before(const char *address, const struct store_file_options *options,
                      struct store **store, struct error *error)
{
    struct store *ahead;
    int result = store_read_ahead(*store, &ahead);

    if (result < 0) {
        return error_set(error, -result, "%s: out of memory while it was opened", address);
    }
    *store = ahead;
    return options->read_cache != NULL
               ? store_read_cache(ahead, address, options->read_cache,
                                  options->cache == STORE_CACHE_UNSAFE, store, error)
               : 0;
}

static int open_export(const char *address, const char *what,
                       const struct store_file_options *options, struct store **store,
                       struct error *error)
{
    struct nbd_library library;
    struct store *export = NULL;
    const char *server;
    int result = load_library(address, &library, error);

    if (result == 0) {
        result = find_server(address, options, &server, error);
    }
    if (result == 0) {
        result = nbd_export_open(address, server, what, &library, options, &export, error);
    }
    if (result < 0) {
        return result;
    }
    if (options->access != STORE_READ_SHARED) { /* others write: what is read is now */
        result = put_before(address, options, &export, error);
    }
    if (result < 0) {
        store_close(export);
        return result;
    }
    *store = export;
    nbdkit_has_begun(address);
    return 0;
}

int store_nbd_prepare(const char *address, struct error *error)
{
    struct nbd_library library;
    const char *server;
    int result = check_program(address, error);

    if (result == 0) {
        result = load_library(address, &library, error);
    }
    return result == 0 && nbdkit_is_address(address) ? nbdkit_start(address, true, &server, error)
                                                     : result;
}

#else

int store_nbd_prepare(const char *address, struct error *error)
{
    return check_program(address, error); /* opening it says what is missing */
}

#endif

int store_nbd_open(const char *address, const char *what, const struct store_file_options *options,
                   struct store **store, struct error *error)
{
    int result;

    if (options->named_by != NULL) {
        return error_set(error, EPERM,
                         "%s: is an address that %s brings along as its %s; a server is asked for "
                         "nothing on an image's word alone, give the name yourself",
                         address, options->named_by, what);
    }
    result = check_program(address, error);
    if (result < 0) {
        return result;
    }
    if (options->access == STORE_WRITE && !options->no_locks) {
        return error_set(error, EROFS,
                         "%s: an NBD server has no locks, so nothing would keep two programs from "
                         "writing this %s at once, which destroys it; see to that yourself and "
                         "allow it with -o locking=off (qcow2ctl: --locking=off), or put an "
                         "overlay on it",
                         address, what);
    }
#ifdef HAVE_LIBNBD
    return open_export(address, what, options, store, error);
#else
    (void)store;
    return error_set(error, ENOTSUP,
                     "%s: this program was built without libnbd, which speaks with NBD servers",
                     address);
#endif
}
