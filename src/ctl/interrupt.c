/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/interrupt.h"

#include <stddef.h>

void interrupt_hold(sigset_t *before)
{
    static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action;
    sigset_t held;

    sigemptyset(&held);
    for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++) {
        /* One that is ignored (nohup) would wait, too, if it were held. */
        if (sigaction(ending[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN) {
            sigaddset(&held, ending[i]);
        }
    }
    sigprocmask(SIG_BLOCK, &held, before);
}

bool interrupt_pending(void *context)
{
    sigset_t pending;

    (void)context;
    return sigpending(&pending) == 0 &&
           (sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1 ||
            sigismember(&pending, SIGHUP) == 1);
}

void interrupt_release(const sigset_t *before)
{
    sigprocmask(SIG_SETMASK, before, NULL);
}
