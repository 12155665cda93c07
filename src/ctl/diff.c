/* SPDX-License-Identifier: MIT */
/* qcow2ctl diff: the ranges in which two disks, or two states of one, differ. */
#include "config.h"

#include "ctl/box.h"
#include "ctl/command.h"
#include "ctl/compare_disks.h"
#include "ctl/told_traces.h"
#include "util/json.h"
#include "util/printable.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct diff_options {
    struct common_flags common;
    struct option_number format[2];
};

struct diff {
    const struct diff_options *options;
    char *paths[2]; /* owned: the operands without their snapshots */
    struct comparison comparison;
    FILE *out;
    uint64_t ranges, bytes;
};

/* --- The operands -------------------------------------------------------------------------- */

/*
 * IMAGE@SNAPSHOT: a file that has the whole name is meant first; then the longest name before an @
 * that is a file's.
 */
static int split(struct ctl *ctl, const char *operand, char **path, const char **snapshot)
{
    char *at;

    *snapshot = NULL;
    *path = strdup(operand);
    if (*path == NULL) {
        return error_set(&ctl->error, ENOMEM, "%s: out of memory", operand);
    }
    if (access(operand, F_OK) == 0) {
        return 0;
    }
    while ((at = strrchr(*path, '@')) != NULL) {
        *at = '\0';
        if (access(*path, F_OK) == 0) {
            *snapshot = operand + (at - *path) + 1;
            return 0;
        }
    }
    free(*path); /* as it stands: who opens it says what is wrong */
    *path = strdup(operand);
    return *path != NULL ? 0 : error_set(&ctl->error, ENOMEM, "%s: out of memory", operand);
}

/* --- What is said --------------------------------------------------------------------------- */

/* compare_range_fn */
static int tell_range(void *context, uint64_t offset, uint64_t length)
{
    struct diff *diff = context;
    const struct common_flags *common = &diff->options->common;

    if (command_prints_json(common)) {
        fprintf(diff->out, "%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 "}",
                diff->ranges > 0 ? ",\n" : "", offset, length);
    } else if (!common->quiet.value) {
        if (diff->ranges == 0) {
            printable_line(diff->out, "%-19s %s", "Offset", "Length");
        }
        printable_line(diff->out, "%-19" PRIu64 " %" PRIu64, offset, length);
    }
    diff->ranges++;
    diff->bytes += length;
    return 0;
}

static void tell_end(const struct diff *diff)
{
    const struct common_flags *common = &diff->options->common;
    uint64_t a = diff->comparison.sides[0].walk.size, b = diff->comparison.sides[1].walk.size;

    if (command_prints_json(common)) {
        fputs("]\n", diff->out);
    } else if (!common->quiet.value) {
        if (a != b) {
            printable_line(diff->out,
                           "The sizes differ: %" PRIu64 " and %" PRIu64
                           " bytes; what the longer has more was compared with zeros",
                           a, b);
        }
        printable_line(diff->out,
                       diff->ranges == 0 ? "The disks are identical."
                                         : "%" PRIu64 " ranges, with %" PRIu64 " bytes in all.",
                       diff->ranges, diff->bytes);
    }
}

/* --- The command ------------------------------------------------------------------------------ */

static int compare(struct ctl *ctl, struct diff *diff)
{
    struct ctl_disk_request requests[2];
    bool json = command_prints_json(&diff->options->common);
    int r = json ? json_require(&ctl->error) : 0;

    for (unsigned i = 0; i < 2 && r == 0; i++) {
        requests[i] = (struct ctl_disk_request){.format = diff->options->format[i]};
        r = split(ctl, ctl->operands[i], &diff->paths[i], &requests[i].snapshot);
        requests[i].path = diff->paths[i];
    }
    if (r == 0) {
        const struct ctl_box box = {.images = {diff->paths[0], diff->paths[1]}, .decrypts = true};

        r = ctl_box_enter(ctl, &diff->options->common, &box);
    }
    if (r == 0) {
        r = compare_open(&diff->comparison, requests, &diff->options->common);
    }
    if (r == 0) {
        const struct compare_side *sides = diff->comparison.sides;

        ctl_tell_traces(ctl, sides[0].disk.image);
        if (sides[1].disk.image != sides[0].disk.image) {
            ctl_tell_traces(ctl, sides[1].disk.image);
        }
        if (json) {
            fputs("[", diff->out);
        }
        r = compare_disks(&diff->comparison);
    }
    if (r == 0) {
        tell_end(diff);
    }
    return r;
}

static int run_diff(struct ctl *ctl)
{
    struct diff diff = {
        .options = ctl->options,
        .out = stdout,
        .comparison = {.ctl = ctl, .range = tell_range, .context = &diff},
    };
    int r = compare(ctl, &diff);

    compare_close(&diff.comparison);
    free(diff.paths[0]);
    free(diff.paths[1]);
    if (r != 0) {
        return COMPARE_FAILED;
    }
    return diff.ranges == 0 ? COMPARE_EQUAL : COMPARE_DIFFERENT;
}

#define FIELD(name) offsetof(struct diff_options, name)

static const struct option_spec diff_flags[] = {
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
    FLAG_FORCE_SHARE(struct diff_options),
    FLAG_TRUST_NAMES(struct diff_options),
    FLAG_FOLLOW(struct diff_options),
    FLAG_KEY_FILE(struct diff_options),
    FLAG_KEY_ITERATIONS(struct diff_options),
    FLAG_LOCKING(struct diff_options),
    FLAG_SANDBOX(struct diff_options),
    {.name = "json",
     .type = OPTION_PRESET,
     .field = FIELD(common.output),
     .min = CTL_OUTPUT_JSON,
     .help = "print JSON: a list of start and length, in bytes"},
    FLAG_OUTPUT(struct diff_options),
    FLAG_QUIET(struct diff_options),
    {.name = NULL},
};

const struct command diff_command = {
    .name = "diff",
    .operands_text = "A[@SNAPSHOT] B[@SNAPSHOT]",
    .min_operands = 2,
    .max_operands = 2,
    .summary = "list the ranges in which two disks differ",
    .description =
        "Lists, to the sector of 512 bytes, where the disks of two images, raw files or\n"
        "internal snapshots differ. Where one is longer, what it has more is compared\n"
        "with zeros. Nothing is read where the tables say that both are the same: two\n"
        "snapshots of a large disk take seconds. The exit status is 0 where they are\n"
        "equal, 1 where they differ, 2 where that could not be found out.\n",
    .examples = "  qcow2ctl diff disk.qcow2@monday disk.qcow2\n"
                "  qcow2ctl diff --json disk.qcow2@monday disk.qcow2@friday\n"
                "  qcow2ctl diff -f qcow2 -F raw disk.qcow2 /dev/vg0/disk\n",
    .options_size = sizeof(struct diff_options),
    .flags = diff_flags,
    .run = run_diff,
    .unprinted_status = COMPARE_FAILED,
};
