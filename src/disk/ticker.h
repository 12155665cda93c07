/* SPDX-License-Identifier: MIT */
/*
 * A thread that calls back each interval, and whenever it is asked to fill.
 * Both calls come from that thread, one at a time, with no lock held. The
 * ticker's mutex is a leaf.
 */
#ifndef DISK_TICKER_H
#define DISK_TICKER_H

struct ticker;

/* Borrowed; context is handed to both calls. */
struct ticker_calls {
    void (*tick)(void *context);
    void (*fill)(void *context);
    void *context;
};

/* `interval` in seconds; 0: tick is never called. 0 or a negative errno. */
int ticker_start(unsigned interval, const struct ticker_calls *calls, struct ticker **ticker);

/* Has calls.fill called soon, once for any number of wishes until then; from under any lock. */
void ticker_fill(struct ticker *ticker);

/* Returns when the thread has ended; `ticker` may be NULL. */
void ticker_stop(struct ticker *ticker);

#endif
