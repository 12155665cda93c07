/* SPDX-License-Identifier: MIT */
/* This daemon's entry in the registry (util/registry.h), for qcow2ctl list, umount and detach. */
#ifndef FUSE_LISTING_H
#define FUSE_LISTING_H

#include "util/registry.h"

/*
 * Enters this process, which serves `image` at `mount_point`; both are paths as they were before
 * the working directory changed, absolute. `device` is MAJOR:MINOR where who mounted has told it,
 * or NULL. With `overlay` what is written does not go to the image. NULL, with errno, where
 * that cannot be.
 */
struct registry_entry *listing_enter(const char *image, const char *mount_point, const char *device,
                                     bool writable, bool overlay);

#endif
