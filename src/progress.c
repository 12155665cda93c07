/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "progress.h"

#include <stdio.h>
#include <unistd.h>

#define QUIET_SECONDS 1

void progress_begin(struct progress *progress, const char *program, const char *what)
{
    *progress = (struct progress){
        .program = program,
        .what = what,
        .is_terminal = isatty(STDERR_FILENO) == 1,
        .percent = -1,
    };
    clock_gettime(CLOCK_MONOTONIC, &progress->started);
}

static bool is_too_early(const struct progress *progress)
{
    struct timespec now;
    time_t seconds;

    clock_gettime(CLOCK_MONOTONIC, &now);
    seconds = now.tv_sec - progress->started.tv_sec;
    return seconds - (now.tv_nsec < progress->started.tv_nsec) < QUIET_SECONDS;
}

static int percent_of(uint64_t done, uint64_t total)
{
    if (done >= total) {
        return 100;
    }
    /* Without overflow: what is lost by dividing first cannot be seen in a percent. */
    return (int)(total <= UINT64_MAX / 100 ? done * 100 / total : done / (total / 100));
}

void progress_show(void *context, uint64_t done, uint64_t total)
{
    struct progress *progress = context;
    int percent = percent_of(done, total);

    if (!progress->is_terminal || percent == progress->percent || is_too_early(progress)) {
        return;
    }
    progress->percent = percent;
    fprintf(stderr, "\r%s: %s: %d %%", progress->program, progress->what, percent);
    fflush(stderr);
}

void progress_end(struct progress *progress)
{
    if (progress->percent >= 0) {
        fputc('\n', stderr);
    }
}
