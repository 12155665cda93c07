/* SPDX-License-Identifier: MIT */
/*
 * A file system that the kernel has mounted from an image outlives a qcow2fs that was ended or
 * killed: nothing of it can be read any more that the kernel does not remember.
 */
#ifndef CTL_DEAD_FILES_H
#define CTL_DEAD_FILES_H

#include "util/error.h"

/*
 * -ENOTCONN with a sentence where `path` is the place of such a mount, of a raw disk that nobody
 * serves any more, or the loop device of one; else 0. Who may not look at the device below is told
 * nothing.
 */
int dead_files_refuse(const char *path, struct error *error);

#endif
