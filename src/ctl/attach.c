/* SPDX-License-Identifier: MIT */
/* qcow2ctl attach: an image as a block device. */
#include "config.h"

#include "ctl/command.h"
#include "ctl/contents.h"
#include "ctl/raw_disk.h"
#include "util/checked.h"
#include "util/json.h"
#include "util/loop.h"
#include "util/printable.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum direct_io {
    DIRECT_IO_AUTO,
    DIRECT_IO_ON,
    DIRECT_IO_OFF,
};

struct attach_options {
    struct common_flags common;
    struct option_bool read_only;
    struct option_number direct_io; /* enum direct_io */
    struct option_number sector_size;
    char *options;
};

#define PARTITIONS_LISTED 256

struct nodes {
    unsigned numbers[PARTITIONS_LISTED];
    size_t count;
};

static int by_number(const void *a, const void *b)
{
    const unsigned *one = a, *other = b;

    return *one < *other ? -1 : *one > *other;
}

/* Makes the node where nothing else (devtmpfs, udev) has. */
static void make_node(const char *path, const char *sysfs)
{
    unsigned major_number, minor_number;
    FILE *file;

    if (access(path, F_OK) == 0) {
        return;
    }
    file = fopen(sysfs, "re");
    if (file == NULL) {
        return;
    }
    if (fscanf(file, "%u:%u", &major_number, &minor_number) == 2) {
        (void)mknod(path, S_IFBLK | 0660, makedev(major_number, minor_number));
    }
    fclose(file);
}

/* The partitions that the kernel found; their nodes exist when this returns. */
static void find_nodes(const char *device, struct nodes *nodes)
{
    const char *name = device + strlen("/dev/");
    char path[64];
    struct dirent *item;
    DIR *stream;

    nodes->count = 0;
    snprintf(path, sizeof(path), "/sys/block/%s", name);
    stream = opendir(path);
    while (stream != NULL && (item = readdir(stream)) != NULL) {
        char node[300], sysfs[400];
        unsigned number;

        if (strncmp(item->d_name, name, strlen(name)) != 0 ||
            sscanf(item->d_name + strlen(name), "p%u", &number) != 1 ||
            nodes->count == PARTITIONS_LISTED) {
            continue;
        }
        snprintf(node, sizeof(node), "/dev/%s", item->d_name);
        snprintf(sysfs, sizeof(sysfs), "%s/%s/dev", path, item->d_name);
        make_node(node, sysfs);
        nodes->numbers[nodes->count++] = number;
    }
    if (stream != NULL) {
        closedir(stream);
    }
    qsort(nodes->numbers, nodes->count, sizeof(nodes->numbers[0]), by_number);
}

/*
 * Tells the kernel of the partitions that it did not find itself: it may have been built without
 * the readers of these tables. What it refuses (one that lies over another, say) is left out, as by
 * itself.
 */
static void add_partitions(struct ctl *ctl, const struct raw_disk *disk, int device,
                           const struct nodes *known)
{
    struct contents contents;
    struct error ignored = {0};

    if (contents_read_table(disk->file, disk->size, ctl->operands[0], ctl->log, &contents,
                            &ignored) != 0) {
        return;
    }
    for (size_t i = 0; i < contents.table.count; i++) {
        const struct partition *part = &contents.table.list[i];

        if (known->count == 0 && part->number <= PARTITIONS_LISTED) {
            (void)loop_add_partition(device, part->number, part->start,
                                     part->extended ? min_u64(part->size, 1024) : part->size);
        }
    }
    contents_release(&contents);
}

static int print_json(const char *device, const struct raw_disk *disk, const struct nodes *nodes)
{
    struct json *object = json_new_object(), *list = json_new_array();
    int result;

    json_put_text(object, "device", device);
    json_put_bool(object, "read-only", !disk->writable);
    json_put_number(object, "size", disk->size);
    for (size_t i = 0; i < nodes->count; i++) {
        struct json *part = json_new_object();
        char node[LOOP_NAME_MAX + 16];

        snprintf(node, sizeof(node), "%sp%u", device, nodes->numbers[i]);
        json_put_number(part, "number", nodes->numbers[i]);
        json_put_text(part, "device", node);
        json_add(list, part);
    }
    json_put(object, "partitions", list);
    result = json_print(object, stdout);
    json_free(object);
    return result;
}

static int attach(struct ctl *ctl, const struct raw_disk *disk)
{
    const struct attach_options *options = ctl->options;
    const struct loop_settings settings = {
        .sector_size = (unsigned)options->sector_size.value,
        .read_only = !disk->writable,
        .direct_io = options->direct_io.value != DIRECT_IO_OFF,
        .partitions = true,
    };
    bool as_json = options->common.output.value == CTL_OUTPUT_JSON;
    char device[LOOP_NAME_MAX];
    struct nodes nodes;
    int descriptor = loop_attach(disk->file, &settings, device, &ctl->error);
    int result = 0;

    if (descriptor < 0) {
        return descriptor;
    }
    find_nodes(device, &nodes);
    add_partitions(ctl, disk, descriptor, &nodes);
    find_nodes(device, &nodes);
    if (as_json) {
        result = print_json(device, disk, &nodes);
    } else {
        printable_line(stdout, "%s", device);
    }
    if (result != 0 || fflush(stdout) != 0) {
        /* Whom nobody told of it, nobody would detach. */
        (void)loop_detach(device);
        result =
            error_set(&ctl->error, EIO, "the device's name could not be printed: it is detached");
    }
    close(descriptor);
    return result;
}

static int run_attach(struct ctl *ctl)
{
    const struct attach_options *options = ctl->options;
    const struct raw_disk_settings settings = {
        .image = ctl->operands[0],
        .options = options->options,
        .read_only = options->read_only.value,
        .trusts_names = options->common.trust_names.value,
        .allows_nbdkit = options->common.nbdkit.value,
    };
    struct raw_disk disk;
    int result;

    if (options->common.output.value == CTL_OUTPUT_JSON && json_require(&ctl->error) != 0) {
        return CTL_FAILED;
    }
    result = raw_disk_open(&settings, ctl->log, &disk, &ctl->error);
    if (result == 0) {
        result = attach(ctl, &disk);
        if (result == 0) {
            raw_disk_let_go(&disk);
        } else {
            raw_disk_end(&disk);
        }
    }
    return result == 0 ? CTL_OK : CTL_FAILED;
}

static const struct option_spec attach_flags[] = {
    {
        .name = "read-only",
        .letter = 'r',
        .type = OPTION_BOOL,
        .field = offsetof(struct attach_options, read_only),
        .help = "nothing is written: neither to the device nor to the image",
    },
    {
        .name = "direct-io",
        .type = OPTION_CHOICE,
        .field = offsetof(struct attach_options, direct_io),
        .choices = "auto on off",
        .value_name = "MODE",
        .default_text = "auto",
        .help =
            "on: the device's requests go past the page cache of the raw file, which holds "
            "nothing twice then; auto: where the kernel can do that, which is faster by far for "
            "what is read or written in order",
    },
    {
        .name = "sector-size",
        .letter = 'b',
        .type = OPTION_SIZE,
        .field = offsetof(struct attach_options, sector_size),
        .min = 512,
        .max = 4096,
        .value_name = "BYTES",
        .default_text = "512",
        .help = "the size of the device's sectors: 512, 1024, 2048 or 4096",
    },
    {
        .name = "options",
        .letter = 'o',
        .type = OPTION_STRING,
        .field = offsetof(struct attach_options, options),
        .value_name = "OPTS",
        .help = "options of qcow2fs(1): NAME=VALUE,...",
    },
    FLAG_TRUST_NAMES(struct attach_options),
    FLAG_NBDKIT(struct attach_options),
    FLAG_JSON(struct attach_options),
    {.name = NULL},
};

const struct command attach_command = {
    .name = "attach",
    .operands_text = "IMAGE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "attach an image to a loop device",
    .description =
        "Makes the disk in IMAGE a block device, and prints its name; its partitions are\n"
        "devices, too (/dev/loop0p1), which exist when the command returns. Needs root.\n"
        "qcow2ctl detach ends it, and so does losetup -d, which does not wait.\n",
    .examples = "  qcow2ctl attach disk.qcow2\n"
                "  qcow2ctl attach -r --json evidence.qcow2\n"
                "  qcow2ctl detach disk.qcow2\n",
    .options_size = sizeof(struct attach_options),
    .flags = attach_flags,
    .run = run_attach,
};
