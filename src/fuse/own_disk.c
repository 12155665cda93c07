/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/own_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Without symbolic links anywhere, where the kernel can do that (since 5.6). */
static int open_path(const char *path)
{
    const struct open_how how = {
        .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_NO_SYMLINKS,
    };
    long fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));

    return fd < 0 && errno == ENOSYS ? open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC) : (int)fd;
}

/*
 * A descriptor (O_PATH) of the raw disk, or a negative errno. What is found at
 * the path may be something else by now: the image itself under a mount that was
 * detached, or what somebody has put there.
 */
static int find_at(const struct own_disk *disk, const char *path)
{
    struct statx status;
    int fd = open_path(path);

    if (fd < 0) {
        return -errno;
    }
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &status) != 0 ||
        disk->device == 0 || makedev(status.stx_dev_major, status.stx_dev_minor) != disk->device ||
        status.stx_ino != disk->inode) {
        close(fd);
        return -ENXIO;
    }
    /* Ours: the kernel may know nothing of it yet, owner and permissions included. */
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &status) != 0) {
        int r = -errno;

        close(fd);
        return r;
    }
    return fd;
}

char *own_disk_moved_path(const struct own_disk *disk)
{
    size_t length = disk->mount.path != NULL ? strlen(disk->mount.path) : 0;
    char *mounted, *path = NULL;
    unsigned id;

    if (length == 0 || mounts_find(&disk->mount, &mounted, &id) != 0) {
        return NULL;
    }
    if (strcmp(mounted, disk->mount.path) != 0 &&
        asprintf(&path, "%s%s", mounted, disk->path + length) < 0) {
        path = NULL;
    }
    free(mounted);
    return path;
}

/* A directory above the mount point may have another name by now. */
static int find(const struct own_disk *disk)
{
    int fd = find_at(disk, disk->path);
    char *moved = fd < 0 ? own_disk_moved_path(disk) : NULL;

    if (moved != NULL) {
        fd = find_at(disk, moved);
        free(moved);
    }
    return fd;
}

/* A path that leads to what a descriptor with O_PATH stands for. */
struct proc_path {
    char text[sizeof("/proc/thread-self/fd/") + 3 * sizeof(int)];
};

static void make_proc_path(int fd, struct proc_path *path)
{
    snprintf(path->text, sizeof(path->text), "/proc/thread-self/fd/%d", fd);
}

int own_disk_sync(const struct own_disk *disk)
{
    int found = find(disk), fd, r = 0;
    struct proc_path path;

    if (found < 0) {
        return found;
    }
    make_proc_path(found, &path);
    fd = open(path.text, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || fsync(fd) != 0) {
        r = -errno;
    }
    if (fd >= 0) {
        close(fd);
    }
    close(found);
    return r;
}

/*
 * Without opening the file: to close one that is open to write takes away the
 * errors of others' writes, which they have not seen yet. The size does not
 * matter, the answer has the right one.
 */
int own_disk_restore_size(const struct own_disk *disk)
{
    int fd = find(disk), r;
    struct proc_path path;

    if (fd < 0) {
        return fd;
    }
    make_proc_path(fd, &path);
    r = truncate(path.text, 0) == 0 ? 0 : -errno;
    close(fd);
    return r;
}

int own_disk_set_times(const struct own_disk *disk, const struct timespec times[2])
{
    int fd = find(disk), r;
    struct proc_path path;

    if (fd < 0) {
        return fd;
    }
    make_proc_path(fd, &path);
    r = utimensat(AT_FDCWD, path.text, times, 0) == 0 ? 0 : -errno;
    close(fd);
    return r;
}
