/* SPDX-License-Identifier: MIT */
/*
 * A file system that stands still while something is done to its disk (FIFREEZE, ioctl_fs(2)), so
 * that it is clean there. A process of its own lets it go on, whatever becomes of this one.
 */
#ifndef CTL_FREEZE_H
#define CTL_FREEZE_H

#include "ctl/stack.h"
#include "util/control.h"
#include "util/error.h"
#include "util/log.h"

#include <stdbool.h>
#include <sys/types.h>

struct freeze {
    int lifeline;
    pid_t guard;
    int directory;
    bool stands_still; /* by us: what others have frozen is left to them */
};

/*
 * Freezes what is mounted at `path`, which must be a file system on the disk of `stack`. 0, or a
 * negative errno with a sentence.
 */
int freeze_begin(struct freeze *freeze, const char *path, const struct stack *stack,
                 struct error *error);

/* Lets it go on. -ETIMEDOUT with a sentence where that has been done before, as it took too long,
   or by another program. */
int freeze_end(struct freeze *freeze, const char *path, struct error *error);

/*
 * daemon_ask_patiently(), with what is mounted at `path` (NULL: nothing) frozen
 * meanwhile. -ETIMEDOUT with a sentence, too, where it was done, but what was frozen went on
 * before.
 */
int freeze_ask(const char *path, const struct stack *stack, const struct control_message *request,
               struct control_message *answer, struct log *log, struct error *error);

#endif
