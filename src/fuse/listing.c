/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/listing.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

struct registry_entry *listing_enter(const char *image, const char *mount_point, dev_t device,
                                     bool writable, bool overlay)
{
    struct registry_record record = {
        .pid = getpid(),
        .writable = writable,
        .overlay = overlay,
        .since = (int64_t)time(NULL),
    };
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
    return registry_enter(&record);
}
