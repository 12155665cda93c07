/* SPDX-License-Identifier: MIT */
/* qcow2ctl rebase: another backing file for an image. */
#include "config.h"

#include "admin/rebase.h"
#include "ctl/chain_work.h"
#include "ctl/command.h"
#include "disk/filename.h"
#include "util/json.h"
#include "util/printable.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct rebase_flags {
    struct common_flags common;
    struct option_bool unsafe, change_snapshots;
    const char *backing_file, *backing_format;
};

/* 0, or CTL_USAGE: which file, and of which format, is always said. */
static int check_usage(struct ctl *ctl)
{
    const struct rebase_flags *flags = ctl->options;
    const char *path = ctl->operands[0];

    if (flags->backing_file == NULL) {
        error_set(&ctl->error, EINVAL,
                  "%s: which backing file it shall have is not said; add -b NEW, or -b '' for none",
                  path);
        return CTL_USAGE;
    }
    if (*flags->backing_file != '\0' &&
        (flags->backing_format == NULL || *flags->backing_format == '\0')) {
        error_set(&ctl->error, EINVAL,
                  "%s: the backing file '%s' comes without its format; add -F qcow2 or -F raw",
                  path, flags->backing_file);
        return CTL_USAGE;
    }
    return 0;
}

static int rebase(struct ctl *ctl, const struct chain_work *work, void *context)
{
    const struct rebase_flags *flags = ctl->options;
    struct chain_rebase_result *result = context;
    const struct chain_rebase_options options = {
        .backing_file = flags->backing_file,
        .backing_format = *flags->backing_file != '\0' ? flags->backing_format : "",
        .unsafe = flags->unsafe.value,
        .change_snapshots = flags->change_snapshots.value,
        .work = *work,
    };

    return chain_rebase(ctl->operands[0], &options, ctl->log, result, &ctl->error);
}

static int report_json(struct ctl *ctl, const struct chain_rebase_result *result)
{
    const struct rebase_flags *flags = ctl->options;
    struct json *object = json_new_object();
    int r;

    json_put_text(object, "filename", ctl->operands[0]);
    json_put_text(object, "backing-filename", flags->backing_file);
    if (*flags->backing_file != '\0') {
        json_put_text(object, "backing-filename-format", flags->backing_format);
    }
    json_put_number(object, "copied", result->copied);
    json_put_number(object, "zeroed", result->zeroed);
    r = ctl_print_json(ctl, object);
    json_free(object);
    return r;
}

static int report(struct ctl *ctl, const struct chain_rebase_result *result)
{
    const struct rebase_flags *flags = ctl->options;
    const char *file = flags->backing_file;

    ctl_done(ctl, ctl->operands[0], "is rebased");
    if (flags->common.quiet.value) {
        return 0;
    }
    if (command_prints_json(&flags->common)) {
        return report_json(ctl, result);
    }
    if (flags->unsafe.value && *file != '\0') {
        printable_line(
            stdout, "Image rebased. What it does not hold itself the disk now shows as %s has it.",
            file);
    } else if (flags->unsafe.value) {
        printable_line(stdout, "Image rebased. What it does not hold itself now reads as zeros.");
    } else {
        printable_line(stdout,
                       "Image rebased: its backing file is %s now, and the disk shows what it did. "
                       "%" PRIu64 " bytes were copied into the image.",
                       *file != '\0' ? file : "none", result->copied);
    }
    return 0;
}

/* Which is recorded all the same, as by QEMU: nobody has looked at it. */
static void warn_of_protocol(struct ctl *ctl)
{
    const struct rebase_flags *flags = ctl->options;
    const char *name = flags->backing_file;
    size_t length = filename_protocol(name);

    if (flags->unsafe.value && length > 0 && strncmp(name, "file:", 5) != 0) {
        log_line(ctl->log, LOG_LEVEL_WARNING,
                 "%s: '%s' is no file name, here or to QEMU, but an address of the protocol "
                 "'%.*s:'; a file of that name is -b './%s'",
                 ctl->operands[0], name, (int)length, name, name);
    }
}

static int run_rebase(struct ctl *ctl)
{
    const struct rebase_flags *flags = ctl->options;
    struct chain_rebase_result result;
    int r;

    if (command_prints_json(&flags->common) && json_require(&ctl->error) < 0) {
        return CTL_FAILED;
    }
    r = check_usage(ctl);
    if (r != 0) {
        return r;
    }
    r = ctl_chain_work(ctl, &flags->common, "rebasing", rebase, &result);
    if (r == 0) {
        warn_of_protocol(ctl);
        r = report(ctl, &result);
    }
    return r < 0 ? CTL_FAILED : CTL_OK;
}

#define FIELD(member) offsetof(struct rebase_flags, member)

static const struct option_spec rebase_options[] = {
    FLAG_FORMAT(struct rebase_flags),
    {
        .name = "backing",
        .letter = 'b',
        .type = OPTION_STRING,
        .field = FIELD(backing_file),
        .value_name = "NEW",
        .help = "the backing file, as IMAGE shall record it: a relative name begins in the "
                "directory of IMAGE; empty: none",
    },
    {
        .name = "backing-format",
        .letter = 'F',
        .type = OPTION_STRING,
        .field = FIELD(backing_format),
        .value_name = "FMT",
        .help = "its format: qcow2 or raw",
    },
    {
        .name = "unsafe",
        .letter = 'u',
        .type = OPTION_BOOL,
        .field = FIELD(unsafe),
        .help = "change the names alone, without a look at any backing file: for one that has "
                "moved, or holds the same",
    },
    {
        .name = "change-snapshots",
        .type = OPTION_BOOL,
        .field = FIELD(change_snapshots),
        .help = "go on also where an internal snapshot shows something else afterwards",
    },
    FLAG_PROGRESS(struct rebase_flags),
    {
        .name = "json",
        .type = OPTION_PRESET,
        .field = FIELD(common.output),
        .min = CTL_OUTPUT_JSON,
        .help = "print JSON: filename, backing-filename, backing-filename-format, copied and "
                "zeroed (bytes)",
    },
    FLAG_OUTPUT(struct rebase_flags),
    FLAG_QUIET(struct rebase_flags),
    FLAG_TRUST_NAMES(struct rebase_flags),
    FLAG_FOLLOW(struct rebase_flags),
    FLAG_KEY_FILE(struct rebase_flags),
    FLAG_KEY_ITERATIONS(struct rebase_flags),
    FLAG_LOCKING(struct rebase_flags),
    {.name = NULL},
};

const struct command rebase_command = {
    .name = "rebase",
    .operands_text = "-b NEW -F FMT IMAGE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "give an image another backing file, or none",
    .description =
        "IMAGE gets the backing file NEW, and its disk shows what it did: where NEW\n"
        "shows something else than the old one, that is copied into IMAGE. With -u only\n"
        "the name is changed, and the disk shows what NEW has.\n"
        "\n"
        "What an internal snapshot has not itself it shows of the backing file, too;\n"
        "where it would show something else, --change-snapshots is asked for (not with\n"
        "-u).\n"
        "\n"
        "IMAGE must not be in use. Killed at any moment, it has one backing file or the\n"
        "other, and reads as before; the command can be given again.\n",
    .examples = "  qcow2ctl rebase -b base.qcow2 -F qcow2 third.qcow2\n"
                "  qcow2ctl rebase -b '' overlay.qcow2\n"
                "  qcow2ctl rebase -u -b /srv/new/base.raw -F raw overlay.qcow2\n",
    .options_size = sizeof(struct rebase_flags),
    .flags = rebase_options,
    .run = run_rebase,
};
