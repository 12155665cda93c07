/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/mount_image.h"

#include "ctl/contents.h"
#include "ctl/mount_filesystem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What is mounted; of several types that were asked for it is what was found. */
static const char *type_of(const struct filesystem_mount *mounted)
{
    bool is_one = mounted->type != NULL && strcmp(mounted->type, "auto") != 0 &&
                  strchr(mounted->type, ',') == NULL;

    return is_one || mounted->place->found == NULL ? mounted->type : mounted->place->found->type;
}

static void note(struct mount_outcome *outcome, const struct filesystem_mount *mounted)
{
    if (outcome != NULL) {
        outcome->partition = mounted->place->partition;
        snprintf(outcome->type, sizeof(outcome->type), "%s", type_of(mounted));
    }
}

static int mount_place(const struct mount_request *request, struct raw_disk *disk,
                       const struct contents *contents, struct mount_outcome *outcome,
                       struct log *log, struct error *error)
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
    if (result == 0) {
        result = mount_filesystem(&wanted, log, error);
    }
    if (result == 0) {
        note(outcome, &wanted);
    }
    return result;
}

int mount_image(const struct mount_request *request, struct mount_outcome *outcome, struct log *log,
                struct error *error)
{
    struct contents contents;
    struct raw_disk disk;
    int result = raw_disk_open(&request->disk, log, &disk, error);

    if (result != 0) {
        return result;
    }
    result = contents_read(disk.file, disk.size, request->disk.image, log, &contents, error);
    if (result == 0) {
        result = mount_place(request, &disk, &contents, outcome, log, error);
        contents_release(&contents);
    }
    if (result == 0) {
        raw_disk_let_go(&disk);
    } else {
        raw_disk_end(&disk);
    }
    return result;
}
