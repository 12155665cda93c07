/* SPDX-License-Identifier: MIT */
/* Whether requests can come over io_uring, which libfuse and the kernel must both know. */
#ifndef FUSE_IO_URING_H
#define FUSE_IO_URING_H

#include "util/error.h"

/*
 * 0, or -ENOTSUP with what is missing. (A libfuse built without it says so, and goes on without.)
 */
int io_uring_check(struct error *error);

#endif
