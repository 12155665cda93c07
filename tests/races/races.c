/* SPDX-License-Identifier: MIT */
/*
 * Many threads on the image code, paused at every lock and every call of the
 * host by a seeded schedule; README.md says what its arguments are. Each run
 * has the seed after that of the one before. Status 1: something was wrong, and
 * a line says how to repeat it; 2: the program itself failed.
 */
#include "config.h"

#include "run.h"

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double seconds_of(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void list(void)
{
    for (size_t i = 0; i < kinds_count(); i++) {
        printf("%s\n", kind_at(i)->name);
    }
}

/* Threads that run in turn do so best where the last one did. */
static void stay_on(uint64_t processor)
{
    cpu_set_t allowed, one;
    int number = 0;

    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
        return;
    }
    processor %= (uint64_t)CPU_COUNT(&allowed);
    CPU_ZERO(&one);
    for (number = 0; number < CPU_SETSIZE; number++) {
        if (CPU_ISSET(number, &allowed) && processor-- == 0) {
            CPU_SET(number, &one);
            break;
        }
    }
    (void)sched_setaffinity(0, sizeof(one), &one);
}

static void tell_repeat(const struct run_options *options)
{
    printf("again: races seed=%" PRIu64 " runs=1 tell=1", options->seed);
    if (options->kind != NULL) {
        printf(" kind=%s", options->kind);
    }
    if (options->without != NULL) {
        printf(" without=%s", options->without);
    }
    if (options->cluster_size > 0) {
        printf(" cluster-size=%" PRIu64, options->cluster_size);
    }
    if (options->only != NULL) {
        printf(" only=%s", options->only);
    }
    if (options->calm) {
        printf(" calm=1");
    }
    if (options->steady) {
        printf(" steady=1");
    }
    printf("%s\n", options->free ? " mode=free (once may not do: runs=1000 same=1)" : "");
}

static void tell_totals(const struct totals *totals, uint64_t wrong, double began)
{
    printf("%" PRIu64 " runs, %" PRIu64 " operations, %" PRIu64 " points, %" PRIu64
           " switches, %" PRIu64 " crashes in %.0f s, %.0f s of processor time: %" PRIu64
           " wrong\n",
           totals->runs, totals->operations, totals->points, totals->switches, totals->crashes,
           seconds_of(CLOCK_MONOTONIC) - began, seconds_of(CLOCK_PROCESS_CPUTIME_ID), wrong);
}

/* What the arguments say, beside what goes to each run. */
struct arguments {
    uint64_t seed, runs, seconds, qemu, keep_going, same, processor;
    struct run_options run;
};

static struct arguments take_arguments(int argc, char **argv)
{
    uint64_t tell = 0, calm = 0, steady = 0;
    struct arguments given = {.seed = 1, .qemu = 100};
    const char *mode = "serial";
    const struct setting settings[] = {
        {"seed", NULL, &given.seed},
        {"runs", NULL, &given.runs},
        {"seconds", NULL, &given.seconds},
        {"kind", &given.run.kind, NULL},
        {"without", &given.run.without, NULL},
        {"cluster-size", NULL, &given.run.cluster_size},
        {"mode", &mode, NULL},
        {"only", &given.run.only, NULL},
        {"calm", NULL, &calm},
        {"steady", NULL, &steady},
        {"qemu", NULL, &given.qemu},
        {"tell", NULL, &tell},
        {"keep-going", NULL, &given.keep_going},
        {"same", NULL, &given.same},
        {"processor", NULL, &given.processor},
    };

    take_settings(argc, argv, settings, sizeof(settings) / sizeof(settings[0]));
    given.run.free = strcmp(mode, "free") == 0;
    given.run.calm = calm > 0;
    given.run.steady = steady > 0;
    given.run.tell = tell > 0;
    return given;
}

/* Whether another run is to begin. */
static bool goes_on(const struct arguments *given, uint64_t runs, double began)
{
    if (given->runs > 0) {
        return runs < given->runs;
    }
    return given->seconds == 0 || seconds_of(CLOCK_MONOTONIC) - began < (double)given->seconds;
}

int main(int argc, char **argv)
{
    double began = seconds_of(CLOCK_MONOTONIC);
    struct totals totals = {0};
    struct arguments given;
    uint64_t wrong = 0;

    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        list();
        return 0;
    }
    given = take_arguments(argc, argv);
    tools_keep_memory();
    if (!given.run.free) {
        stay_on(given.processor);
    }
    while (goes_on(&given, totals.runs, began) && (wrong == 0 || given.keep_going > 0)) {
        struct run_options options = given.run;

        options.seed = given.seed + (given.same > 0 ? 0 : totals.runs);
        options.qemu = given.qemu > 0 && totals.runs % given.qemu == 0;
        if (!run_once(&options, &totals, stdout)) {
            tell_repeat(&options);
            wrong++;
        }
        fflush(stdout);
    }
    tell_totals(&totals, wrong, began);
    templates_release();
    return wrong > 0 ? 1 : 0;
}
