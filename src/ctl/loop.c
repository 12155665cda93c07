/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/loop.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define ATTEMPTS 64 /* others may take the device that was free */

#define LOOP_MAJOR 7

static int open_device(int number, bool read_only, char name[LOOP_NAME_MAX])
{
    snprintf(name, LOOP_NAME_MAX, "/dev/loop%d", number);
    return open(name, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
}

/* Opens a device that was free a moment ago. A descriptor, or a negative errno with a sentence. */
static int open_free(int control, bool read_only, char name[LOOP_NAME_MAX], struct error *error)
{
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    int device;

    if (number < 0) {
        return error_set(error, errno,
                         "there is no free loop device: %s; free one (losetup -l lists them), or "
                         "load the module loop with a larger max_loop",
                         strerror(errno));
    }
    device = open_device(number, read_only, name);
    if (device < 0) {
        return error_set(error, errno,
                         "%s: cannot be opened: %s; loop devices need root, and in a container "
                         "their nodes in /dev",
                         name, strerror(errno));
    }
    return device;
}

int loop_attach(int file, const struct loop_settings *settings, char name[LOOP_NAME_MAX],
                struct error *error)
{
    struct loop_config config = {
        .fd = (uint32_t)file,
        .block_size = settings->sector_size,
        .info = {.lo_offset = settings->offset, .lo_sizelimit = settings->size},
    };
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int device = -1, code = 0;

    if (control < 0) {
        return error_set(error, errno,
                         "/dev/loop-control: cannot be opened: %s; loop devices need root, and the "
                         "kernel's module loop",
                         strerror(errno));
    }
    config.info.lo_flags = (settings->read_only ? LO_FLAGS_READ_ONLY : 0) |
                           (settings->autoclear ? LO_FLAGS_AUTOCLEAR : 0) |
                           (settings->partitions ? LO_FLAGS_PARTSCAN : 0) |
                           (settings->direct_io ? LO_FLAGS_DIRECT_IO : 0);
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        device = open_free(control, settings->read_only, name, error);
        if (device < 0 || ioctl(device, LOOP_CONFIGURE, &config) == 0) {
            close(control);
            return device;
        }
        code = errno;
        close(device);
        if (code != EBUSY) {
            break;
        }
    }
    close(control);
    return error_set(error, code, "%s: the raw disk cannot be attached: %s", name, strerror(code));
}

int loop_add_partition(int device, unsigned number, uint64_t start, uint64_t size)
{
    struct blkpg_partition partition = {
        .start = (long long)start,
        .length = (long long)size,
        .pno = (int)number,
    };
    struct blkpg_ioctl_arg request = {
        .op = BLKPG_ADD_PARTITION,
        .datalen = sizeof(partition),
        .data = &partition,
    };

    return ioctl(device, BLKPG, &request) == 0 ? 0 : -errno;
}

int loop_detach(const char *name)
{
    int device = open(name, O_RDONLY | O_CLOEXEC);
    int result = 0;

    if (device < 0) {
        return -errno;
    }
    if (ioctl(device, LOOP_CLR_FD) != 0) {
        result = -errno;
    }
    close(device);
    return result;
}

/* *has_file: whether there is something to tell. */
static void examine(const char *directory_name, struct loop_status *status, bool *has_file)
{
    struct loop_info64 info;
    struct stat node;
    int number, device;

    *has_file = false;
    if (sscanf(directory_name, "loop%d", &number) != 1) {
        return;
    }
    memset(status, 0, sizeof(*status));
    device = open_device(number, true, status->name);
    if (device < 0) {
        return;
    }
    if (fstat(device, &node) == 0 && S_ISBLK(node.st_mode) && major(node.st_rdev) == LOOP_MAJOR &&
        ioctl(device, LOOP_GET_STATUS64, &info) == 0) {
        *has_file = true;
        status->file_device = (dev_t)info.lo_device;
        status->file_inode = (ino_t)info.lo_inode;
        status->offset = info.lo_offset;
        status->size = info.lo_sizelimit;
        status->read_only = (info.lo_flags & LO_FLAGS_READ_ONLY) != 0;
        status->autoclear = (info.lo_flags & LO_FLAGS_AUTOCLEAR) != 0;
        status->partitions = (info.lo_flags & LO_FLAGS_PARTSCAN) != 0;
    }
    close(device);
}

int loop_visit(int (*each)(void *context, const struct loop_status *status), void *context)
{
    DIR *stream = opendir("/sys/block");
    struct dirent *item;
    int result = 0;

    if (stream == NULL) {
        return 0;
    }
    while (result == 0 && (item = readdir(stream)) != NULL) {
        struct loop_status status;
        bool has_file;

        if (strncmp(item->d_name, "loop", 4) == 0) {
            char path[512];

            /* Without this a look would keep devices from going that nobody uses any more. */
            snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file", item->d_name);
            if (access(path, F_OK) != 0) {
                continue;
            }
            examine(item->d_name, &status, &has_file);
            result = has_file ? each(context, &status) : 0;
        }
    }
    closedir(stream);
    return result;
}
