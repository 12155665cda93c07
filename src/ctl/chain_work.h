/* SPDX-License-Identifier: MIT */
/* The commands that move data between the images of a chain: with progress, and put an end to in
 * order by a signal. */
#ifndef CTL_CHAIN_WORK_H
#define CTL_CHAIN_WORK_H

#include "admin/chain_work.h"
#include "ctl/command.h"

/* 0, or a negative errno with a sentence in ctl->error. */
typedef int chain_work_fn(struct ctl *ctl, const struct chain_work *work, void *context);

/*
 * Calls `fn`. Until that begins to change something (chain_work_begin()) a signal ends the process
 * at once, also while it derives keys; from then on signals wait that would do so, and it is asked
 * to stop instead. `what` is what the line of progress says. The result is that of `fn`; where that
 * is -EINTR, the signal ends the process now.
 */
int ctl_chain_work(struct ctl *ctl, const struct common_flags *flags, const char *what,
                   chain_work_fn *fn, void *context);

#endif
