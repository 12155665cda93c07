/* SPDX-License-Identifier: MIT */
/*
 * The names by which an image file refers to other files: its backing file and
 * its data file. Pure functions, apart from asking whether a file exists.
 */
#ifndef IMAGE_FILENAME_H
#define IMAGE_FILENAME_H

#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * Resolves `name`, found in the image `overlay` as its `what` ("backing file",
 * "data file"), to a path for open(2), in *path for the caller to free.
 *
 *     /abs/name        itself
 *     name             in the overlay's directory
 *     file:...         the same without the prefix
 *     json:..., x:...  refused: not a file, the sentence names the protocol
 *
 * QEMU looks for a data file, and for file:name, in the current directory
 * instead (`also_cwd`, or the prefix). For these, the file may be in either
 * place; where both exist and are different files, it is refused.
 *
 * 0; -EINVAL or -ENOTSUP with a sentence; -ENOMEM.
 */
int filename_resolve(const char *overlay, const char *what, const char *name, bool also_cwd,
                     char **path, struct error *error);

/* Length of the protocol name before a colon that no slash precedes; 0 where there is none. */
size_t filename_protocol(const char *name);

/*
 * `name`, found in the image `overlay`, as QEMU shows it: relative to where the
 * overlay is, unless it is absolute or has a protocol. For the caller to free;
 * NULL when memory ran out. For people to read: filename_resolve() opens.
 */
char *filename_full(const char *overlay, const char *name);

#endif
