/* SPDX-License-Identifier: MIT */
/* qcow2ctl compare: whether two disks are the same. */
#include "config.h"

#include "ctl/box.h"
#include "ctl/command.h"
#include "ctl/compare_disks.h"
#include "util/json.h"
#include "util/printable.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct compare_options {
    struct common_flags common;
    struct option_number format[2];
    char *snapshot[2];
    struct option_bool strict;
};

/* --- What is said ------------------------------------------------------------------------- */

static struct json *describe(const struct compare_side *side)
{
    struct json *object = json_new_object();

    json_put_text(object, "filename", side->path);
    json_put_text(object, "format", ctl_disk_format(&side->disk));
    json_put_number(object, "virtual-size", side->walk.size);
    return object;
}

static int print_json(struct comparison *comparison)
{
    static const char *const names[] = {
        [DIFFERENCE_BYTES] = "bytes",
        [DIFFERENCE_SIZE] = "size",
        [DIFFERENCE_ALLOCATION] = "allocation",
    };
    struct json *object = json_new_object(), *images = json_new_array();
    int r;

    json_put_bool(object, "equal", comparison->found == DIFFERENCE_NONE);
    if (comparison->found != DIFFERENCE_NONE) {
        json_put_text(object, "difference", names[comparison->found]);
        json_put_number(object, "offset", comparison->offset);
    }
    json_add(images, describe(&comparison->sides[0]));
    json_add(images, describe(&comparison->sides[1]));
    json_put(object, "images", images);
    r = ctl_print_json(comparison->ctl, object);
    json_free(object);
    return r;
}

/* In the words of qemu-img. */
static void print_text(const struct comparison *comparison)
{
    const struct compare_side *a = &comparison->sides[0], *b = &comparison->sides[1];

    if (a->walk.size != b->walk.size && comparison->found != DIFFERENCE_SIZE) {
        printable_line(stdout, "Warning: Image size mismatch! (%" PRIu64 " and %" PRIu64 " bytes)",
                       a->walk.size, b->walk.size);
    }
    switch (comparison->found) {
    case DIFFERENCE_BYTES:
        printable_line(stdout, "Content mismatch at offset %" PRIu64 "!", comparison->offset);
        break;
    case DIFFERENCE_SIZE:
        printable_line(stdout,
                       "Strict mode: Image size mismatch! (%" PRIu64 " and %" PRIu64 " bytes)",
                       a->walk.size, b->walk.size);
        break;
    case DIFFERENCE_ALLOCATION:
        printable_line(stdout,
                       "Strict mode: Allocation mismatch at offset %" PRIu64
                       ": only %s has data there!",
                       comparison->offset, a->walk.is_data ? a->path : b->path);
        break;
    default:
        printable_line(stdout, "Images are identical.");
        break;
    }
}

static int report(struct comparison *comparison, const struct compare_options *options)
{
    if (command_prints_json(&options->common)) {
        return print_json(comparison);
    }
    if (!options->common.quiet.value) {
        print_text(comparison);
    }
    return 0;
}

/* --- The command --------------------------------------------------------------------------- */

static int run_compare(struct ctl *ctl)
{
    const struct compare_options *options = ctl->options;
    struct comparison comparison = {.ctl = ctl, .strict = options->strict.value};
    struct ctl_disk_request requests[2];
    const struct ctl_box box = {
        .images = {ctl->operands[0], ctl->operands[1]},
        .decrypts = true,
    };
    int r = command_prints_json(&options->common) ? json_require(&ctl->error) : 0;

    for (unsigned i = 0; i < 2; i++) {
        requests[i] = (struct ctl_disk_request){
            .path = ctl->operands[i],
            .format = options->format[i],
            .snapshot = options->snapshot[i],
        };
    }
    if (r == 0) {
        r = ctl_box_enter(ctl, &options->common, &box);
    }
    if (r == 0) {
        r = compare_open(&comparison, requests, &options->common);
    }
    if (r == 0) {
        r = compare_disks(&comparison);
    }
    if (r == 0) {
        r = report(&comparison, options);
    }
    compare_close(&comparison);
    if (r != 0) {
        return COMPARE_FAILED;
    }
    return comparison.found == DIFFERENCE_NONE ? COMPARE_EQUAL : COMPARE_DIFFERENT;
}

#define FIELD(name) offsetof(struct compare_options, name)

static const struct option_spec compare_flags[] = {
    {.name = "format",
     .letter = 'f',
     .type = OPTION_CHOICE,
     .field = FIELD(format[0]),
     .choices = CTL_DISK_FORMATS,
     .value_name = "FMT",
     .default_text = "what it looks like",
     .help = "the format of A: qcow2 or raw"},
    {.name = "second-format",
     .letter = 'F',
     .type = OPTION_CHOICE,
     .field = FIELD(format[1]),
     .choices = CTL_DISK_FORMATS,
     .value_name = "FMT",
     .default_text = "what it looks like",
     .help = "the format of B"},
    {.name = "snapshot",
     .letter = 'l',
     .type = OPTION_STRING,
     .field = FIELD(snapshot[0]),
     .value_name = "NAME|ID",
     .help = "the disk of this internal snapshot of A, in place of the active state"},
    {.name = "second-snapshot",
     .letter = 'L',
     .type = OPTION_STRING,
     .field = FIELD(snapshot[1]),
     .value_name = "NAME|ID",
     .help = "the same of B"},
    {.name = "strict",
     .letter = 's',
     .type = OPTION_BOOL,
     .field = FIELD(strict),
     .help = "different sizes, and data in one where the other has none, are a difference, too"},
    FLAG_PROGRESS(struct compare_options),
    FLAG_FORCE_SHARE(struct compare_options),
    FLAG_TRUST_NAMES(struct compare_options),
    FLAG_FOLLOW(struct compare_options),
    FLAG_KEY_FILE(struct compare_options),
    FLAG_KEY_ITERATIONS(struct compare_options),
    FLAG_LOCKING(struct compare_options),
    FLAG_SANDBOX(struct compare_options),
    FLAG_JSON(struct compare_options),
    FLAG_OUTPUT(struct compare_options),
    FLAG_QUIET(struct compare_options),
    {.name = NULL},
};

const struct command compare_command = {
    .name = "compare",
    .operands_text = "A B",
    .min_operands = 2,
    .max_operands = 2,
    .summary = "tell whether two disks hold the same bytes",
    .description =
        "Compares the disks of two images, or of raw files: what a guest would read, not\n"
        "how it is stored. Where one is longer, what it has more must read as zeros. Says\n"
        "at which offset of the disk the first difference is, and reads nothing where\n"
        "neither has data, or both show the same bytes of one file. The exit status is 0\n"
        "where they are equal, 1 where they differ, 2 where that could not be found out.\n",
    .examples = "  qcow2ctl compare disk.qcow2 copy.qcow2\n"
                "  qcow2ctl compare -f qcow2 -F raw disk.qcow2 /dev/vg0/disk\n"
                "  qcow2ctl compare -q -l monday disk.qcow2 disk.qcow2 || echo changed\n",
    .options_size = sizeof(struct compare_options),
    .flags = compare_flags,
    .run = run_compare,
    .unprinted_status = COMPARE_FAILED,
};
