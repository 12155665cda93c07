/* SPDX-License-Identifier: MIT */
/* Whether this host lets anybody mount with FUSE. A leaf. */
#ifndef UTIL_FUSE_DEVICE_H
#define UTIL_FUSE_DEVICE_H

#include "util/error.h"

/*
 * 0; or a negative errno with a sentence, where there is no /dev/fuse, or root may not open it:
 * what to do about that is another thing inside a container than outside.
 */
int fuse_device_check(struct error *error);

#endif
