/* SPDX-License-Identifier: MIT */
/*
 * How far something is that takes long: one line on standard error, rewritten
 * in place. Only on a terminal, and only after a second; otherwise nothing is
 * ever said. For the programs' main(), and src/ctl, alone.
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct progress {
    const char *program; /* the line begins with it */
    const char *what;    /* and goes on with this */
    const char *unit;    /* of done and total, "clusters"; NULL for bytes */
    bool is_terminal;
    double started; /* seconds, as is the next */
    double shown;
    int width; /* letters of the line, 0 before the first */
};

void progress_begin(struct progress *progress, const char *program, const char *what,
                    const char *unit);

/* As a callback: `context` is the struct progress. Any thread, but one at a time. */
void progress_show(void *context, uint64_t done, uint64_t total);

/* Leaves a terminal's line, if anything was shown. */
void progress_end(struct progress *progress);

#endif
