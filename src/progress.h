/* SPDX-License-Identifier: MIT */
/*
 * How far something is that takes long: one line on standard error, rewritten
 * in place. Only on a terminal, and only after a second; otherwise nothing is
 * ever said. For the programs' main() alone.
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct progress {
    const char *program; /* the line begins with it */
    const char *what;    /* and goes on with this */
    bool is_terminal;
    struct timespec started;
    int percent; /* as shown; -1 before that */
};

void progress_begin(struct progress *progress, const char *program, const char *what);

/* As a callback: `context` is the struct progress. */
void progress_show(void *context, uint64_t done, uint64_t total);

/* Leaves a terminal's line, if anything was shown. */
void progress_end(struct progress *progress);

#endif
