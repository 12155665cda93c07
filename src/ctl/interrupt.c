/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/interrupt.h"

#include <errno.h>
#include <stddef.h>

static const int ending[] = {SIGINT, SIGTERM, SIGHUP};

void interrupt_hold(sigset_t *before)
{
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
    if (sigpending(&pending) != 0) {
        return false;
    }
    for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++) {
        if (sigismember(&pending, ending[i]) == 1) {
            return true;
        }
    }
    return false;
}

/* Those that wait now, and would not have before. */
static void drop(const sigset_t *before)
{
    static const struct timespec now = {0};
    sigset_t held;

    sigemptyset(&held);
    for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++) {
        if (sigismember(before, ending[i]) == 0) {
            sigaddset(&held, ending[i]);
        }
    }
    while (sigtimedwait(&held, NULL, &now) > 0 || errno == EINTR) {
    }
}

void interrupt_end(const sigset_t *before, int result)
{
    if (result != -EINTR) {
        drop(before);
    }
    interrupt_release(before);
}

void interrupt_release(const sigset_t *before)
{
    sigprocmask(SIG_SETMASK, before, NULL);
}
