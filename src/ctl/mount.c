/* SPDX-License-Identifier: MIT */
/* qcow2ctl mount: from an image to the files in it. */
#include "config.h"

#include "ctl/command.h"
#include "ctl/contents.h"
#include "ctl/dead_files.h"
#include "ctl/mount_image.h"
#include "ctl/raw_disk.h"
#include "util/dead_mount.h"
#include "util/directory.h"
#include "util/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

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
    bool empty = true;
    int result = directory_is_empty(path, &empty);

    if (result < 0) {
        return result == -ENOTDIR
                   ? error_set(error, ENOTDIR,
                               "%s: is no directory; the files of a disk need one, an empty one",
                               path)
                   : error_set(error, -result, "%s: cannot be mounted on: %s", path,
                               strerror(-result));
    }
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

/* --list. */
static int list(struct ctl *ctl, const struct raw_disk_settings *settings)
{
    struct contents contents;
    struct raw_disk disk;
    int result = raw_disk_open(settings, ctl->log, &disk, &ctl->error);

    if (result != 0) {
        return result;
    }
    result = contents_read(disk.file, disk.size, settings->image, ctl->log, &contents, &ctl->error);
    if (result == 0) {
        result = show(ctl, &contents, disk.size);
        contents_release(&contents);
    }
    raw_disk_end(&disk);
    return result;
}

static int report_json(struct ctl *ctl, const struct mount_request *request,
                       const struct mount_outcome *outcome)
{
    struct json *object = json_new_object();
    struct statvfs status;
    int r;

    json_put_text(object, "image", request->disk.image);
    json_put_text(object, "mount-point", request->directory);
    if (outcome->partition != 0) {
        json_put_number(object, "partition", outcome->partition);
    }
    json_put_text(object, "fstype", outcome->type);
    if (statvfs(request->directory, &status) == 0) {
        json_put_bool(object, "read-only", (status.f_flag & ST_RDONLY) != 0);
    }
    r = ctl_print_json(ctl, object);
    json_free(object);
    return r;
}

/* A FUSE program keeps the name that it was given, from wherever it was. */
static int mount_at(struct ctl *ctl, struct mount_request *request)
{
    struct error *error = &ctl->error;
    struct mount_outcome outcome = {0};
    char *absolute = realpath(request->directory, NULL);
    int result;

    if (absolute == NULL) {
        return error_set(error, errno, "%s: cannot be mounted on: %s", request->directory,
                         strerror(errno));
    }
    request->directory = absolute;
    result = mount_image(request, &outcome, ctl->log, error);
    if (result == 0) {
        ctl_done(ctl, ctl->operands[1], "is mounted");
        result = ctl->json ? report_json(ctl, request, &outcome) : 0;
    }
    free(absolute);
    return result;
}

static int run_mount(struct ctl *ctl)
{
    const struct mount_options *options = ctl->options;
    struct mount_request request = {
        .disk =
            {
                .image = ctl->operands[0],
                .options = options->options,
                .read_only = options->read_only.value || options->list.value,
                .trusts_names = options->common.trust_names.value,
                .allows_nbdkit = options->common.nbdkit.value,
            },
        .directory = ctl->operands[1],
        .partition = options->partition,
        .fs_options = options->fs_options,
        .fs_type = options->fs_type,
        .lists = !ctl->json, /* what it says is JSON then */
    };

    if (options->list.value && request.directory != NULL) {
        error_set(&ctl->error, EINVAL,
                  "--list mounts nothing, so it takes no directory; leave out --list, or %s",
                  request.directory);
        return CTL_USAGE;
    }
    if (options->list.value) {
        return list(ctl, &request.disk) == 0 ? CTL_OK : CTL_FAILED;
    }
    if (request.directory == NULL) {
        error_set(&ctl->error, EINVAL, "where to? Give a directory behind the image %s",
                  request.disk.image);
        return CTL_USAGE;
    }
    if (ctl->json && json_require(&ctl->error) < 0) {
        return CTL_FAILED;
    }
    (void)dead_mount_clear(request.directory, ctl->log); /* what cannot be cleared is met next */
    if (dead_files_refuse(request.directory, &ctl->error) != 0 ||
        check_directory(options, request.directory, &ctl->error) != 0) {
        return CTL_FAILED;
    }
    return mount_at(ctl, &request) == 0 ? CTL_OK : CTL_FAILED;
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
    FLAG_TRUST_NAMES(struct mount_options),
    FLAG_NBDKIT(struct mount_options),
    {
        .name = "json",
        .type = OPTION_PRESET,
        .field = offsetof(struct mount_options, common.output),
        .min = CTL_OUTPUT_JSON,
        .help = "print JSON: image, mount-point, partition (of a disk that has some), fstype and "
                "read-only; with --list: size, label-type, partitions, and what each holds",
    },
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
        "(fuse2fs, ntfs-3g, squashfuse ...), and fusermount3 -u DIR ends it.\n\n"
        "A disk with several file systems needs -p; without it they are listed. A file\n"
        "system is attacked through its bytes: images of strangers are better looked at\n"
        "with -r, and without root. With -o overlay what is written (a journal is\n"
        "replayed) goes to a file that ends with the mount, and IMAGE is only read.\n",
    .examples = "  qcow2ctl mount disk.qcow2 /mnt && ls /mnt && umount /mnt\n"
                "  qcow2ctl mount --list disk.qcow2\n"
                "  qcow2ctl mount -r -p 2 disk.qcow2 /mnt\n"
                "  qcow2ctl mount -o overlay evidence.qcow2 /mnt\n"
                "  qcow2ctl mount -p LABEL=root --fs-options noatime disk.qcow2 /mnt\n",
    .options_size = sizeof(struct mount_options),
    .flags = mount_flags,
    .run = run_mount,
};
