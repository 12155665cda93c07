/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/above_disk.h"

#include "util/loop.h"
#include "util/mounts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEVICES    "/sys/class/block"
#define DEPTH_MAX  16 /* of devices made of devices */
#define ASKED_MOST 5  /* times, of loop devices whose server, which may be this one, is busy */

/* A device of the kernel's, and what became of asking it. */
struct device {
    dev_t number;
    bool reached;
    int failure; /* the first, a negative errno; or 0 */
};

static void keep_first(int *failure, int r)
{
    if (*failure == 0) {
        *failure = r;
    }
}

/* --- the file systems ---------------------------------------------------------------------------
 */

/* Something else may lie on top of it: then the device alone leads there. */
static bool is_seen_there(int directory, const struct mount_entry *entry)
{
    struct statx status;

    /* The subvolumes of a btrfs have devices of their own. */
    return major(entry->device) == 0 ||
           (statx(directory, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &status) == 0 &&
            makedev(status.stx_dev_major, status.stx_dev_minor) == entry->device);
}

static int sync_mount(void *context, const struct mount_entry *entry)
{
    struct device *device = context;
    int directory;

    if (mounts_source_device(entry) != device->number) {
        return 0;
    }
    directory = open(entry->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        return 0;
    }
    if (is_seen_there(directory, entry)) {
        device->reached = true;
        if (syncfs(directory) != 0) {
            keep_first(&device->failure, -errno);
        }
    }
    close(directory);
    return 0;
}

/* --- the devices --------------------------------------------------------------------------------
 */

/* What the kernel says of it in /sys; false where it says nothing. */
static bool read_attribute(const char *device, const char *name, char *text, size_t size)
{
    char path[512];
    ssize_t length;
    int file;

    snprintf(path, sizeof(path), DEVICES "/%s/%s", device, name);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return false;
    }
    length = read(file, text, size - 1);
    close(file);
    text[length > 0 ? length : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return length > 0;
}

static bool is_read_only(const char *name)
{
    char text[8];

    return read_attribute(name, "ro", text, sizeof(text)) && strcmp(text, "1") == 0;
}

static dev_t number_of(const char *name)
{
    unsigned major_number, minor_number;
    char text[32];

    return read_attribute(name, "dev", text, sizeof(text)) &&
                   sscanf(text, "%u:%u", &major_number, &minor_number) == 2
               ? makedev(major_number, minor_number)
               : 0;
}

/* The node of that name, if it is the device's: nobody has opened one that has no node. */
static int open_node(const char *name, dev_t number)
{
    char path[300];
    struct stat status;
    int node;

    snprintf(path, sizeof(path), "/dev/%s", name);
    for (char *at = strchr(path, '!'); at != NULL; at = strchr(at, '!')) {
        *at = '/';
    }
    node = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (node < 0) {
        return -errno;
    }
    if (fstat(node, &status) != 0 || !S_ISBLK(status.st_mode) || status.st_rdev != number) {
        close(node);
        return -ENOENT;
    }
    return node;
}

/*
 * The device's own page cache; and, with root's rights, the file system on it wherever that is
 * mounted, in another mount namespace too. Only fsync() says what failed.
 */
static void sync_node(const char *name, struct device *device)
{
    int node = open_node(name, device->number);

    if (node < 0) {
        if (!device->reached && (node == -EACCES || node == -EPERM)) {
            keep_first(&device->failure, -EACCES);
        }
        return;
    }
    (void)ioctl(node, BLKFLSBUF, 0);
    if (fsync(node) != 0) {
        keep_first(&device->failure, -errno);
    }
    close(node);
}

static int sync_device(const char *name, unsigned depth);

/* Those that are made of it: `below` is a directory of it, with all of them or with its partitions.
 */
static int sync_all_in(const char *name, const char *below, unsigned depth)
{
    char path[300];
    struct dirent *item;
    int failure = 0;
    DIR *stream;

    snprintf(path, sizeof(path), DEVICES "/%s/%s", name, below);
    stream = opendir(path);
    while (stream != NULL && (item = readdir(stream)) != NULL) {
        bool is_device = below[0] != '\0' ? item->d_name[0] != '.'
                                          : strncmp(item->d_name, name, strlen(name)) == 0;

        if (is_device) {
            keep_first(&failure, sync_device(item->d_name, depth + 1));
        }
    }
    if (stream != NULL) {
        closedir(stream);
    }
    return failure;
}

/* From the top down. */
static int sync_device(const char *name, unsigned depth)
{
    struct device device = {.number = number_of(name)};

    if (device.number == 0 || depth > DEPTH_MAX || is_read_only(name)) {
        return 0;
    }
    keep_first(&device.failure, sync_all_in(name, "holders", depth));
    keep_first(&device.failure, sync_all_in(name, "", depth));
    (void)mounts_visit(sync_mount, &device);
    sync_node(name, &device);
    return device.failure;
}

/* --- which of them ------------------------------------------------------------------------------
 */

struct search {
    const struct own_disk *disk;
    char *moved; /* where that is by now, if not at its path; or NULL */
    unsigned silent;
    int failure;
};

static int sync_if_on_disk(void *context, const struct loop_status *loop)
{
    struct search *search = context;

    if (!loop->answers) {
        search->silent++;
    } else if (loop->file_device == search->disk->device) {
        keep_first(&search->failure, sync_device(loop->name + strlen("/dev/"), 0));
    }
    return 0;
}

static bool is_its_name(const struct search *search, const char *name)
{
    return strcmp(name, search->disk->path) == 0 ||
           (search->moved != NULL && strcmp(name, search->moved) == 0);
}

/* What an ordinary user may not ask for its file has, if it had one when it was attached, a name.
 */
static void sync_those_of_name(struct search *search)
{
    DIR *stream = opendir(DEVICES);
    struct dirent *item;

    while (stream != NULL && (item = readdir(stream)) != NULL) {
        char text[4096];

        if (strncmp(item->d_name, "loop", 4) == 0 &&
            read_attribute(item->d_name, "loop/backing_file", text, sizeof(text)) &&
            is_its_name(search, text)) {
            keep_first(&search->failure, sync_device(item->d_name, 0));
        }
    }
    if (stream != NULL) {
        closedir(stream);
    }
}

int above_disk_sync(const struct own_disk *disk)
{
    struct search search = {.disk = disk};

    if (disk->device == 0) {
        return 0;
    }
    for (unsigned i = 0; i < ASKED_MOST && (i == 0 || search.silent > 0); i++) {
        search.silent = 0;
        (void)loop_visit(sync_if_on_disk, &search);
    }
    if (geteuid() != 0) {
        search.moved = own_disk_moved_path(disk);
        sync_those_of_name(&search);
        free(search.moved);
    }
    return search.failure;
}
