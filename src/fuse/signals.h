/* SPDX-License-Identifier: MIT */
/*
 * Signals to end (SIGTERM, SIGINT, SIGHUP) while a disk that can be written is
 * served. libfuse's own handlers would end the loop at once, and what the
 * kernel has cached would be lost. Here a thread takes the signal, does what
 * must be done while requests are still answered, and ends the loop then.
 */
#ifndef FUSE_SIGNALS_H
#define FUSE_SIGNALS_H

#include <signal.h>

struct fuse_session;
struct signals;

/*
 * From here on signals to end wait for a thread that takes them. To be called
 * by the thread that runs the loop, before others are started. *before is for
 * signals_unblock().
 */
void signals_block(sigset_t *before);
void signals_unblock(const sigset_t *before);

/*
 * Starts the thread: at the first signal it calls `before_end`, then makes the
 * loop of `fuse`, which the calling thread is about to run, return. 0 or a
 * negative errno.
 */
int signals_start(struct fuse_session *fuse, void (*before_end)(void *context), void *context,
                  struct signals **signals);

/* The loop has returned: ends the thread. `signals` may be NULL. */
void signals_stop(struct signals *signals);

#endif
