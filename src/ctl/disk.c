/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/disk.h"

#include "ctl/open.h"
#include "disk/at_snapshot.h"
#include "disk/probe.h"
#include "store/file.h"

#include <errno.h>
#include <string.h>

static enum store_access access_of(const struct common_flags *flags)
{
    return flags->force_share.value ? STORE_READ_SHARED : STORE_READ;
}

/* As QEMU does, but nothing is taken for raw that looks like an image of another format. */
static int find_format(struct ctl *ctl, const char *path, const struct common_flags *flags,
                       enum image_format *format)
{
    const struct store_file_options options = {
        .access = access_of(flags),
        .cache = STORE_CACHE_WRITEBACK,
        .no_locks = ctl_no_locks(flags),
    };
    struct store_info info;
    struct store *file;
    struct probe probe;
    int r = store_file_open(path, "image", &options, &file, &ctl->error);

    if (r != 0) {
        return r;
    }
    r = store_info(file, &info);
    if (r == 0) {
        r = probe_store(file, info.size, &probe);
    }
    store_close(file);
    if (r != 0) {
        return error_set(&ctl->error, -r, "%s: cannot be read: %s", path, strerror(-r));
    }
    if (probe.class == PROBE_DISK_IMAGE) {
        return error_set(&ctl->error, ENOTSUP,
                         "%s: looks like %s, which is not read here; convert it with qemu-img "
                         "convert, or name its format with -f raw if it is the disk itself",
                         path, probe.description);
    }
    *format = probe.class == PROBE_QCOW2 ? IMAGE_QCOW2 : IMAGE_RAW;
    return 0;
}

int ctl_disk_open_state(struct ctl *ctl, struct image *image, const char *snapshot,
                        struct ctl_disk *disk)
{
    size_t index = 0;
    int r;

    *disk = (struct ctl_disk){.image = image};
    if (snapshot == NULL) {
        r = view_open_active(image, &disk->view);
        return r == 0 ? 0 : error_set(&ctl->error, -r, "%s: out of memory", image->path);
    }
    if (image->format == IMAGE_RAW) {
        return error_set(&ctl->error, EINVAL,
                         "%s: is a raw disk, which has no snapshots; leave out '%s'", image->path,
                         snapshot);
    }
    r = snapshot_choose(image->snapshots, image->path, snapshot, false, &index, &ctl->error);
    return r == 0 ? view_open_snapshot(image, index, &disk->view, &ctl->error) : r;
}

int ctl_disk_open(struct ctl *ctl, const struct ctl_disk_request *request,
                  const struct common_flags *flags, struct ctl_disk *disk)
{
    enum image_format format = (enum image_format)request->format.value;
    int r = 0;

    *disk = (struct ctl_disk){0};
    if (!request->format.set) {
        r = find_format(ctl, request->path, flags, &format);
    }
    if (r == 0) {
        r = ctl_open_format(ctl, request->path, flags, format, access_of(flags), &disk->image);
    }
    if (r == 0) {
        r = ctl_disk_open_state(ctl, disk->image, request->snapshot, disk);
        if (r != 0) {
            image_close(disk->image);
            disk->image = NULL;
        }
    }
    return r;
}

void ctl_disk_close(struct ctl_disk *disk)
{
    view_close(disk->view);
    image_close(disk->image);
    *disk = (struct ctl_disk){0};
}

const char *ctl_disk_format(const struct ctl_disk *disk)
{
    return disk->image->format == IMAGE_RAW ? "raw" : "qcow2";
}
