/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/listing.h"

#include "util/mounts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

struct registry_entry *listing_enter(const char *image, const char *mount_point, const char *device,
                                     bool writable, bool overlay)
{
    struct registry_record record = {
        .pid = getpid(),
        .writable = writable,
        .overlay = overlay,
        .since = (int64_t)time(NULL),
    };
    unsigned major_number, minor_number;
    char point[4096], path[4096];
    dev_t found;

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
    if (device != NULL && sscanf(device, "%u:%u", &major_number, &minor_number) == 2) {
        record.major = major_number;
        record.minor = minor_number;
    } else {
        found = mounts_device_at(mount_point);
        record.major = major(found);
        record.minor = minor(found);
    }
    return registry_enter(&record);
}
