/* SPDX-License-Identifier: MIT */
/*
 * A mount of qcow2fs whose daemon was killed stays in the kernel's table, and answers all with
 * ENOTCONN ("Transport endpoint is not connected") until it is unmounted.
 */
#ifndef UTIL_DEAD_MOUNT_H
#define UTIL_DEAD_MOUNT_H

#include "util/log.h"

/*
 * Unmounts what is mounted at exactly `path` for as long as that is such a dead mount, and says so
 * in a line of `log`. What answers, what is of another type, and what has a daemon that is still at
 * work (an aborted connection: it is about to say what was lost) stays. 0 when there is
 * nothing dead there (any more); -ENOTCONN where it could not be unmounted, or may not be.
 */
int dead_mount_clear(const char *path, struct log *log);

#endif
