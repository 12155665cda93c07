/* SPDX-License-Identifier: MIT */
/*
 * A store that is an export of an NBD server. As a block device it has the size that it has: it
 * calls itself one (struct store_info.mode).
 *
 * A connection that breaks, or does not answer (store/nbd_connection.h), is made anew, and what was
 * read on it is read again, for options->nbd_timeout seconds, then -EIO. Writes and flushes are
 * asked again only where nothing can have been lost with the connection (R7,
 * store/nbd_unflushed.h); else they fail with -EIO from then on, and so does reading what was not
 * flushed. Several writes are made stable by one flush, so FUA would save nothing.
 */
#ifndef STORE_NBD_H
#define STORE_NBD_H

#include "store/file.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>

/*
 * Whether a name is the address of an export: nbd://, nbds://, nbd+unix://, nbd+vsock:// and the
 * like, of which none can be the name of a file that a wildcard finds; or nbdkit: with the words
 * for a server of our own (store/nbdkit.h), which can, and has to be allowed.
 */
bool store_nbd_is_address(const char *name);

/* The sentence that no new file is made at such an address; -ENOTSUP. */
int store_nbd_refuse_new(const char *address, const char *what, struct error *error);

/*
 * For a process that will be in a box (util/box.h) when it opens the address to read it: what it
 * cannot do from there is done now, while it has one thread. 0, or a negative errno with a
 * sentence.
 */
int store_nbd_prepare(const char *address, struct error *error);

/*
 * As store_file_open(): -ENOTSUP where libnbd is missing; -EPERM where an image brings the name
 * along, or nbdkit is not allowed; -EINVAL for a socket that is not named as a whole; -ECONNREFUSED
 * and the like where there is no server, -ETIMEDOUT where it does not answer. -EROFS for writing
 * without options->no_locks, since NBD has no locks; to an export that is only read; and where the
 * server has no flush, but for STORE_CACHE_UNSAFE.
 */
int store_nbd_open(const char *address, const char *what, const struct store_file_options *options,
                   struct store **store, struct error *error);

#endif
