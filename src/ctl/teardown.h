/* SPDX-License-Identifier: MIT */
/* Taking down what stands on a qcow2fs, from the top, and waiting for its end. */
#ifndef CTL_TEARDOWN_H
#define CTL_TEARDOWN_H

#include "ctl/stack.h"
#include "util/log.h"

#include <stdbool.h>

struct teardown {
    bool lazy;             /* detach at once what is in use, and wait for nothing */
    bool only_mount_point; /* nothing but that is unmounted, and what keeps it is not waited for */
    bool keep_mounts;      /* refuse while a file system is mounted, instead of unmounting it */
    int kill_after;        /* seconds of waiting after which the daemon is ended; 0: never */
};

/*
 * 0 when the daemon has ended and the image is final (with `lazy`: when nothing has a name any
 * more); a negative errno with a sentence: of what is in use, and by whom, or the daemon's own.
 */
int teardown_stack(const struct stack *stack, const struct teardown *how, struct log *log,
                   struct error *error);

/*
 * Unmounts by umount(2) or, where that is not ours to do, by fusermount3. Nothing but the mount of
 * that `id`, which may have gone from there meanwhile; 0: whatever is there.
 */
int teardown_unmount(const char *path, unsigned id, bool lazy, struct log *log,
                     struct error *error);

#endif
