/* SPDX-License-Identifier: MIT */
/*
 * From a path to an open and locked descriptor, and from whatever goes wrong
 * on the way to the sentence for it. Internal to the store.
 */
#ifndef STORE_OPEN_H
#define STORE_OPEN_H

#include "store/file.h"
#include "store/owners.h"

#include <stdbool.h>
#include <sys/stat.h>

/* Whether this mode goes past the host's page cache. */
bool cache_is_direct(enum store_cache cache);

/* What is known of a file that was opened. */
struct host_file {
    struct stat status;
    struct owners owners; /* those that led to it, and its own */
};

/*
 * A descriptor, which holds the locks for options->access, and is O_DIRECT
 * where options->cache says so, with what is known of the file; or a negative errno with its
 * sentence, as store_file_open() documents them.
 */
int host_file_open(const char *path, const char *what, const struct store_file_options *options,
                   struct host_file *file, struct error *error);

/* The same in this process, where there is another one that opens for it (store/opener.h). */
int host_file_open_here(const char *path, const char *what,
                        const struct store_file_options *options, struct host_file *file,
                        struct error *error);

/* Whether reading may change the access time of the file that host_file_open() has opened. */
bool host_file_changes_atime(int fd, const struct stat *status);

/*
 * A store of a regular file that is open for reading and writing; it belongs
 * to the store from then on. No locks are taken. 0 or -ENOMEM.
 */
int store_file_adopt(int fd, enum store_cache cache, struct store **store);

#endif
