/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/mount_point.h"

#include "util/dead_mount.h"
#include "util/directory.h"
#include "util/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define CONNECTIONS       "/sys/fs/fuse/connections"
#define CONNECTIONS_MAGIC 0x65735543 /* FUSE_CTL_SUPER_MAGIC of the kernel */

/* Polls, each twice as long as the one before, up to the last: a second in all. */
#define POLL_FIRST_US 50 /* and then ever longer, up to ... */
#define POLL_MOST_US  20000
#define POLL_ALL_US   10000000 /* on a busy machine the kernel takes its time */

/* --- before ------------------------------------------------------------------ */

static int reject(const char *path, int code, struct error *error)
{
    const char *advice = "";

    if (code == ENOENT) {
        advice = "; make an empty file or a directory there first";
    } else if (code == ENOTCONN) {
        advice = "; the program that served a mount there is gone, or about to end: unmount it "
                 "with fusermount3 -u first";
    }
    return error_set(error, code, "the mount point %s cannot be used: %s%s", path, strerror(code),
                     advice);
}

static const char *type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFBLK:
        return "a block device";
    case S_IFCHR:
        return "a character device";
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    default:
        return "neither";
    }
}

int mount_point_find(const char *path, struct log *log, char **absolute, bool *is_directory,
                     struct error *error)
{
    struct statx status;

    if (strncmp(path, "/dev/fd/", 8) == 0) {
        /* The kernel has mounted already, and talks to that descriptor; see raw_disk.h. */
        *absolute = strdup(path);
        *is_directory = true;
        return *absolute != NULL ? 0 : error_set(error, ENOMEM, "out of memory");
    }
    if (dead_mount_clear(path, log) != 0) {
        return reject(path, ENOTCONN, error);
    }
    *absolute = realpath(path, NULL);
    /* The kernel remembers a mount whose server is gone: ask the server. */
    if (*absolute == NULL ||
        statx(AT_FDCWD, *absolute, AT_STATX_FORCE_SYNC, STATX_TYPE, &status) != 0) {
        return reject(path, errno, error);
    }
    if (!S_ISREG(status.stx_mode) && !S_ISDIR(status.stx_mode)) {
        return error_set(error, EINVAL,
                         "the mount point %s is %s; give a regular file or a directory", path,
                         type_name(status.stx_mode));
    }
    *is_directory = S_ISDIR(status.stx_mode);
    return 0;
}

int mount_point_require_empty(const char *absolute, struct error *error)
{
    bool empty;

    if (directory_is_empty(absolute, &empty) != 0 || empty) {
        return 0; /* what we may not read, we may be allowed to mount on */
    }
    return error_set(
        error, ENOTEMPTY,
        "the mount point %s is not empty, and what it holds would be hidden; choose an "
        "empty directory, or add -o nonempty",
        absolute);
}

/* --- after ------------------------------------------------------------------- */

/* Whether the kernel's list of connections can be seen. */
static bool has_connections(void)
{
    struct statfs status;

    return statfs(CONNECTIONS, &status) == 0 && status.f_type == CONNECTIONS_MAGIC;
}

static bool is_still_there(const struct mount_known *mount)
{
    char *path;
    unsigned id;

    if (mounts_find(mount, &path, &id) != 0) {
        return false;
    }
    free(path);
    return true;
}

bool mount_point_was_aborted(const struct mount_known *mount)
{
    char path[64];
    bool listed;

    if (mount->device == 0) {
        return false;
    }
    if (!has_connections()) {
        return is_still_there(mount);
    }
    /* An unmounted one goes from the list a moment after we hear of the end. */
    snprintf(path, sizeof(path), CONNECTIONS "/%u", minor(mount->device));
    listed = access(path, F_OK) == 0;
    for (useconds_t us = POLL_FIRST_US, all = 0; listed && all < POLL_ALL_US; all += us) {
        if (is_still_there(mount)) {
            return true;
        }
        usleep(us);
        listed = access(path, F_OK) == 0;
        us = us * 2 < POLL_MOST_US ? us * 2 : POLL_MOST_US;
    }
    return listed;
}
