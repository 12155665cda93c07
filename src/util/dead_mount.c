/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/dead_mount.h"

#include "util/mounts.h"
#include "util/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define OWN_TYPE "fuse.qcow2fs"

#define MOUNTS_MAX 16 /* on top of each other; more is nobody's accident */

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

int dead_mount_clear(const char *path, struct log *log)
{
    char *absolute = realpath(path, NULL); /* it asks no server for what is no link */
    int result = 0;

    if (absolute == NULL) {
        return errno == ENOTCONN ? -ENOTCONN : 0;
    }
    for (unsigned i = 0; i < MOUNTS_MAX && result == 0 && is_unanswered(absolute); i++) {
        result = is_dead(absolute) && mounts_detach(absolute) == 0 ? 0 : -ENOTCONN;
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
