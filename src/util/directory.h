/* SPDX-License-Identifier: MIT */
/* What is in a directory of the host. A leaf. */
#ifndef UTIL_DIRECTORY_H
#define UTIL_DIRECTORY_H

#include <stdbool.h>

/* 0, and whether it holds nothing; or a negative errno: -ENOTDIR, -EACCES ... */
int directory_is_empty(const char *path, bool *empty);

#endif
