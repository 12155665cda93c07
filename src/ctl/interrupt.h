/* SPDX-License-Identifier: MIT */
/*
 * Work that may be interrupted, and leaves nothing half made then: a signal that would end the
 * process (SIGINT, SIGTERM, SIGHUP) waits, the work asks whether one does, cleans up and returns.
 */
#ifndef CTL_INTERRUPT_H
#define CTL_INTERRUPT_H

#include <signal.h>
#include <stdbool.h>

/* From here on they wait, also in threads that are started now. */
void interrupt_hold(sigset_t *before);

/* Whether one does. `context` is not looked at. */
bool interrupt_pending(void *context);

/* The end of that: one that has waited ends the process here. */
void interrupt_release(const sigset_t *before);

#endif
