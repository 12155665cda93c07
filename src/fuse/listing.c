/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/listing.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

struct registry_entry *listing_enter(const char *image, const struct image_file *file,
                                     const char *mount_point, dev_t device, bool writable,
                                     bool overlay)
{
    struct registry_record record = {
        .pid = getpid(),
        .writable = writable,
        .overlay = overlay,
        .since = (int64_t)time(NULL),
    };
    dev_t image_device = file->node != 0 ? file->node : file->device;
    char point[4096], path[4096];

    if (snprintf(path, sizeof(path), "%s", image) >= (int)sizeof(path)) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    if (strncmp(mount_point, "/dev/fd/", 8) == 0) {
        mount_point = "";
    }
    if (snprintf(point, sizeof(point), "%s", mount_point) >= (int)sizeof(point)) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    record.image = path;
    record.mount_point = point;
    record.major = major(device);
    record.minor = minor(device);
    record.image_major = major(image_device);
    record.image_minor = minor(image_device);
    record.image_inode = file->node != 0 ? 0 : (uint64_t)file->inode;
    return registry_enter(&record);
}
