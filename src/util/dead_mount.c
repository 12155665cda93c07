/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/dead_mount.h"

#include "util/mounts.h"
#include "util/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define OWN_TYPE "fuse.qcow2fs"

#define MOUNTS_MAX 16 /* on top of each other; more is nobody's accident */

extern char **environ;

/* The kernel asks the server, and finds none: it must not answer from what it remembers. */
static bool is_unanswered(const char *path)
{
    struct statx status;

    return statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC | AT_SYMLINK_NOFOLLOW, STATX_TYPE, &status) !=
               0 &&
           errno == ENOTCONN;
}

struct top {
    const char *path;
    dev_t device;
    bool is_own;
};

/* The last one counts: it hides the others. */
static int look_at(void *context, const struct mount_entry *entry)
{
    struct top *top = context;

    if (strcmp(entry->path, top->path) == 0) {
        top->device = entry->device;
        top->is_own = strcmp(entry->type, OWN_TYPE) == 0;
    }
    return 0;
}

static int is_of_device(void *context, const struct registry_record *record, int descriptor)
{
    const dev_t *device = context;

    (void)descriptor;
    return makedev((unsigned)record->major, (unsigned)record->minor) == *device;
}

/* Whether what is mounted at `path` is of ours, and no daemon lives that could be its own. */
static bool is_dead(const char *path)
{
    struct top top = {.path = path};

    return mounts_visit(look_at, &top) == 0 && top.is_own &&
           registry_visit(is_of_device, &top.device) == 0;
}

/* What an ordinary user has for umount(2). */
static int unmount_by_helper(const char *path)
{
    const char *const argv[] = {"fusermount3", "-u", "-z", "-q", "--", path, NULL};
    char *const *arguments =
        (char *const *)(const void *)argv; /* which posix_spawn() leaves alone */
    int status;
    pid_t pid;

    if (posix_spawnp(&pid, argv[0], NULL, NULL, arguments, environ) != 0) {
        return -EPERM;
    }
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return -EPERM;
        }
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

/* Lazily: a dead mount may be in use, by a shell that stands in it, say. */
static int detach(const char *path)
{
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
        return 0;
    }
    return errno == EPERM ? unmount_by_helper(path) : -errno;
}

int dead_mount_clear(const char *path, struct log *log)
{
    char *absolute = realpath(path, NULL); /* it asks no server for what is no link */
    int result = 0;

    if (absolute == NULL) {
        return errno == ENOTCONN ? -ENOTCONN : 0;
    }
    for (unsigned i = 0; i < MOUNTS_MAX && result == 0 && is_unanswered(absolute); i++) {
        result = is_dead(absolute) && detach(absolute) == 0 ? 0 : -ENOTCONN;
        if (result == 0) {
            log_line(log, LOG_LEVEL_WARNING,
                     "%s: the qcow2fs that served a mount there was killed; the dead mount is "
                     "unmounted",
                     absolute);
        }
    }
    if (result == 0 && is_unanswered(absolute)) {
        result = -ENOTCONN;
    }
    free(absolute);
    return result;
}
