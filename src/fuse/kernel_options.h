/* SPDX-License-Identifier: MIT */
/* What the kernel, and libfuse, are told of a mount. */
#ifndef FUSE_KERNEL_OPTIONS_H
#define FUSE_KERNEL_OPTIONS_H

#include "fuse/session.h"

/* The options of the kernel mount, comma-separated, to be freed; NULL when memory ran out. */
char *kernel_options(const struct session_settings *settings);

#endif
