/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/dead_files.h"

#include "util/loop.h"
#include "util/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SECTOR_MAX 4096

struct place {
    const char *path;
    dev_t device; /* from which it is mounted; of the last mount, which hides the others */
    bool is_own;
};

static int look_at(void *context, const struct mount_entry *entry)
{
    struct place *place = context;

    if (strcmp(entry->path, place->path) == 0) {
        place->device = mounts_source_device(entry);
        place->is_own = strcmp(entry->type, "fuse.qcow2fs") == 0;
    }
    return 0;
}

/* The kernel asks the server, and finds none. */
static bool is_unanswered(const char *path)
{
    struct statx status;

    return statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_TYPE, &status) != 0 &&
           errno == ENOTCONN;
}

/*
 * The kernel remembers for a second what it knows of a file, so that a device whose server has just
 * ended is not known for dead yet. It has no byte of it in any case.
 */
static bool can_be_read(const char *device)
{
    void *sector = NULL;
    int file = open(device, O_RDONLY | O_DIRECT | O_CLOEXEC);
    bool can = file < 0 || posix_memalign(&sector, SECTOR_MAX, SECTOR_MAX) != 0 ||
               pread(file, sector, SECTOR_MAX, 0) >= 0 || errno != EIO;

    free(sector);
    if (file >= 0) {
        close(file);
    }
    return can;
}

struct search {
    dev_t device;
    bool found;
};

static int compare_loop(void *context, const struct loop_status *loop)
{
    struct search *search = context;

    search->found = loop->answers && loop_has_device(loop, search->device) &&
                    (loop->is_dead || (major(loop->file_device) == 0 && !can_be_read(loop->name)));
    return search->found;
}

static bool is_on_dead_loop(dev_t device)
{
    struct search search = {.device = device};

    (void)loop_visit(compare_loop, &search);
    return search.found;
}

static bool is_dead_device(const char *path)
{
    struct stat node;

    return stat(path, &node) == 0 && S_ISBLK(node.st_mode) && is_on_dead_loop(node.st_rdev);
}

int dead_files_refuse(const char *path, struct error *error)
{
    char *absolute = realpath(path, NULL); /* a raw disk that nobody serves answers nobody */
    struct place place = {.path = absolute != NULL ? absolute : path};
    bool is_dead = mounts_visit(look_at, &place) == 0 && place.device != 0 &&
                   (place.is_own ? is_unanswered(place.path) : is_on_dead_loop(place.device));

    free(absolute);
    if (!is_dead && is_dead_device(path)) {
        return error_set(error, ENOTCONN,
                         "%s: the qcow2fs below it is gone, ended by a signal or killed, and the "
                         "device cannot be used any more; unmount what is mounted from it, and "
                         "free it with losetup -d; what was not synced before may be lost",
                         path);
    }
    return is_dead ? error_set(error, ENOTCONN,
                               "%s: the qcow2fs below it is gone, ended by a signal or killed, and "
                               "what is mounted there cannot be used any more; unmount it with "
                               "umount %s; what was not synced before may be lost",
                               path, path)
                   : 0;
}
