/* SPDX-License-Identifier: MIT */
/*
 * A store that is an export of an NBD server, which is only read.
 *
 * One connection, with many requests under way on it. It has no thread: who waits for an answer
 * reads what the server sends, for all that wait, until its own has come; the next one goes on
 * then. So nothing runs where nothing is asked for, and a process may fork. A connection that
 * breaks is made anew, and what was asked on it is asked again, for a minute.
 */
#ifndef STORE_NBD_H
#define STORE_NBD_H

#include "store/file.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>

/* Whether a name is the address of an export: nbd://, nbds://, nbd+unix:, nbd+vsock: and the like.
 */
bool store_nbd_is_address(const char *name);

/*
 * As store_file_open(): -ENOTSUP where libnbd is missing, -EROFS for writing, -EPERM where
 * an image brings the name along, -EINVAL for a socket that is not named as a whole, -ECONNREFUSED
 * and the like where there is no server, -ETIMEDOUT where it does not answer.
 */
int store_nbd_open(const char *address, const char *what, const struct store_file_options *options,
                   struct store **store, struct error *error);

#endif
