/* SPDX-License-Identifier: MIT */
/* This daemon's entry in the registry (util/registry.h), for qcow2ctl list, umount and detach. */
#ifndef FUSE_LISTING_H
#define FUSE_LISTING_H

#include "disk/image.h"
#include "util/registry.h"

/*
 * Enters this process, which serves `image`, opened as `file`, at `mount_point`; both are paths as
 * they were before the working directory changed, absolute. `device` is that of the mount's files,
 * 0 if unknown. With `overlay` what is written does not go to the image. NULL, with errno, where
 * that cannot be.
 */
struct registry_entry *listing_enter(const char *image, const struct image_file *file,
                                     const char *mount_point, dev_t device, bool writable,
                                     bool overlay);

#endif
