/* SPDX-License-Identifier: MIT */
/* qcow2ctl snapshot: internal snapshots, of an image or by the qcow2fs that has it mounted. */
#include "config.h"

#include "admin/info.h"
#include "ctl/box.h"
#include "ctl/command.h"
#include "ctl/daemon.h"
#include "ctl/freeze.h"
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
    char *freeze;
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
    r = ctl_print_json(ctl, list);
    json_free(list);
    return r;
}

/* "Snapshot 'before' (ID 3) made." */
static void say(struct ctl *ctl, const char *id, const char *name, const char *done)
{
    const struct snapshot_options *options = ctl->options;

    ctl_done(ctl, ctl->operands[0], "is changed");
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
    int r = (options->apply != NULL ? ctl_open_writer : ctl_open_tables_writer)(
        ctl, path, &options->common, &image, &writer);

    if (r < 0) {
        return r;
    }
    r = options->create != NULL ? make(ctl, image, writer) : change(ctl, image, writer);
    if (r == 0 && ctl->json) {
        r = print_list(ctl, image->snapshots);
    }
    return ctl_close_writer(ctl, image, writer, r);
}

/* Beside a daemon that writes: the header names the old table or the new one. */
static int list_image(struct ctl *ctl, const char *path, bool is_mounted)
{
    const struct snapshot_options *options = ctl->options;
    struct image *image;
    bool shares = is_mounted || options->common.force_share.value;
    const struct ctl_box box = {.images = {path}};
    int r = ctl_box_enter(ctl, &options->common, &box);

    if (r < 0) {
        return r;
    }
    r = ctl_open(ctl, path, &options->common, shares ? STORE_READ_SHARED : STORE_READ, &image);

    if (r == 0) {
        r = image->format == IMAGE_QCOW2
                ? print_list(ctl, image->snapshots)
                : error_set(&ctl->error, EINVAL, "%s: is no qcow2 image", image->path);
        image_close(image);
    }
    return r;
}

/* --- By the qcow2fs that has it mounted ------------------------------------------------------ */

static int fill_request(struct ctl *ctl, struct control_message *request)
{
    const struct snapshot_options *options = ctl->options;
    bool fits;

    if (options->create != NULL) {
        daemon_begin(request, "snapshot-make");
        fits = control_put(request, "name", options->create);
    } else if (options->delete != NULL) {
        daemon_begin(request, "snapshot-remove");
        fits = control_put(request, "name", options->delete);
    } else {
        daemon_begin(request, "snapshot-rename");
        fits = control_put(request, "name", options->rename) &&
               control_put(request, "new-name", ctl->operands[0]);
    }
    return fits ? 0
                : error_set(&ctl->error, ENAMETOOLONG, "a name of more than %d bytes is too long",
                            CONTROL_MAX / 3);
}

static int list_image(struct ctl *ctl, const char *path, bool is_mounted);

static int change_mounted(struct ctl *ctl, const struct stack *stack)
{
    const struct snapshot_options *options = ctl->options;
    static struct control_message request, answer;
    const char *id, *name;
    int r;

    if (options->apply != NULL) {
        return error_set(&ctl->error, EBUSY,
                         "%s: is mounted, and going back is for an image that is not in use; "
                         "unmount it first: qcow2ctl umount %s",
                         stack->daemon.image, stack->daemon.image);
    }
    r = fill_request(ctl, &request);
    if (r == 0) {
        r = freeze_ask(options->freeze, stack, &request, &answer, ctl->log, &ctl->error);
    }
    if (r != 0) {
        return r;
    }
    id = control_get(&answer, "id");
    name = control_get(&answer, "name");
    say(ctl, id != NULL ? id : "?", name != NULL ? name : "?",
        options->create != NULL   ? "made"
        : options->delete != NULL ? "removed"
                                  : "renamed");
    return ctl->json ? list_image(ctl, stack->daemon.image, true) : 0;
}

static int use_mounted(struct ctl *ctl, const struct stack *stack, bool changes)
{
    int r = !changes || ctl->json ? stack_check_image(stack, &ctl->error) : 0;

    if (r != 0) {
        return r;
    }
    return changes ? change_mounted(ctl, stack) : list_image(ctl, stack->daemon.image, true);
}

/* Those that have it mounted are asked, where one of them writes to it. */
static int run_mounted(struct ctl *ctl, const char *path, bool changes, bool *is_mounted)
{
    const struct snapshot_options *options = ctl->options;
    struct stacks stacks;
    struct stack *stack;
    int r = stacks_find(&stacks);

    *is_mounted = false;
    if (r < 0) {
        return error_set(&ctl->error, -r, "what is mounted cannot be told: %s", strerror(-r));
    }
    r = stacks_find_writer(&stacks, path, &stack, &ctl->error);
    *is_mounted = stack != NULL;
    if (stack != NULL) {
        r = use_mounted(ctl, stack, changes);
    } else if (r == 0 && options->freeze != NULL) {
        *is_mounted = true;
        r = error_set(&ctl->error, EINVAL,
                      "%s: is not mounted for writing by qcow2fs, so there is nothing to freeze",
                      path);
    } else if (r == 0 && changes) {
        r = stacks_refuse_reader(&stacks, path, &ctl->error);
    }
    stacks_release(&stacks);
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
    if (options->freeze != NULL && options->create == NULL) {
        return error_set(&ctl->error, EINVAL, "--freeze is for a snapshot that is made, with -c");
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
    bool is_mounted;
    int r;

    if (command_prints_json(&options->common) && json_require(&ctl->error) < 0) {
        return CTL_FAILED;
    }
    if (check_usage(ctl) < 0) {
        return CTL_USAGE;
    }
    r = run_mounted(ctl, path, changes, &is_mounted);
    if (!is_mounted && r == 0) {
        r = changes ? change_image(ctl, path) : list_image(ctl, path, false);
    }
    return r < 0 ? CTL_FAILED : CTL_OK;
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
    {.name = "freeze",
     .type = OPTION_STRING,
     .field = FIELD(freeze),
     .value_name = "DIR",
     .help =
         "with -c: the file system mounted at DIR from this disk stands still meanwhile, and is "
         "clean in the snapshot"},
    FLAG_FORMAT(struct snapshot_options),
    FLAG_JSON(struct snapshot_options),
    FLAG_OUTPUT(struct snapshot_options),
    FLAG_QUIET(struct snapshot_options),
    FLAG_FORCE_SHARE(struct snapshot_options),
    FLAG_TRUST_NAMES(struct snapshot_options),
    FLAG_FOLLOW(struct snapshot_options),
    FLAG_LOCKING(struct snapshot_options),
    FLAG_SANDBOX(struct snapshot_options),
    {.name = NULL},
};

const struct command snapshot_command = {
    .name = "snapshot",
    .operands_text = "[NEW-NAME] IMAGE",
    .min_operands = 1,
    .max_operands = 2,
    .summary = "list, make, remove, rename internal snapshots, or go back to one",
    .description =
        "Internal snapshots are states of the disk that the image keeps beside the\n"
        "present one, and that share with it what has not changed. Without an option\n"
        "they are listed. The options are those of qemu-img snapshot.\n\n"
        "Of a disk that qcow2fs has mounted, its qcow2fs does it: IMAGE is then the\n"
        "image, its mount point, its raw file, its loop device, or where its files are.\n"
        "-a is for an image that is not in use. A snapshot is what the disk is at that\n"
        "moment: of a file system that is mounted, what a power cut would leave, or with\n"
        "--freeze=DIR a clean one.\n\n"
        "Killed at any moment, the image has the old snapshots or the new ones; the\n"
        "command can be given again. With -a the present state is lost, with all that\n"
        "no snapshot has of it: make one first where it is still wanted.\n",
    .examples = "  qcow2ctl snapshot -c before-upgrade disk.qcow2\n"
                "  qcow2ctl snapshot -c nightly --freeze=/mnt /mnt\n"
                "  qcow2ctl snapshot disk.qcow2\n"
                "  qcow2ctl snapshot -a before-upgrade disk.qcow2\n"
                "  qcow2ctl snapshot --rename=before-upgrade good disk.qcow2\n"
                "  qcow2ctl snapshot -d good disk.qcow2\n",
    .options_size = sizeof(struct snapshot_options),
    .flags = snapshot_flags,
    .run = run_snapshot,
};
