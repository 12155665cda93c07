/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/mount_image.h"

#include "ctl/contents.h"
#include "ctl/mount_filesystem.h"

#include <errno.h>

static int mount_place(const struct mount_request *request, struct raw_disk *disk,
                       const struct contents *contents, struct log *log, struct error *error)
{
    struct contents_place place;
    const struct filesystem_mount wanted = {
        .disk = disk,
        .place = &place,
        .image = request->disk.image,
        .directory = request->directory,
        .options = request->fs_options,
        .type = request->fs_type,
        .read_only = !disk->writable,
    };
    int result = contents_choose(contents, request->disk.image, disk->size, request->partition,
                                 &place, error);

    if ((result == -ENOENT || result == -ENOTUNIQ) && request->lists && contents->table.count > 0) {
        contents_print(contents, disk->size, stderr);
    }
    return result == 0 ? mount_filesystem(&wanted, log, error) : result;
}

int mount_image(const struct mount_request *request, struct log *log, struct error *error)
{
    struct contents contents;
    struct raw_disk disk;
    int result = raw_disk_open(&request->disk, log, &disk, error);

    if (result != 0) {
        return result;
    }
    result = contents_read(disk.file, disk.size, request->disk.image, log, &contents, error);
    if (result == 0) {
        result = mount_place(request, &disk, &contents, log, error);
        contents_release(&contents);
    }
    if (result == 0) {
        raw_disk_let_go(&disk);
    } else {
        raw_disk_end(&disk);
    }
    return result;
}
