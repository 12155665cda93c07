/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/progress.h"

#include "util/size.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define QUIET_SECONDS 1.0
#define EVERY_SECONDS 0.2
#define LINE_MAX_SIZE 256
#define COLUMNS       80 /* of a terminal that does not say */

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

void progress_begin(struct progress *progress, const char *program, const char *what,
                    const char *unit)
{
    *progress = (struct progress){
        .program = program,
        .what = what,
        .unit = unit,
        .is_terminal = isatty(STDERR_FILENO) == 1,
        .started = now(),
    };
}

/* "310 MiB/s", "12000 clusters/s" */
static void format_rate(const struct progress *progress, double rate, char text[64])
{
    char size[SIZE_TEXT_MAX];

    if (progress->unit != NULL) {
        snprintf(text, 64, "%.0f %s/s", rate, progress->unit);
    } else {
        snprintf(text, 64, "%s/s", size_format((uint64_t)rate, size));
    }
}

/* "12 s", "3 min 05 s", "2 h 10 min" */
static void format_time(double seconds, char text[64])
{
    unsigned long whole = seconds < 1e9 ? (unsigned long)(seconds + 0.5) : 1000000000;

    if (whole < 60) {
        snprintf(text, 64, "%lu s", whole);
    } else if (whole < 3600) {
        snprintf(text, 64, "%lu min %02lu s", whole / 60, whole % 60);
    } else {
        snprintf(text, 64, "%lu h %02lu min", whole / 3600, whole / 60 % 60);
    }
}

/* What a line may have, so that no terminal begins another one. */
static int width_of_terminal(void)
{
    struct winsize size;
    bool is_known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;

    return (is_known ? size.ws_col : COLUMNS) - 1;
}

void progress_show(void *context, uint64_t done, uint64_t total)
{
    struct progress *progress = context;
    char line[LINE_MAX_SIZE], rate[64], left[64];
    double time, elapsed;
    int width, most;

    if (!progress->is_terminal) {
        return;
    }
    time = now();
    elapsed = time - progress->started;
    if (elapsed < QUIET_SECONDS || time - progress->shown < EVERY_SECONDS || done == 0) {
        return;
    }
    progress->shown = time;
    done = done < total ? done : total;
    format_rate(progress, (double)done / elapsed, rate);
    format_time(elapsed * (double)(total - done) / (double)done, left);
    width = snprintf(line, sizeof(line), "%s: %s: %.0f %%, %s, %s left", progress->program,
                     progress->what, 100.0 * (double)done / (double)total, rate, left);
    most = width_of_terminal();
    width = width < most ? width : most;
    /* Blanks over what a longer line left behind. */
    fprintf(stderr, "\r%.*s%*s", width, line,
            progress->width > width && progress->width <= most ? progress->width - width : 0, "");
    fflush(stderr);
    progress->width = width;
}

void progress_end(struct progress *progress)
{
    if (progress->width > 0) {
        fputc('\n', stderr);
    }
}
