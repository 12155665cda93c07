/* SPDX-License-Identifier: MIT */
/* The end of a mount, by the steward: the process that has served may not unmount any more. */
#ifndef FUSE_UNMOUNT_H
#define FUSE_UNMOUNT_H

#include "fuse/steward.h"
#include "util/log.h"

struct fuse_session;

/* A descriptor that unmount_by_steward() needs, while it can be had. 0 or a negative errno. */
int unmount_prepare(int *over);

/*
 * Nobody answers any more. Closes the connection; then unmounts, unless that was done, or `steward`
 * is NULL, for a mount without a name. `over` stays the caller's. What is left is said in a line.
 */
void unmount_by_steward(struct fuse_session *fuse, int over, struct steward *steward,
                        const char *mount_point, struct log *log);

#endif
