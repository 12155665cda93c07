/* SPDX-License-Identifier: MIT */
/* qcow2ctl commit: what an image says goes into the one behind it. */
#include "config.h"

#include "admin/commit.h"
#include "ctl/chain_work.h"
#include "ctl/command.h"
#include "util/json.h"
#include "util/printable.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct commit_flags {
    struct common_flags common;
    struct option_bool keep, change_snapshots;
    const char *base;
};

static int commit(struct ctl *ctl, const struct chain_work *work, void *context)
{
    const struct commit_flags *flags = ctl->options;
    struct chain_commit_result *result = context;
    const struct chain_commit_options options = {
        .base = flags->base,
        .keep = flags->keep.value,
        .change_snapshots = flags->change_snapshots.value,
        .work = *work,
    };

    return chain_commit(ctl->operands[0], &options, ctl->log, result, &ctl->error);
}

static int report_json(struct ctl *ctl, const struct chain_commit_result *result)
{
    struct json *object = json_new_object();
    int r;

    json_put_text(object, "filename", ctl->operands[0]);
    json_put_text(object, "base", result->base);
    json_put_number(object, "copied", result->copied);
    json_put_bool(object, "emptied", result->emptied);
    r = ctl_print_json(ctl, object);
    json_free(object);
    return r;
}

static int report(struct ctl *ctl, const struct chain_commit_result *result)
{
    const struct commit_flags *flags = ctl->options;

    ctl_done(ctl, ctl->operands[0], "is committed");
    if (flags->common.quiet.value) {
        return 0;
    }
    if (command_prints_json(&flags->common)) {
        return report_json(ctl, result);
    }
    printable_line(stdout, "Image committed. %" PRIu64 " bytes were written to %s; %s",
                   result->copied, result->base,
                   result->emptied ? "the image is empty now."
                                   : "the image still has what it had.");
    return 0;
}

static int run_commit(struct ctl *ctl)
{
    const struct commit_flags *flags = ctl->options;
    struct chain_commit_result result;
    int r;

    if (command_prints_json(&flags->common) && json_require(&ctl->error) < 0) {
        return CTL_FAILED;
    }
    r = ctl_chain_work(ctl, &flags->common, "committing", commit, &result);
    if (r == 0) {
        r = report(ctl, &result);
        free(result.base);
    }
    return r < 0 ? CTL_FAILED : CTL_OK;
}

static const struct option_spec commit_options[] = {
    FLAG_FORMAT(struct commit_flags),
    {
        .name = "base",
        .letter = 'b',
        .type = OPTION_STRING,
        .field = offsetof(struct commit_flags, base),
        .value_name = "BASE",
        .help = "the image behind IMAGE that it goes into, as a path from here (default: the next "
                "one); with others between, IMAGE keeps what it has, as with -d",
    },
    {
        .name = "keep",
        .letter = 'd',
        .type = OPTION_BOOL,
        .field = offsetof(struct commit_flags, keep),
        .help = "do not empty IMAGE afterwards: for one that is removed then",
    },
    {
        .name = "change-snapshots",
        .type = OPTION_BOOL,
        .field = offsetof(struct commit_flags, change_snapshots),
        .help = "go on also where an internal snapshot shows something else afterwards",
    },
    FLAG_PROGRESS(struct commit_flags),
    {
        .name = "json",
        .type = OPTION_PRESET,
        .field = offsetof(struct commit_flags, common.output),
        .min = CTL_OUTPUT_JSON,
        .help = "print JSON: filename, base, copied (bytes), emptied",
    },
    FLAG_OUTPUT(struct commit_flags),
    FLAG_QUIET(struct commit_flags),
    FLAG_TRUST_NAMES(struct commit_flags),
    FLAG_FOLLOW(struct commit_flags),
    FLAG_KEY_FILE(struct commit_flags),
    FLAG_KEY_ITERATIONS(struct commit_flags),
    FLAG_LOCKING(struct commit_flags),
    {.name = NULL},
};

const struct command commit_command = {
    .name = "commit",
    .operands_text = "IMAGE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "put what an image says into the one behind it",
    .description = "What IMAGE has of its disk is written to its backing file, or to BASE behind\n"
                   "that, with what the images between have. A smaller base gets the size of\n"
                   "IMAGE; a larger one keeps its own. Then IMAGE is empty, and reads the same.\n"
                   "\n"
                   "What an internal snapshot of IMAGE, or of an image between, has not itself\n"
                   "it shows of the base, too; where it would show something else,\n"
                   "--change-snapshots is asked for.\n"
                   "\n"
                   "Any other image above the base, also one between the two, shows another disk\n"
                   "afterwards: remove those.\n"
                   "\n"
                   "IMAGE and the base must not be in use. Killed at any moment, IMAGE reads as\n"
                   "before; the command can be given again.\n",
    .examples = "  qcow2ctl commit overlay.qcow2\n"
                "  qcow2ctl commit -d overlay.qcow2 && rm overlay.qcow2\n"
                "  qcow2ctl commit -b base.qcow2 third.qcow2\n",
    .options_size = sizeof(struct commit_flags),
    .flags = commit_options,
    .run = run_commit,
};
