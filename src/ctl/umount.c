/* SPDX-License-Identifier: MIT */
/* qcow2ctl umount and detach: everything down, and the image final. */
#include "config.h"

#include "ctl/command.h"
#include "ctl/dead_files.h"
#include "ctl/teardown.h"

#include <errno.h>
#include <string.h>

struct umount_options {
    struct option_bool lazy;
    struct option_number kill_after;
};

static int run_on(struct ctl *ctl, bool keep_mounts)
{
    const struct umount_options *options = ctl->options;
    const struct teardown how = {
        .lazy = options->lazy.value,
        .keep_mounts = keep_mounts,
        .kill_after = (int)options->kill_after.value,
    };
    struct stacks stacks;
    struct stack *stack;
    int result = stacks_find(&stacks);

    if (result < 0) {
        error_set(&ctl->error, -result, "what is mounted cannot be told: %s", strerror(-result));
        return CTL_FAILED;
    }
    stack = stacks_choose(&stacks, ctl->operands[0], &ctl->error);
    if (stack != NULL) {
        result = teardown_stack(stack, &how, ctl->log, &ctl->error);
    } else {
        (void)dead_files_refuse(ctl->operands[0], &ctl->error); /* a better sentence */
        result = -ENOENT;
    }
    stacks_release(&stacks);
    return result == 0 ? CTL_OK : CTL_FAILED;
}

static int run_umount(struct ctl *ctl)
{
    return run_on(ctl, false);
}

static int run_detach(struct ctl *ctl)
{
    return run_on(ctl, true);
}

#define FLAG_KILL_AFTER                                                                           \
    {                                                                                             \
        .name = "kill-after", .type = OPTION_UINT,                                                \
        .field = offsetof(struct umount_options, kill_after), .min = 1, .max = 86400,             \
        .value_name = "SECONDS",                                                                  \
        .help =                                                                                   \
            "end a daemon that has not ended by itself so long after: it is asked to (SIGTERM), " \
            "and after as long again killed, which loses what it had not written"                 \
    }

static const struct option_spec umount_flags[] = {
    {
        .name = "lazy",
        .letter = 'l',
        .type = OPTION_BOOL,
        .field = offsetof(struct umount_options, lazy),
        .help = "detach also what is in use, and wait for nothing: the rest follows when nobody "
                "uses it any more",
    },
    FLAG_KILL_AFTER,
    {.name = NULL},
};

static const struct option_spec detach_flags[] = {
    FLAG_KILL_AFTER,
    {.name = NULL},
};

const struct command umount_command = {
    .name = "umount",
    .operands_text = "PATH",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "unmount an image, and wait until it is final",
    .description =
        "Takes down all that stands on an image, from the top: the file system in it, its\n"
        "loop device, the mount of the raw disk; and waits until the daemon has written\n"
        "the last of it and ended. Status 0 means that all is in the image; where the\n"
        "daemon failed, its own sentence says with what.\n\n"
        "PATH is any of these: where the file system or the raw disk is mounted, the raw\n"
        "file, the loop device, or the image.\n",
    .examples = "  qcow2ctl umount /mnt\n"
                "  qcow2ctl umount disk.qcow2\n"
                "  qcow2ctl umount --kill-after 60 /mnt\n",
    .options_size = sizeof(struct umount_options),
    .flags = umount_flags,
    .run = run_umount,
};

const struct command detach_command = {
    .name = "detach",
    .operands_text = "DEVICE|IMAGE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "free a loop device that attach made, and wait",
    .description =
        "Frees the loop device of an image, and waits until the daemon behind it has\n"
        "written the last of it and ended. Refused while a file system on the device is\n"
        "mounted.\n",
    .examples = "  qcow2ctl detach /dev/loop0\n"
                "  qcow2ctl detach disk.qcow2\n",
    .options_size = sizeof(struct umount_options),
    .flags = detach_flags,
    .run = run_detach,
};
