/* SPDX-License-Identifier: MIT */
/*
 * Where an image is mounted: what is there before, and whether the mount is still there after the
 * kernel has said that it is gone.
 */
#ifndef FUSE_MOUNT_POINT_H
#define FUSE_MOUNT_POINT_H

#include "util/error.h"
#include "util/log.h"
#include "util/mounts.h"

#include <stdbool.h>

/*
 * Finds out where `path` really is (later there is another working directory) and whether it is a
 * directory or a regular file; a dead mount of ours is taken away first. `absolute` is
 * the caller's to free. 0 or a negative errno with a sentence.
 */
int mount_point_find(const char *path, struct log *log, char **absolute, bool *is_directory,
                     struct error *error);

/*
 * What a directory holds a mount on it would hide, and somebody may be in need of it: 0, or
 * -ENOTEMPTY with a sentence.
 */
int mount_point_require_empty(const char *absolute, struct error *error);

/*
 * Whether the connection of that mount was aborted, and not unmounted: the kernel says the same to
 * who reads requests, but the mount is still there. False where its device is 0 (unknown).
 */
bool mount_point_was_aborted(const struct mount_known *mount);

#endif
