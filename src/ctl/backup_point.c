/* SPDX-License-Identifier: MIT */
/*
 * qcow2ctl backup-point: where an incremental backup of a disk that is mounted begins and ends.
 *
 *     bitmap NAME     bitmap backup-NAME    snapshot backup-NAME
 *     records         -                     -
 *     records         records: added, NAME is merged into it
 *     cleared, records   records            -
 *     records         records               made
 *     records         disabled              there: the backup is read from it
 *
 * Each step is one change of the image that is there or not. From the moment on when NAME is
 * cleared each change is in NAME, or in backup-NAME, or, of what is written between these
 * steps, in both: so none is lost wherever this ends. `--done` removes bitmap and snapshot, in
 * this order; `--failed` merges first. Both can be given again where they were cut off: a
 * bitmap without a snapshot is a point that was not finished, a snapshot without a bitmap one that
 * is done with.
 */
#include "config.h"

#include "ctl/command.h"
#include "ctl/daemon.h"
#include "ctl/freeze.h"
#include "ctl/open.h"
#include "ctl/stack.h"
#include "meta/bitmap.h"
#include "util/printable.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "backup-"

struct backup_point_options {
    struct common_flags common;
    char *bitmap;
    char *freeze;
    struct option_bool done;
    struct option_bool failed;
};

struct work {
    struct ctl *ctl;
    const struct stack *stack;
    const char *name; /* of the bitmap that goes on recording */
    char *kept;       /* of the bitmap and the snapshot that are read */
};

/* One change by the daemon: 0, or a negative errno with a sentence. */
static int ask(const struct work *work, const char *what, const char *name, const char *from,
               const char *freeze, struct error *error)
{
    static struct control_message request, answer;

    daemon_begin(&request, what);
    if (!control_put(&request, "name", name) ||
        (from != NULL && !control_put(&request, "from", from))) {
        return error_set(error, ENAMETOOLONG, "a name of more than %d bytes is too long",
                         CONTROL_MAX / 3);
    }
    return freeze_ask(freeze, work->stack, &request, &answer, work->ctl->log, error);
}

/* Whether the image has that snapshot, and that bitmap. Beside a daemon that writes: the header
   names the old tables or the new ones. */
static int look(const struct work *work, bool *has_snapshot, bool *has_bitmap)
{
    const struct backup_point_options *options = work->ctl->options;
    struct bitmap_directory *directory;
    struct image *image;
    int r =
        ctl_open(work->ctl, work->stack->daemon.image, &options->common, STORE_READ_SHARED, &image);

    *has_snapshot = *has_bitmap = false;
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; image->snapshots != NULL && i < image->snapshots->count; i++) {
        *has_snapshot =
            *has_snapshot || strcmp(image->snapshots->snapshots[i].name, work->kept) == 0;
    }
    r = bitmap_directory_read(image->file, image->header, image->path, &directory,
                              &work->ctl->error);
    if (r == 0) {
        *has_bitmap = bitmap_find(directory, work->kept) != NULL;
        bitmap_directory_free(directory);
    }
    image_close(image);
    return r;
}

static void say(const struct work *work, const char *what)
{
    const struct backup_point_options *options = work->ctl->options;

    ctl_done(work->ctl, work->ctl->operands[0], "is changed");
    if (!options->common.quiet.value) {
        printable_line(stdout, "Backup point of bitmap '%s' %s.", work->name, what);
    }
}

/* --- Beginning ------------------------------------------------------------------------------- */

/* How far it has come. */
enum step {
    STEP_ADDED,
    STEP_CLEARED, /* perhaps */
    STEP_SNAPSHOT,
};

/* After a failure at that step: all as before, and the sentence stays that of the failure. */
static void undo(const struct work *work, enum step step)
{
    struct error late = {0}, *error = &work->ctl->error;
    char text[sizeof(error->text)];
    int r = 0;

    if (step >= STEP_CLEARED) {
        r = ask(work, "bitmap-merge", work->name, work->kept, NULL, &late);
    }
    if (r == 0) {
        r = ask(work, "bitmap-remove", work->kept, NULL, NULL, &late);
    }
    if (r == 0 && step >= STEP_SNAPSHOT) {
        r = ask(work, "snapshot-remove", work->kept, NULL, NULL, &late);
    }
    if (r != 0) {
        snprintf(text, sizeof(text), "%s", error->text);
        error_set(error, error->code,
                  "%.400s; and it could not be taken back: %.200s; nothing is lost, and qcow2ctl "
                  "backup-point --failed does it",
                  text, late.text);
    }
}

static int begin(const struct work *work)
{
    const struct backup_point_options *options = work->ctl->options;
    struct error *error = &work->ctl->error;
    enum step step = STEP_ADDED;
    bool has_snapshot, has_bitmap;
    int r = look(work, &has_snapshot, &has_bitmap);

    if (r == 0) {
        r = has_snapshot ? -EEXIST : ask(work, "bitmap-add", work->kept, work->name, NULL, error);
    }
    if (r == -EEXIST) {
        return error_set(error, EEXIST,
                         "%s: has a backup point of bitmap '%s' already; say what became of that "
                         "backup: qcow2ctl backup-point --bitmap=%s --done, or --failed",
                         work->stack->daemon.image, work->name, work->name);
    }
    if (r != 0) {
        return r;
    }
    r = ask(work, "bitmap-merge", work->kept, work->name, NULL, error);
    if (r == 0) {
        step = STEP_CLEARED;
        r = ask(work, "bitmap-clear", work->name, NULL, NULL, error);
    }
    if (r == 0) {
        r = ask(work, "snapshot-make", work->kept, NULL, options->freeze, error);
        if (r == -ETIMEDOUT) {
            step = STEP_SNAPSHOT; /* it is there, and the file system was not frozen any more */
        }
    }
    if (r == 0) {
        step = STEP_SNAPSHOT;
        r = ask(work, "bitmap-disable", work->kept, NULL, NULL, error);
    }
    if (r != 0) {
        undo(work, step);
        return r;
    }
    say(work, "made");
    return 0;
}

/* --- Ending ---------------------------------------------------------------------------------- */

/* Both go, as far as they are there. */
static int drop(const struct work *work, bool has_snapshot, bool has_bitmap)
{
    struct error *error = &work->ctl->error;
    int r = has_bitmap ? ask(work, "bitmap-remove", work->kept, NULL, NULL, error) : 0;

    if (r == 0 && has_snapshot) {
        r = ask(work, "snapshot-remove", work->kept, NULL, NULL, error);
    }
    return r;
}

static int end_done(const struct work *work)
{
    bool has_snapshot, has_bitmap;
    int r = look(work, &has_snapshot, &has_bitmap);

    if (r == 0 && !has_snapshot) {
        r = error_set(&work->ctl->error, ENOENT,
                      "%s: has no snapshot '%s', so no backup was read from it; if it has a bitmap "
                      "of that name, the backup point was not finished: --failed takes it back",
                      work->stack->daemon.image, work->kept);
    }
    if (r == 0) {
        r = drop(work, has_snapshot, has_bitmap);
    }
    if (r == 0) {
        say(work, "done");
    }
    return r;
}

static int end_failed(const struct work *work)
{
    struct error *error = &work->ctl->error;
    bool has_snapshot, has_bitmap;
    int r = look(work, &has_snapshot, &has_bitmap);

    if (r == 0 && (has_bitmap || !has_snapshot)) { /* where neither is, it says so */
        r = ask(work, "bitmap-merge", work->name, work->kept, NULL, error);
    }
    if (r == 0) {
        r = drop(work, has_snapshot, has_bitmap);
    }
    if (r == 0) {
        say(work, "taken back");
    }
    return r;
}

/* --- The command ----------------------------------------------------------------------------- */

static int do_it(const struct work *work)
{
    const struct backup_point_options *options = work->ctl->options;

    if (options->done.value) {
        return end_done(work);
    }
    return options->failed.value ? end_failed(work) : begin(work);
}

/* Its snapshots and bitmaps are looked at in the file, and read under a directory. */
static int check_mount(const struct work *work)
{
    const struct registry_record *daemon = &work->stack->daemon;

    if (strcmp(daemon->image, daemon->mount_point) != 0) {
        return stack_check_image(work->stack, &work->ctl->error);
    }
    return error_set(&work->ctl->error, EINVAL,
                     "%s: is mounted over itself, where no backup can be read; mount it over a "
                     "directory: qcow2fs IMAGE DIRECTORY",
                     daemon->image);
}

static int find_mount(struct work *work, struct stacks *stacks)
{
    const char *path = work->ctl->operands[0];
    struct stack *stack;
    int r = stacks_find_writer(stacks, path, &stack, &work->ctl->error);

    if (r != 0) {
        return r;
    }
    work->stack = stack;
    return stack != NULL ? check_mount(work)
                         : error_set(&work->ctl->error, EINVAL,
                                     "%s: is not mounted for writing by qcow2fs; mount it first: "
                                     "qcow2fs IMAGE DIRECTORY",
                                     path);
}

static int find_and_do(struct ctl *ctl)
{
    const struct backup_point_options *options = ctl->options;
    struct work work = {.ctl = ctl, .name = options->bitmap};
    struct stacks stacks;
    int r;

    if (asprintf(&work.kept, PREFIX "%s", work.name) < 0) {
        return error_set(&ctl->error, ENOMEM, "out of memory");
    }
    r = stacks_find(&stacks);
    if (r < 0) {
        free(work.kept);
        return error_set(&ctl->error, -r, "what is mounted cannot be told: %s", strerror(-r));
    }
    r = find_mount(&work, &stacks);
    if (r == 0) {
        r = do_it(&work);
    }
    stacks_release(&stacks);
    free(work.kept);
    return r;
}

static int run_backup_point(struct ctl *ctl)
{
    const struct backup_point_options *options = ctl->options;

    if (options->bitmap == NULL) {
        error_set(&ctl->error, EINVAL, "say which bitmap records the changes: --bitmap=NAME");
        return CTL_USAGE;
    }
    if (strlen(options->bitmap) > BITMAP_NAME_MAX - strlen(PREFIX)) {
        error_set(&ctl->error, EINVAL,
                  "the name of the bitmap has more than %zu bytes, and with " PREFIX
                  " before it would be too long",
                  BITMAP_NAME_MAX - strlen(PREFIX));
        return CTL_USAGE;
    }
    if (options->done.value && options->failed.value) {
        error_set(&ctl->error, EINVAL, "of --done and --failed only one can be");
        return CTL_USAGE;
    }
    if (options->freeze != NULL && (options->done.value || options->failed.value)) {
        error_set(&ctl->error, EINVAL,
                  "--freeze is for a backup that begins, not for --done or --failed");
        return CTL_USAGE;
    }
    return find_and_do(ctl) < 0 ? CTL_FAILED : CTL_OK;
}

#define FIELD(member) offsetof(struct backup_point_options, member)

static const struct option_spec backup_point_flags[] = {
    {.name = "bitmap",
     .type = OPTION_STRING,
     .field = FIELD(bitmap),
     .value_name = "NAME",
     .help = "the enabled bitmap that says what the last backup has not"},
    {.name = "freeze",
     .type = OPTION_STRING,
     .field = FIELD(freeze),
     .value_name = "DIR",
     .help = "the file system mounted at DIR from this disk stands still while the snapshot is "
             "made, and is clean in it"},
    {.name = "done",
     .type = OPTION_BOOL,
     .field = FIELD(done),
     .help = "the backup is there and stable: the snapshot and the old bitmap go"},
    {.name = "failed",
     .type = OPTION_BOOL,
     .field = FIELD(failed),
     .help = "there is no backup: what the old bitmap has is in NAME again, then they go"},
    FLAG_FORMAT(struct backup_point_options),
    FLAG_QUIET(struct backup_point_options),
    FLAG_TRUST_NAMES(struct backup_point_options),
    FLAG_FOLLOW(struct backup_point_options),
    {.name = NULL},
};

const struct command backup_point_command = {
    .name = "backup-point",
    .operands_text = "MOUNTED",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "begin and end an incremental backup of a disk that is mounted",
    .description =
        "The disk as it is now becomes the snapshot backup-NAME; what bitmap NAME says of\n"
        "it becomes the bitmap backup-NAME; and NAME begins anew, for the next backup.\n"
        "Under a mount point that is a directory, bitmaps/backup-NAME/disk.raw then has\n"
        "what has changed since the last backup, as it is in the snapshot, and holes for\n"
        "all else; extents.json lists it. Nothing is written to either while the backup\n"
        "is made. --done or --failed ends it.\n"
        "\n"
        "MOUNTED is the image, its mount point, its raw file, its loop device, or where\n"
        "its files are. Killed at any moment no change is lost: --failed takes back a\n"
        "point that was not finished, and either can be given again.\n",
    .examples = "  qcow2ctl backup-point --bitmap=nightly --freeze=/mnt /mnt\n"
                "  qcow2ctl backup-point --bitmap=nightly --done disk.qcow2\n"
                "  qcow2ctl backup-point --bitmap=nightly --failed disk.qcow2\n",
    .options_size = sizeof(struct backup_point_options),
    .flags = backup_point_flags,
    .run = run_backup_point,
};
