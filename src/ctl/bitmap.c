/* SPDX-License-Identifier: MIT */
/* qcow2ctl bitmap: the persistent bitmaps of an image, made, changed and removed. */
#include "config.h"

#include "ctl/command.h"
#include "ctl/daemon.h"
#include "ctl/open.h"
#include "ctl/stack.h"
#include "disk/bitmaps.h"
#include "util/printable.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct bitmap_options {
    struct common_flags common;
    struct option_bool add;
    struct option_bool remove;
    struct option_bool clear;
    struct option_bool enable;
    struct option_bool disable;
    char *merge; /* each that was given, OPTION_SEVERAL */
    char *source_file;
    struct option_number granularity, source_format;
};

struct work {
    struct ctl *ctl;
    struct writer *writer;
    struct image *image, *source;
    const char *name;
};

static void say(const struct work *work, const char *done)
{
    const struct bitmap_options *options = work->ctl->options;

    ctl_done(work->ctl, work->ctl->operands[0], "is changed");
    if (!options->common.quiet.value) {
        printable_line(stdout, "Bitmap '%s' %s.", work->name, done);
    }
}

/* Whether -b names the image that is changed: then no other has to be opened. */
static bool is_itself(const char *source_file, const char *image)
{
    struct stat one, other;

    return stat(source_file, &one) == 0 && stat(image, &other) == 0 && one.st_dev == other.st_dev &&
           one.st_ino == other.st_ino;
}

static int merge_each(const struct work *work, const char *list)
{
    char *name = malloc(strlen(list) + 1);
    int r = 0;

    if (name == NULL) {
        return error_set(&work->ctl->error, ENOMEM, "out of memory");
    }
    while (r == 0 && *list != '\0') {
        list = options_next_several(list, name);
        r = writer_bitmap_merge(work->writer, work->name, work->source, name, &work->ctl->error);
    }
    free(name);
    return r;
}

static int do_all(const struct work *work)
{
    const struct bitmap_options *options = work->ctl->options;
    struct error *error = &work->ctl->error;
    int r = 0;

    if (options->remove.value) {
        r = writer_bitmap_remove(work->writer, work->name, error);
        if (r == 0) {
            say(work, "removed");
        }
        return r;
    }
    if (options->add.value) {
        r = writer_bitmap_add(work->writer, work->name, options->granularity.value, error);
        if (r == 0) {
            say(work, "added");
        }
    }
    if (r == 0 && options->clear.value) {
        r = writer_bitmap_clear(work->writer, work->name, error);
        if (r == 0) {
            say(work, "cleared");
        }
    }
    if (r == 0 && options->merge != NULL) {
        r = merge_each(work, options->merge);
        if (r == 0) {
            say(work, "merged");
        }
    }
    if (r == 0 && (options->enable.value || options->disable.value)) {
        r = writer_bitmap_enable(work->writer, work->name, options->enable.value, error);
        if (r == 0) {
            say(work, options->enable.value ? "enabled" : "disabled");
        }
    }
    return r;
}

/* --- By the qcow2fs that has it mounted ------------------------------------------------------ */

static int ask(const struct work *work, const struct stack *stack, const char *what,
               const char *field, const char *value)
{
    static struct control_message request, answer;

    daemon_begin(&request, what);
    if (!control_put(&request, "name", work->name) ||
        (value != NULL && !control_put(&request, field, value))) {
        return error_set(&work->ctl->error, ENAMETOOLONG,
                         "a name of more than %d bytes is too long", CONTROL_MAX / 3);
    }
    return daemon_ask_patiently(stack, &request, &answer, work->ctl->log, &work->ctl->error);
}

/* One of the changes that the options name; `field` with `value` goes with it. */
static int ask_for(const struct work *work, const struct stack *stack, bool wanted,
                   const char *what, const char *done, const char *field, const char *value)
{
    int r = wanted ? ask(work, stack, what, field, value) : 0;

    if (wanted && r == 0) {
        say(work, done);
    }
    return r;
}

static int ask_to_merge(const struct work *work, const struct stack *stack, const char *list)
{
    char *name = malloc(strlen(list) + 1);
    int r = name != NULL ? 0 : error_set(&work->ctl->error, ENOMEM, "out of memory");

    while (r == 0 && *list != '\0') {
        list = options_next_several(list, name);
        r = ask(work, stack, "bitmap-merge", "from", name);
    }
    free(name);
    if (r == 0) {
        say(work, "merged");
    }
    return r;
}

static int change_mounted(const struct work *work, const struct stack *stack)
{
    const struct bitmap_options *options = work->ctl->options;
    char granularity[24];
    int r;

    if (options->source_file != NULL && !stack_has_image(stack, options->source_file)) {
        return error_set(&work->ctl->error, EBUSY,
                         "%s: is mounted, and bitmaps of another image are merged into one that is "
                         "not in use; unmount it first: qcow2ctl umount %s",
                         stack->daemon.image, stack->daemon.image);
    }
    snprintf(granularity, sizeof(granularity), "%" PRIu64, options->granularity.value);
    r = ask_for(work, stack, options->remove.value, "bitmap-remove", "removed", NULL, NULL);
    if (r == 0) {
        r = ask_for(work, stack, options->add.value, "bitmap-add", "added", "granularity",
                    granularity);
    }
    if (r == 0) {
        r = ask_for(work, stack, options->clear.value, "bitmap-clear", "cleared", NULL, NULL);
    }
    if (r == 0 && options->merge != NULL) {
        r = ask_to_merge(work, stack, options->merge);
    }
    if (r == 0) {
        r = ask_for(work, stack, options->enable.value, "bitmap-enable", "enabled", NULL, NULL);
    }
    return r != 0 ? r
                  : ask_for(work, stack, options->disable.value, "bitmap-disable", "disabled", NULL,
                            NULL);
}

/* Who writes to it is asked. */
static int run_mounted(struct ctl *ctl, bool *is_mounted)
{
    const struct work work = {.ctl = ctl, .name = ctl->operands[1]};
    struct stacks stacks;
    struct stack *stack;
    int r = stacks_find(&stacks);

    *is_mounted = false;
    if (r < 0) {
        return error_set(&ctl->error, -r, "what is mounted cannot be told: %s", strerror(-r));
    }
    r = stacks_find_writer(&stacks, ctl->operands[0], &stack, &ctl->error);
    *is_mounted = stack != NULL;
    if (r == 0) {
        r = stack != NULL ? change_mounted(&work, stack)
                          : stacks_refuse_reader(&stacks, ctl->operands[0], &ctl->error);
    }
    stacks_release(&stacks);
    return r;
}

/* --- By itself ------------------------------------------------------------------------------- */

/* The image that --merge reads; with no other named it is the one that is changed. */
static int open_source(struct work *work)
{
    const struct bitmap_options *options = work->ctl->options;

    if (options->source_file == NULL || is_itself(options->source_file, work->ctl->operands[0])) {
        work->source = work->image;
        return 0;
    }
    return ctl_open_tables(work->ctl, options->source_file, &options->common, &work->source);
}

static int change(struct ctl *ctl)
{
    const struct bitmap_options *options = ctl->options;
    struct work work = {.ctl = ctl, .name = ctl->operands[1]};
    int r =
        ctl_open_tables_writer(ctl, ctl->operands[0], &options->common, &work.image, &work.writer);

    if (r < 0) {
        return r;
    }
    r = open_source(&work);
    if (r == 0) {
        r = do_all(&work);
        if (work.source != work.image) {
            image_close(work.source);
        }
    }
    return ctl_close_writer(ctl, work.image, work.writer, r);
}

static int check_usage(struct ctl *ctl)
{
    const struct bitmap_options *options = ctl->options;
    bool changes = options->add.value || options->clear.value || options->merge != NULL ||
                   options->enable.value || options->disable.value;

    if (!changes && !options->remove.value) {
        return error_set(&ctl->error, EINVAL,
                         "say what to do: --add, --remove, --clear, --enable, --disable or "
                         "--merge=NAME");
    }
    if (changes && options->remove.value) {
        return error_set(&ctl->error, EINVAL, "--remove goes with nothing else");
    }
    if (options->enable.value && options->disable.value) {
        return error_set(&ctl->error, EINVAL, "of --enable and --disable only one can be");
    }
    if (options->granularity.set && !options->add.value) {
        return error_set(&ctl->error, EINVAL,
                         "--granularity is for a bitmap that is made, with --add");
    }
    if (options->source_file != NULL && options->merge == NULL) {
        return error_set(&ctl->error, EINVAL, "--source-file is for --merge");
    }
    return 0;
}

static int run_bitmap(struct ctl *ctl)
{
    bool is_mounted;
    int r;

    if (check_usage(ctl) < 0) {
        return CTL_USAGE;
    }
    r = run_mounted(ctl, &is_mounted);
    if (!is_mounted && r == 0) {
        r = change(ctl);
    }
    return r < 0 ? CTL_FAILED : CTL_OK;
}

#define FIELD(member) offsetof(struct bitmap_options, member)

static const struct option_spec bitmap_flags[] = {
    {.name = "add",
     .type = OPTION_BOOL,
     .field = FIELD(add),
     .help = "make a bitmap of that name, empty and enabled"},
    {.name = "remove",
     .type = OPTION_BOOL,
     .field = FIELD(remove),
     .help = "remove it; the one thing that can be done with an inconsistent one"},
    {.name = "clear",
     .type = OPTION_BOOL,
     .field = FIELD(clear),
     .help = "nothing is marked as changed in it any more"},
    {.name = "merge",
     .type = OPTION_SEVERAL,
     .field = FIELD(merge),
     .value_name = "SOURCE",
     .help = "what is marked in the bitmap SOURCE is marked in it, too; can be given again"},
    {.name = "enable",
     .type = OPTION_BOOL,
     .field = FIELD(enable),
     .help = "changes of the disk are to be marked in it"},
    {.name = "disable",
     .type = OPTION_BOOL,
     .field = FIELD(disable),
     .help = "changes are not marked in it; it stays as it is"},
    {.name = "granularity",
     .letter = 'g',
     .type = OPTION_SIZE,
     .field = FIELD(granularity),
     .value_name = "SIZE",
     .min = 512,
     .max = UINT64_C(1) << 31,
     .default_text = "a cluster, but 4K to 64K",
     .help = "with --add: what one bit stands for, a power of two from 512 to 2G"},
    {.name = "source-file",
     .letter = 'b',
     .type = OPTION_STRING,
     .field = FIELD(source_file),
     .value_name = "FILE",
     .help = "with --merge: SOURCE is a bitmap of this image"},
    {.name = "source-format",
     .letter = 'F',
     .type = OPTION_CHOICE,
     .field = FIELD(source_format),
     .choices = "qcow2",
     .value_name = "FMT",
     .help = "the format of that image: qcow2, the only one"},
    FLAG_FORMAT(struct bitmap_options),
    FLAG_QUIET(struct bitmap_options),
    FLAG_TRUST_NAMES(struct bitmap_options),
    FLAG_FOLLOW(struct bitmap_options),
    FLAG_LOCKING(struct bitmap_options),
    {.name = NULL},
};

const struct command bitmap_command = {
    .name = "bitmap",
    .operands_text = "IMAGE NAME",
    .min_operands = 2,
    .max_operands = 2,
    .summary = "make, change or remove the persistent bitmaps of an image",
    .description =
        "A persistent bitmap marks which parts of the disk have changed since it was\n"
        "empty, for incremental backups: QEMU, qcow2fs and qcow2ctl keep enabled ones up\n"
        "to date. This command changes bitmaps and nothing that the disk shows. The\n"
        "options are those of qemu-img bitmap; where several are given they are done in\n"
        "this order: --add, --clear, --merge, --enable or --disable. qcow2ctl info lists\n"
        "the bitmaps.\n\n"
        "Of a disk that qcow2fs has mounted, its qcow2fs does it, at a moment between two\n"
        "writes: IMAGE is then the image, its mount point, its raw file, its loop device,\n"
        "or where its files are; -b is for an image that is not in use.\n\n"
        "Killed at any moment, each of the options that were given is done, or is not.\n",
    .examples = "  qcow2ctl bitmap --add disk.qcow2 monday\n"
                "  qcow2ctl bitmap --add --disable -g 64K disk.qcow2 monday\n"
                "  qcow2ctl bitmap --merge=monday --merge=tuesday disk.qcow2 week\n"
                "  qcow2ctl bitmap --add --merge=monday -b overlay.qcow2 base.qcow2 monday\n"
                "  qcow2ctl bitmap --remove disk.qcow2 monday\n",
    .options_size = sizeof(struct bitmap_options),
    .flags = bitmap_flags,
    .run = run_bitmap,
};
