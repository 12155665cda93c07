/* SPDX-License-Identifier: MIT */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/unmount.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <string.h>
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

static void tell(const char *mount_point, int r, struct log *log)
{
    log_line(log, LOG_LEVEL_ERROR,
             "%s: cannot be unmounted: %s; it is left without a server: unmount it (findmnt -t "
             "fuse.qcow2fs says where it is)",
             mount_point, r == -ESTALE ? "something else is mounted over it" : strerror(-r));
}

void unmount_by_steward(struct fuse_session *fuse, int over, struct steward *steward,
                        const char *mount_point, struct log *log)
{
    int device = fuse_session_fd(fuse), r = 0;

    if (steward != NULL) {
        bool is_done = is_over(device);

        /* /dev/fuse is closed before somebody unmounts, who would wait for an answer. */
        (void)dup3(over, device, O_CLOEXEC);
        r = is_done ? 0 : steward_unmount(steward);
    }
    fuse_session_unmount(fuse);
    /* Ours is nowhere any more: it was unmounted lazily. */
    if (r != 0 && r != -ENXIO && r != -EINVAL) {
        tell(mount_point, r, log);
    }
}
