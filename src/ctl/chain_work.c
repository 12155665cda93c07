/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/chain_work.h"

#include "ctl/interrupt.h"
#include "ctl/open.h"
#include "util/progress.h"

struct watching {
    const char *what; /* for the line of progress */
    struct progress progress;
    sigset_t before; /* the signals that waited, before */
    bool holding;    /* those that would end the process wait now */
};

static bool is_interrupted(const void *context)
{
    const struct watching *watching = context;

    return watching->holding && interrupt_pending(NULL);
}

/* Until now a signal has ended the process at once, and nothing was lost by that. */
static void begin(void *context)
{
    struct watching *watching = context;

    interrupt_hold(&watching->before);
    watching->holding = true;
    progress_begin(&watching->progress, "qcow2ctl", watching->what, NULL);
}

static void show(void *context, uint64_t done, uint64_t total)
{
    struct watching *watching = context;

    progress_show(&watching->progress, done, total);
}

static void end(struct watching *watching, int result)
{
    if (watching->holding) {
        progress_end(&watching->progress);
        interrupt_end(&watching->before, result);
    }
}

int ctl_chain_work(struct ctl *ctl, const struct common_flags *flags, const char *what,
                   chain_work_fn *fn, void *context)
{
    struct watching watching = {.what = what};
    struct stop stop;
    const struct chain_work work = {
        .names = ctl_names(flags),
        .no_locks = ctl_no_locks(flags),
        .keys = ctl_keys(ctl, flags),
        .stop = &stop,
        .begin = begin,
        .progress = show,
        .context = &watching,
    };
    int r;

    if (work.keys == NULL) {
        return -ctl->error.code;
    }
    stop_init(&stop, NULL);
    stop_ask(&stop, is_interrupted, &watching);
    r = fn(ctl, &work, context);
    end(&watching, r);
    return r;
}
