/* SPDX-License-Identifier: MIT */
/*
 * What libfuse has to say: it prints to standard error through a function of
 * ours, and fusermount3, which it runs for ordinary users, prints to standard
 * error on its own. While something is tried that can fail, both are caught,
 * so that one sentence can give the reason; at other times libfuse's lines go
 * to the log.
 */
#ifndef FUSE_MESSAGES_H
#define FUSE_MESSAGES_H

#include "util/log.h"

#include <stdbool.h>

#define MESSAGES_TEXT_MAX 512

/* From here on libfuse's lines go to `log`, until it is set to NULL. */
void messages_to_log(struct log *log);

/* Whether what it says to this thread is dropped, where a failure is expected. */
void messages_quiet(bool quiet);

struct messages {
    char text[MESSAGES_TEXT_MAX]; /* libfuse's first complaint, without its prefix */
    int caught;                   /* descriptors: a file in memory, or -1, ... */
    int saved_output;             /* ... and what was 1 ... */
    int saved_error;              /* ... and 2 before */
};

/* Everything that is said until messages_release() is caught. No other thread may run. */
void messages_catch(struct messages *messages);

/*
 * Puts everything back. Afterwards `text` has the reason that was given, ready
 * to stand at the end of a sentence; it is empty when none was.
 */
void messages_release(struct messages *messages);

#endif
