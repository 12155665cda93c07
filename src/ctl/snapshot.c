/* SPDX-License-Identifier: MIT */
/* qcow2ctl snapshot: internal snapshots of an image that is not mounted. */
#include "config.h"

#include "admin/info.h"
#include "ctl/command.h"
#include "ctl/info_text.h"
#include "ctl/open.h"
#include "disk/at_snapshot.h"
#include "disk/snapshots.h"
#include "util/json.h"
#include "util/printable.h"

#include <errno.h>
#include <string.h>

struct snapshot_options {
    struct common_flags common;
    struct option_bool list;
    char *create;
    char *delete;
    char *apply;
    char *rename;
};

/* --- What was done --------------------------------------------------------------------------- */

static int print_list(struct ctl *ctl, const struct snapshot_table *table)
{
    struct json *list;
    int r;

    if (!ctl->json) {
        info_text_snapshots(table, "", stdout);
        return 0;
    }
    list = info_json_snapshots(table);
    r = json_print(list, stdout);
    json_free(list);
    return r < 0 ? error_set(&ctl->error, -r, "the list could not be printed: %s", strerror(-r))
                 : 0;
}

/* "Snapshot 'before' (ID 3) made." */
static void say(struct ctl *ctl, const char *id, const char *name, const char *done)
{
    const struct snapshot_options *options = ctl->options;

    if (!options->common.quiet.value && !ctl->json) {
        printable_line(stdout, "Snapshot '%s' (ID %s) %s.", name, id, done);
    }
}

/* --- Doing it -------------------------------------------------------------------------------- */

static int make(struct ctl *ctl, struct image *image, struct writer *writer)
{
    const struct snapshot_options *options = ctl->options;
    int r = writer_snapshot_make(writer, options->create, &ctl->error);

    if (r == 0) {
        const struct snapshot_table *table = image->snapshots;

        say(ctl, table->snapshots[table->count - 1].id, options->create, "made");
    }
    return r;
}

static int change(struct ctl *ctl, struct image *image, struct writer *writer)
{
    const struct snapshot_options *options = ctl->options;
    const char *wanted = options->delete != NULL  ? options->delete
                         : options->apply != NULL ? options->apply
                                                  : options->rename;
    char id[64], name[256];
    size_t index;
    int r = snapshot_choose(image->snapshots, image->path, wanted, true, &index, &ctl->error);

    if (r < 0) {
        return r;
    }
    snprintf(id, sizeof(id), "%s", image->snapshots->snapshots[index].id);
    snprintf(name, sizeof(name), "%s", image->snapshots->snapshots[index].name);
    if (options->delete != NULL) {
        r = writer_snapshot_remove(writer, index, &ctl->error);
    } else if (options->apply != NULL) {
        r = writer_snapshot_apply(writer, index, &ctl->error);
    } else {
        r = writer_snapshot_rename(writer, index, ctl->operands[0], &ctl->error);
    }
    if (r == 0) {
        say(ctl, id, name,
            options->delete != NULL  ? "removed"
            : options->apply != NULL ? "is what the disk is again"
                                     : "renamed");
    }
    return r;
}

static int change_image(struct ctl *ctl, const char *path)
{
    const struct snapshot_options *options = ctl->options;
    struct image *image;
    struct writer *writer;
    int r = ctl_open_writer(ctl, path, &options->common, &image, &writer);

    if (r < 0) {
        return r;
    }
    r = options->create != NULL ? make(ctl, image, writer) : change(ctl, image, writer);
    if (r == 0 && ctl->json) {
        r = print_list(ctl, image->snapshots);
    }
    return ctl_close_writer(ctl, image, writer, r);
}

static int list_image(struct ctl *ctl, const char *path)
{
    const struct snapshot_options *options = ctl->options;
    struct image *image;
    int r = ctl_open(ctl, path, &options->common,
                     options->common.force_share.value ? STORE_READ_SHARED : STORE_READ, &image);

    if (r == 0) {
        r = image->format == IMAGE_QCOW2
                ? print_list(ctl, image->snapshots)
                : error_set(&ctl->error, EINVAL, "%s: is no qcow2 image", image->path);
        image_close(image);
    }
    return r;
}

static int check_usage(struct ctl *ctl)
{
    const struct snapshot_options *options = ctl->options;
    int asked = (options->create != NULL) + (options->delete != NULL) + (options->apply != NULL) +
                (options->rename != NULL) + options->list.value;
    size_t operands = options->rename != NULL ? 2 : 1;

    if (asked > 1) {
        return error_set(&ctl->error, EINVAL,
                         "of -l, -c, -d, -a and --rename only one can be done at a time");
    }
    if (ctl->operand_count != operands) {
        return error_set(&ctl->error, EINVAL, "%s",
                         options->rename != NULL
                             ? "--rename=OLD needs two operands: NEW, and the image"
                             : "one image is expected");
    }
    if (asked > 0 && !options->list.value && options->common.force_share.value) {
        return error_set(&ctl->error, EINVAL,
                         "-U is for the list alone: nothing is changed while another program "
                         "writes to the image");
    }
    return 0;
}

static int run_snapshot(struct ctl *ctl)
{
    const struct snapshot_options *options = ctl->options;
    const char *path = ctl->operands[ctl->operand_count - 1];
    bool changes = options->create != NULL || options->delete != NULL || options->apply != NULL ||
                   options->rename != NULL;

    if (command_prints_json(&options->common) && json_require(&ctl->error) < 0) {
        return CTL_FAILED;
    }
    if (check_usage(ctl) < 0) {
        return CTL_USAGE;
    }
    return (changes ? change_image(ctl, path) : list_image(ctl, path)) < 0 ? CTL_FAILED : CTL_OK;
}

#define FIELD(member) offsetof(struct snapshot_options, member)

static const struct option_spec snapshot_flags[] = {
    {.name = "list",
     .letter = 'l',
     .type = OPTION_BOOL,
     .field = FIELD(list),
     .help = "list the snapshots: what is done where nothing else is asked for"},
    {.name = "create",
     .letter = 'c',
     .type = OPTION_STRING,
     .field = FIELD(create),
     .value_name = "NAME",
     .help = "make a snapshot of the disk as it is"},
    {.name = "delete",
     .letter = 'd',
     .type = OPTION_STRING,
     .field = FIELD(delete),
     .value_name = "NAME|ID",
     .help = "remove a snapshot; what it alone has is free, and given back to the host"},
    {.name = "apply",
     .letter = 'a',
     .type = OPTION_STRING,
     .field = FIELD(apply),
     .value_name = "NAME|ID",
     .help = "make the disk what it was in a snapshot; what it is now is lost"},
    {.name = "rename",
     .type = OPTION_STRING,
     .field = FIELD(rename),
     .value_name = "NAME|ID",
     .help = "give a snapshot another name, which stands before the image"},
    FLAG_FORMAT(struct snapshot_options),
    FLAG_JSON(struct snapshot_options),
    FLAG_OUTPUT(struct snapshot_options),
    FLAG_QUIET(struct snapshot_options),
    FLAG_FORCE_SHARE(struct snapshot_options),
    FLAG_TRUST_NAMES(struct snapshot_options),
    FLAG_LOCKING(struct snapshot_options),
    {.name = NULL},
};

const struct command snapshot_command = {
    .name = "snapshot",
    .operands_text = "[NEW-NAME] IMAGE",
    .min_operands = 1,
    .max_operands = 2,
    .summary = "list, make, remove, rename internal snapshots, or go back to one",
    .description = "Internal snapshots are states of the disk that the image keeps beside the\n"
                   "present one, and that share with it what has not changed. Without an option\n"
                   "they are listed. The options are those of qemu-img snapshot.\n"
                   "\n"
                   "The image must not be in use. A snapshot is what the disk is at that moment:\n"
                   "of a disk whose file system was not unmounted, what a power cut would leave.\n"
                   "\n"
                   "Killed at any moment, the image has the old snapshots or the new ones; the\n"
                   "command can be given again. With -a the present state is lost, with all that\n"
                   "no snapshot has of it: make one first where it is still wanted.\n",
    .examples = "  qcow2ctl snapshot -c before-upgrade disk.qcow2\n"
                "  qcow2ctl snapshot disk.qcow2\n"
                "  qcow2ctl snapshot -a before-upgrade disk.qcow2\n"
                "  qcow2ctl snapshot --rename=before-upgrade good disk.qcow2\n"
                "  qcow2ctl snapshot -d good disk.qcow2\n",
    .options_size = sizeof(struct snapshot_options),
    .flags = snapshot_flags,
    .run = run_snapshot,
};
