/* SPDX-License-Identifier: MIT */
/* qcow2ctl map: where the bytes of a disk are, as a list or as a picture. */
#include "config.h"

#include "ctl/box.h"
#include "ctl/command.h"
#include "ctl/map_list.h"
#include "ctl/map_output.h"
#include "ctl/map_picture.h"
#include "ctl/map_svg.h"
#include "ctl/map_walk.h"
#include "ctl/open.h"
#include "disk/at_snapshot.h"
#include "util/checked.h"
#include "util/progress.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct map_options {
    struct common_flags common;
    struct option_number start_offset, max_length;
    char *snapshot;
    char *svg;
};

/* What is mapped. */
struct subject {
    struct ctl *ctl;
    const struct map_options *options;
    struct image *image;
    const struct snapshot *snapshot; /* NULL for the active state */
    struct view *view;
    uint64_t start, end; /* bytes of the disk */
    struct progress progress;
    struct map_output output; /* of the picture */
};

/* --- which disk, and which part of it ------------------------------------------------ */

static int open_view(struct subject *subject)
{
    struct error *error = &subject->ctl->error;
    size_t index = 0;
    int r;

    if (subject->options->snapshot == NULL) {
        r = view_open_active(subject->image, &subject->view);
        return r == 0 ? 0 : error_set(error, -r, "%s: out of memory", subject->image->path);
    }
    r = snapshot_choose(subject->image->snapshots, subject->image->path, subject->options->snapshot,
                        false, &index, error);
    if (r == 0) {
        subject->snapshot = &subject->image->snapshots->snapshots[index];
        r = view_open_snapshot(subject->image, index, &subject->view, error);
    }
    return r;
}

static void set_range(struct subject *subject)
{
    const struct map_options *options = subject->options;
    uint64_t size = view_size(subject->view);

    subject->start = min_u64(options->start_offset.value, size);
    subject->end = size;
    if (options->max_length.set) {
        subject->end = subject->start + min_u64(options->max_length.value, size - subject->start);
    }
}

static void show_progress(struct subject *subject, const struct map_walk *walk)
{
    progress_show(&subject->progress, map_walk_position(walk) - subject->start,
                  subject->end - subject->start);
}

/* --- the list ------------------------------------------------------------------------ */

static int list_extents(struct subject *subject, struct map_walk *walk)
{
    struct map_extent extent;
    struct map_list list;
    int r;

    /* Where the list itself is on the terminal it shows how far it is. */
    subject->progress.is_terminal = subject->progress.is_terminal && isatty(STDOUT_FILENO) != 1;
    map_list_begin(&list, stdout, subject->options->common.output.value == CTL_OUTPUT_JSON);
    while ((r = map_walk_next(walk, &extent, &subject->ctl->error)) > 0 && !ferror(stdout)) {
        map_list_add(&list, &extent);
        show_progress(subject, walk);
    }
    if (r < 0) {
        map_list_break(&list);
    } else {
        map_list_end(&list);
    }
    return r < 0 ? r : 0;
}

/* --- the picture --------------------------------------------------------------------- */

/* What cannot be mapped is part of the picture; the first of it is the sentence of the end. */
static int gather(struct subject *subject, struct map_walk *walk, struct picture *picture)
{
    struct error *error = &subject->ctl->error, later;
    struct map_extent extent;
    int r, result = 0;

    while ((r = map_walk_next(walk, &extent, result == 0 ? error : &later)) != 0) {
        if (r > 0) {
            picture_add(picture, &extent);
        } else if (r == -ENOMEM) {
            return r;
        } else {
            uint64_t start = map_walk_position(walk);

            picture_add_damage(picture, start, map_walk_skip(walk));
            result = r;
        }
        show_progress(subject, walk);
    }
    return result;
}

static uint64_t store_size(struct store *store)
{
    struct store_info info;

    return store_info(store, &info) == 0 ? info.size : 0;
}

static int draw(struct subject *subject, struct picture *picture)
{
    struct error *error = &subject->ctl->error, later;
    struct map_output *output = &subject->output;
    struct svg_subject svg = {
        .image = subject->image,
        .snapshot = subject->snapshot,
        .disk_size = view_size(subject->view),
    };
    int r;

    if (image_allocated(subject->image, &svg.allocated) < 0) {
        svg.allocated = 0;
    }
    error = error->code == 0 ? error : &later;
    r = map_output_open(output, subject->image, error);
    if (r == 0) {
        map_svg_draw(picture, &svg, output->file);
        r = map_output_close(output, error);
    }
    return r;
}

static int draw_extents(struct subject *subject, struct map_walk *walk)
{
    const struct image *image = subject->image;
    struct picture *picture = malloc(sizeof(*picture));
    int r, drawn;

    if (picture == NULL) {
        return error_set(&subject->ctl->error, ENOMEM, "%s: out of memory", image->path);
    }
    /* Whether it can be made, before the long way; who is tired of that leaves no file behind. */
    r = map_output_open(&subject->output, image, &subject->ctl->error);
    if (r != 0) {
        free(picture);
        return r;
    }
    map_output_abandon(&subject->output);
    /* In a snapshot's tables the COPIED bits mean nothing. */
    picture_begin(picture, subject->start, subject->end,
                  image->snapshots->count > 0 && subject->snapshot == NULL,
                  store_size(image->data_file));
    r = gather(subject, walk, picture);
    if (r != -ENOMEM) {
        drawn = draw(subject, picture);
        r = r != 0 ? r : drawn;
    }
    free(picture);
    return r;
}

/* --- the command ---------------------------------------------------------------------- */

static int map_view(struct subject *subject)
{
    struct map_walk *walk;
    int r = open_view(subject);

    if (r != 0) {
        return r;
    }
    set_range(subject);
    r = map_walk_open(subject->view, subject->image, subject->start, subject->end, &walk);
    if (r != 0) {
        error_set(&subject->ctl->error, -r, "%s: out of memory", subject->image->path);
    } else {
        progress_begin(&subject->progress, "qcow2ctl", "mapping the disk", NULL);
        r = subject->options->svg != NULL ? draw_extents(subject, walk)
                                          : list_extents(subject, walk);
        progress_end(&subject->progress);
        map_walk_close(walk);
    }
    view_close(subject->view);
    return r;
}

static int enter_box(struct subject *subject)
{
    const struct ctl_box box = {
        .images = {subject->ctl->operands[0]},
        .makes = {{.path = subject->output.temporary, .becomes = subject->output.path}},
    };

    return ctl_box_enter(subject->ctl, &subject->options->common, &box);
}

static int run_map(struct ctl *ctl)
{
    const struct map_options *options = ctl->options;
    struct subject subject = {.ctl = ctl, .options = options};
    int r;

    if (options->svg != NULL && options->common.output.set) {
        error_set(&ctl->error, EINVAL, "--svg draws a picture in place of a list; leave out --%s",
                  options->common.output.value == CTL_OUTPUT_JSON ? "json" : "output");
        return CTL_USAGE;
    }
    r = options->svg != NULL ? map_output_place(options->svg, &subject.output, &ctl->error) : 0;
    if (r == 0) {
        r = enter_box(&subject);
    }
    if (r == 0) {
        r = ctl_open(ctl, ctl->operands[0], &options->common,
                     options->common.force_share.value ? STORE_READ_SHARED : STORE_READ,
                     &subject.image);
    }
    if (r == 0) {
        image_may_read_ahead(subject.image);
        r = map_view(&subject);
        image_close(subject.image);
    }
    map_output_release(&subject.output);
    return r == 0 ? CTL_OK : CTL_FAILED;
}

#define FIELD(name) offsetof(struct map_options, name)

static const struct option_spec map_flags[] = {
    FLAG_FORMAT(struct map_options),
    FLAG_FORCE_SHARE(struct map_options),
    FLAG_TRUST_NAMES(struct map_options),
    FLAG_FOLLOW(struct map_options),
    FLAG_SANDBOX(struct map_options),
    FLAG_JSON(struct map_options),
    FLAG_OUTPUT(struct map_options),
    {.name = "start-offset",
     .letter = 's',
     .type = OPTION_SIZE,
     .field = FIELD(start_offset),
     .max = INT64_MAX,
     .value_name = "OFFSET",
     .default_text = "0",
     .help = "where on the disk to begin"},
    {.name = "max-length",
     .letter = 'l',
     .type = OPTION_SIZE,
     .field = FIELD(max_length),
     .max = INT64_MAX,
     .value_name = "LENGTH",
     .default_text = "to the end",
     .help = "how much of the disk to map"},
    {.name = "snapshot",
     .type = OPTION_STRING,
     .field = FIELD(snapshot),
     .value_name = "NAME|ID",
     .help = "map the disk of this internal snapshot, in place of the active state"},
    {.name = "svg",
     .type = OPTION_STRING,
     .field = FIELD(svg),
     .value_name = "FILE",
     .help = "draw a picture of the disk into FILE, - for standard output, in place of a list; "
             "an older picture is replaced, any other file is not"},
    {.name = NULL},
};

const struct command map_command = {
    .name = "map",
    .operands_text = "IMAGE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "show where the bytes of the disk are, as a list or a picture",
    .description = "Lists the disk as extents, as qemu-img map does: where each is found in the\n"
                   "chain of images, and at which offset of which file. With --svg it draws a\n"
                   "picture of what is allocated, compressed, zero or shared with snapshots, and\n"
                   "of how the image file is fragmented.\n",
    .examples = "  qcow2ctl map disk.qcow2\n"
                "  qcow2ctl map --json --start-offset=1G --max-length=64M disk.qcow2\n"
                "  qcow2ctl map --svg=disk.svg disk.qcow2\n",
    .options_size = sizeof(struct map_options),
    .flags = map_flags,
    .run = run_map,
};
