/* SPDX-License-Identifier: MIT */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/unmount.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <unistd.h>

/*
 * libfuse would unmount itself, but closes what it has and does no more where the connection is
 * over. It asks poll(2) for that; so in the place of /dev/fuse comes the end of a pipe that has
 * lost its other, of which poll(2) says the same.
 */
int unmount_prepare(int *over)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0) {
        return -errno;
    }
    close(ends[0]);
    *over = ends[1];
    return 0;
}

static bool is_over(int device)
{
    struct pollfd connection = {.fd = device};

    return poll(&connection, 1, 0) == 1 && (connection.revents & POLLERR) != 0;
}

int unmount_by_steward(struct fuse_session *fuse, int over, struct steward *steward)
{
    int device = fuse_session_fd(fuse), r = 0;

    if (steward != NULL) {
        bool is_done = is_over(device);

        /* /dev/fuse is closed before somebody unmounts, who would wait for an answer. */
        (void)dup3(over, device, O_CLOEXEC);
        r = is_done ? 0 : steward_unmount(steward);
    }
    fuse_session_unmount(fuse);
    /* Something else lies there by now, or nothing: ours was unmounted lazily, or covered. */
    return r == -ENXIO || r == -EINVAL ? 0 : r;
}
