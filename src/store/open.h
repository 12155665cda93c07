/* SPDX-License-Identifier: MIT */
/*
 * From a path to an open and locked descriptor, and from whatever goes wrong
 * on the way to the sentence for it. Internal to the store.
 */
#ifndef STORE_OPEN_H
#define STORE_OPEN_H

#include "store/file.h"

#include <sys/stat.h>

/*
 * A descriptor, which holds the locks for `access`, with *status of the file;
 * or a negative errno with its sentence, as store_file_open() documents them.
 */
int host_file_open(const char *path, const char *what, enum store_access access,
                   struct stat *status, struct error *error);

#endif
