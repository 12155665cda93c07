/* SPDX-License-Identifier: MIT */
/*
 * For a process in a box (util/box.h), which opens nothing any more: another one, forked before the
 * box is entered, that opens for it. It sees no byte of what it opens. What it is asked is judged
 * as if an image had said it, since an image may have taken over who asks:
 *
 *     a name that the user gave     is opened, for reading
 *     a name that an image gave     as the policy says, with the rights of the owner of that image,
 *                                   which must be open already
 *     a name to be made             where the user gave it, and nothing has that name yet
 *
 * A process has one opener, or none: then these functions do it themselves. Where store_file_open()
 * asks is therefore known to this file alone, as the one thing here that is the process's own.
 */
#ifndef STORE_OPENER_H
#define STORE_OPENER_H

#include "store/file.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

/* A file that may be made. */
struct opener_new {
    const char *path;
    const char *becomes; /* the name that it may get then, whatever has it; NULL: none */
};

/* What the opener does. All is borrowed until opener_start() has returned. */
struct opener_policy {
    const char *const *given;       /* names that the user gave; NULL at the end */
    const struct opener_new *makes; /* one without a path at the end */
    bool follows;                   /* names of images are opened at all */
    bool beneath; /* only in the directory of the image that names them, or below */
    bool trusts;  /* with the rights of this process */
};

/* Before there are threads. 0, or a negative errno. */
int opener_start(const struct opener_policy *policy);

/* Waits for its end. From then on the functions below do it themselves. */
void opener_stop(void);

/* stat(2): 0, or a negative errno. */
int opener_stat(const char *path, struct stat *status);

/* realpath(3), for the caller to free; NULL with errno. */
char *opener_real_path(const char *path);

/* readlink(2) with the NUL behind it: its length, or -1. */
ssize_t opener_read_link(const char *path, char *target, size_t size);

/* A new file, for writing; or a negative errno. */
int opener_make(const char *path);

/* Renames what opener_make() has made to `becomes`, or removes it. 0, or a negative errno. */
int opener_replace(const char *path, const char *becomes);
int opener_remove(const char *path);

#endif
