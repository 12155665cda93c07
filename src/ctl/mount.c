/* SPDX-License-Identifier: MIT */
/* qcow2ctl mount: from an image to the files in it. */
#include "config.h"

#include "ctl/command.h"
#include "ctl/contents.h"
#include "ctl/mount_filesystem.h"
#include "ctl/raw_disk.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct mount_options {
    struct common_flags common;
    char *partition;
    char *options;
    char *fs_options;
    char *fs_type;
    struct option_bool read_only;
    struct option_bool nonempty;
    struct option_bool list;
};

static int check_directory(const struct mount_options *options, const char *path,
                           struct error *error)
{
    struct dirent *item;
    bool empty = true;
    DIR *stream = opendir(path);

    if (stream == NULL) {
        return errno == ENOTDIR
                   ? error_set(error, ENOTDIR,
                               "%s: is no directory; the files of a disk need one, an empty one",
                               path)
                   : error_set(error, errno, "%s: cannot be mounted on: %s", path, strerror(errno));
    }
    while ((item = readdir(stream)) != NULL) {
        empty &= strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0;
    }
    closedir(stream);
    if (!empty && !options->nonempty.value) {
        return error_set(error, ENOTEMPTY,
                         "%s: is not empty, and what it holds would be hidden; choose another "
                         "directory, or add --nonempty",
                         path);
    }
    return 0;
}

static int show(struct ctl *ctl, const struct contents *contents, uint64_t size)
{
    const struct mount_options *options = ctl->options;
    int result = 0;

    if (options->common.output.value == CTL_OUTPUT_JSON) {
        result = contents_print_json(contents, size, stdout);
    } else {
        contents_print(contents, size, stdout);
    }
    return result == 0 ? 0
                       : error_set(&ctl->error, -result, "the list cannot be printed: %s",
                                   strerror(-result));
}

static int mount_place(struct ctl *ctl, const struct raw_disk *disk,
                       const struct contents *contents)
{
    const struct mount_options *options = ctl->options;
    struct contents_place place;
    const struct filesystem_mount wanted = {
        .disk = disk,
        .place = &place,
        .image = ctl->operands[0],
        .directory = ctl->operands[1],
        .options = options->fs_options,
        .type = options->fs_type,
        .read_only = options->read_only.value || !disk->writable,
    };
    int result = contents_choose(contents, ctl->operands[0], disk->size, options->partition, &place,
                                 &ctl->error);

    if (result == -ENOENT || result == -ENOTUNIQ) {
        if (contents->table.count > 0) {
            contents_print(contents, disk->size, stderr);
        }
        return result;
    }
    return result == 0 ? mount_filesystem(&wanted, ctl->log, &ctl->error) : result;
}

static int run_mount(struct ctl *ctl)
{
    const struct mount_options *options = ctl->options;
    const struct raw_disk_settings settings = {
        .image = ctl->operands[0],
        .options = options->options,
        .read_only = options->read_only.value || options->list.value,
    };
    struct contents contents;
    struct raw_disk disk;
    int result;

    if (!options->list.value && ctl->operand_count < 2) {
        error_set(&ctl->error, EINVAL, "where to? Give a directory behind the image %s",
                  ctl->operands[0]);
        return CTL_USAGE;
    }
    if (!options->list.value && check_directory(options, ctl->operands[1], &ctl->error) != 0) {
        return CTL_FAILED;
    }
    if (raw_disk_open(&settings, ctl->log, &disk, &ctl->error) != 0) {
        return CTL_FAILED;
    }
    result =
        contents_read(disk.file, disk.size, ctl->operands[0], ctl->log, &contents, &ctl->error);
    if (result == 0) {
        result = options->list.value ? show(ctl, &contents, disk.size)
                                     : mount_place(ctl, &disk, &contents);
        contents_release(&contents);
    }
    if (result == 0 && !options->list.value) {
        raw_disk_let_go(&disk);
    } else {
        raw_disk_end(&disk);
    }
    return result == 0 ? CTL_OK : CTL_FAILED;
}

static const struct option_spec mount_flags[] = {
    {
        .name = "partition",
        .letter = 'p',
        .type = OPTION_STRING,
        .field = offsetof(struct mount_options, partition),
        .value_name = "WHICH",
        .default_text = "the only file system there is",
        .help = "the partition: its number, or LABEL=, UUID=, PARTLABEL=, PARTUUID= and the value",
    },
    {
        .name = "read-only",
        .letter = 'r',
        .type = OPTION_BOOL,
        .field = offsetof(struct mount_options, read_only),
        .help = "nothing is written, to the file system or to the image; a journal is not replayed",
    },
    {
        .name = "options",
        .letter = 'o',
        .type = OPTION_STRING,
        .field = offsetof(struct mount_options, options),
        .value_name = "OPTS",
        .help = "options of qcow2fs(1): NAME=VALUE,...",
    },
    {
        .name = "fs-options",
        .type = OPTION_STRING,
        .field = offsetof(struct mount_options, fs_options),
        .value_name = "OPTS",
        .help = "options of the file system, as behind -o of mount(8)",
    },
    {
        .name = "fs-type",
        .letter = 't',
        .type = OPTION_STRING,
        .field = offsetof(struct mount_options, fs_type),
        .value_name = "TYPE",
        .help = "the type of the file system, in place of the one that is recognised",
    },
    {
        .name = "nonempty",
        .type = OPTION_BOOL,
        .field = offsetof(struct mount_options, nonempty),
        .help = "mount also on a directory that has files, which are hidden meanwhile",
    },
    {
        .name = "list",
        .letter = 'l',
        .type = OPTION_BOOL,
        .field = offsetof(struct mount_options, list),
        .help = "mount nothing: list the partitions, and what each holds",
    },
    FLAG_JSON(struct mount_options),
    {.name = NULL},
};

const struct command mount_command = {
    .name = "mount",
    .operands_text = "IMAGE DIR",
    .min_operands = 1,
    .max_operands = 2,
    .summary = "mount the file system in an image",
    .description =
        "Shows the files of the disk in IMAGE at the directory DIR. umount DIR ends it:\n"
        "nothing else is left to undo. As root the kernel mounts the file system, on a\n"
        "loop device that goes with the mount; as an ordinary user a FUSE program does\n"
        "(fuse2fs, ntfs-3g, squashfuse ...), and fusermount3 -u DIR ends it.\n"
        "\n"
        "A disk with several file systems needs -p; without it they are listed.\n"
        "A file system is attacked through its bytes: images of strangers are better\n"
        "looked at with -r, and without root.\n",
    .examples = "  qcow2ctl mount disk.qcow2 /mnt && ls /mnt && umount /mnt\n"
                "  qcow2ctl mount --list disk.qcow2\n"
                "  qcow2ctl mount -r -p 2 disk.qcow2 /mnt\n"
                "  qcow2ctl mount -p LABEL=root --fs-options noatime disk.qcow2 /mnt\n",
    .options_size = sizeof(struct mount_options),
    .flags = mount_flags,
    .run = run_mount,
};
