/* SPDX-License-Identifier: MIT */
/*
 * A mount that has a name for a while: in a directory that only this user may enter, detached and
 * removed when passing_mount_end() is called, or when this process is gone, however that ended: a
 * process of its own waits for either.
 */
#ifndef CTL_PASSING_MOUNT_H
#define CTL_PASSING_MOUNT_H

#include "util/error.h"
#include "util/log.h"

#include <sys/types.h>

struct passing_mount {
    char *path; /* of the directory; NULL: there is none */
    int lifeline;
    pid_t guard;
};

/* Makes the directory; what is to be mounted there is the caller's. 0, or an errno with a sentence.
 */
int passing_mount_begin(struct passing_mount *passing, struct log *log, struct error *error);

/* Returns when the mount is detached. For one that never began, too. */
void passing_mount_end(struct passing_mount *passing, struct log *log);

#endif
