/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/chain_work.h"

#include "ctl/interrupt.h"
#include "ctl/open.h"
#include "util/progress.h"

static bool is_interrupted(const void *context)
{
    (void)context;
    return interrupt_pending(NULL);
}

int ctl_chain_work(struct ctl *ctl, const struct common_flags *flags, const char *what,
                   chain_work_fn *fn, void *context)
{
    struct progress progress;
    struct stop stop;
    const struct chain_work work = {
        .names = ctl_names(flags),
        .no_locks = ctl_no_locks(flags),
        .keys = ctl_keys(ctl, flags),
        .stop = &stop,
        .progress = progress_show,
        .context = &progress,
    };
    sigset_t before;
    int r;

    if (work.keys == NULL) {
        return -ctl->error.code;
    }
    stop_init(&stop, NULL);
    stop_ask(&stop, is_interrupted, NULL);
    interrupt_hold(&before);
    progress_begin(&progress, "qcow2ctl", what, NULL);
    r = fn(ctl, &work, context);
    progress_end(&progress);
    interrupt_release(&before);
    return r;
}
