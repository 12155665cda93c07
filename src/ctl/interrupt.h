/* SPDX-License-Identifier: MIT */
/*
 * Work that may be interrupted, and leaves nothing half made then: a signal that would end the
 * process (SIGINT, SIGTERM, SIGHUP) waits, the work asks whether one does, cleans up and returns
 * -EINTR. It asks once more before the step that nothing undoes; one that comes later is too late.
 */
#ifndef CTL_INTERRUPT_H
#define CTL_INTERRUPT_H

#include <signal.h>
#include <stdbool.h>

/* From here on they wait, also in threads that are started now. */
void interrupt_hold(sigset_t *before);

/* Whether one does. `context` is not looked at. */
bool interrupt_pending(void *context);

/*
 * The end of work of which `result` came: so that the status of the process says what there is, one
 * that has waited ends it here only where that is -EINTR. Others are forgotten.
 */
void interrupt_end(const sigset_t *before, int result);

/* The end where nothing was made: one that has waited ends the process here. */
void interrupt_release(const sigset_t *before);

#endif
