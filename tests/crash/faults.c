/* SPDX-License-Identifier: MIT */
/*
 * The fault explorer: runs a workload again and again, and each time another
 * call of the host fails: see README.md.
 *
 *     faults workload=NAME seed=N step=N       every N-th call, with each kind of failure
 *     faults workload=NAME seed=N call=N kind=eio|enospc|short|lost|silent   one run, and its story
 *     faults list
 *
 * Of the kind `lost` a change is done all the same, and only its answer is lost.
 * Of the kind `silent`, which is no part of the rest, the call that fails says
 * that it succeeded: violations must come of it.
 *
 * After it the host works again and the workload goes on, but for a sync: what
 * that one lost is lost. Then:
 *
 *     an error was returned by some request, or nothing is lost at all
 *     after a failed sync no flush succeeds, nor does closing (R7)
 *     what is in the file, and what a crash can leave of it, is in order,
 *     with all that was flushed
 */
#include "config.h"

#include "run.h"
#include "states.h"
#include "tools.h"
#include "verify.h"
#include "workloads.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STORIES 3  /* that are told of one workload */
#define CRASHES 12 /* states that are looked at after each run, of its last window and one more */

static const struct kind {
    const char *name;
    int error;
    bool partly, lands, silent;
} kinds[] = {
    {.name = "eio", .error = EIO},
    {.name = "enospc", .error = ENOSPC},
    {.name = "short", .error = EIO, .partly = true},
    {.name = "lost", .error = EIO, .lands = true},
    {.name = "silent", .error = EIO, .silent = true}, /* only when asked for */
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct options {
    const char *workload; /* NULL: all */
    uint64_t seed, step;
    uint64_t call; /* 0: all */
    const char *kind;
};

struct explorer {
    const struct options *options;
    const struct workload *workload;
    struct base base;
    struct stack stack; /* the states */
    uint64_t runs, violations;
};

/* --- One run ------------------------------------------------------------------------------- */

static const char *check_report(const struct run *run, struct verify *verify)
{
    if (run->flush_lied) {
        return "a flush succeeded after a sync had failed (R7)";
    }
    if (run->faults.hit_sync && run->first_error == 0 && !run->faults.silent) {
        return "a sync failed, and nobody was told";
    }
    if (run->faults.hit && run->first_error == 0) {
        /* Nobody was told, so all of it must be there: whoever closed it believes so. */
        verify->moment.flushed = verify->moment.crash;
    }
    return NULL;
}

/* What the file holds, with everything that was ever written. */
static const char *check_now(const struct run *run, struct verify *verify)
{
    verify->moment = model_moment(&run->model, run->log.count);
    verify->go_on = true;
    if (check_report(run, verify) != NULL) {
        return check_report(run, verify);
    }
    stack_copy(verify->stack, &run->stack);
    return verify_state(verify);
}

/* Crashes: at the window in which the fault was, at others here and there, at the end. */
static const char *check_crashes(struct explorer *explorer, const struct run *run,
                                 struct verify *verify, struct states *states)
{
    const char *found = NULL;
    uint64_t number = 0, each;

    stack_copy(&explorer->stack, &explorer->base.stack);
    states_begin(states, &run->log, explorer->stack.disks);
    while (found == NULL && states_next(states)) {
        bool last = states->window.crash == run->log.count;
        uint64_t count = last ? CRASHES : number++ % 8 == explorer->runs % 8 ? 2 : 0;

        verify->moment = model_moment(&run->model, states->window.crash);
        verify->go_on = false;
        for (each = 0; each < count && found == NULL; each++) {
            states_make(states, last ? each : each + explorer->runs % 30, 1, explorer->runs);
            found = verify_state(verify);
            if (found == NULL) {
                states_restore(states);
            }
        }
    }
    return found;
}

static void tell(struct explorer *explorer, const struct run *run, const struct kind *kind,
                 const char *found, const struct states *states)
{
    explorer->violations += found != NULL;
    if (found == NULL && explorer->options->call == 0) {
        return;
    }
    printf("%s: faults workload=%s seed=%" PRIu64 " call=%" PRIu64 " kind=%s: %s\n",
           found != NULL ? "VIOLATION" : "in order", explorer->workload->name,
           explorer->options->seed, run->faults.at, kind->name,
           found != NULL ? found : "nothing is wrong");
    printf("  the first error was of %s: %s, before entry %zu of the log; the fault was %s\n",
           run->first_error != 0 ? run->first_failed : "nothing", strerror(-run->first_error),
           run->failed_at, run->faults.hit_sync ? "a sync" : "no sync");
    if (states != NULL && explorer->violations <= STORIES) {
        states_describe(states, stdout);
    }
}

/* False when the run made fewer calls. */
static bool look_at(struct explorer *explorer, const struct kind *kind, uint64_t call)
{
    const struct fault_plan faults = {.at = call,
                                      .error = kind->error,
                                      .partly = kind->partly,
                                      .lands = kind->lands,
                                      .silent = kind->silent};
    struct run *run = grab(sizeof(*run));
    struct states states;
    struct verify verify;
    const char *found;
    bool hit;

    run_workload(run, &explorer->base, &faults);
    verify_init(&verify, &explorer->base, &run->model, &explorer->stack);
    verify.seed = call;
    explorer->runs++;
    hit = run->faults.hit;
    found = check_now(run, &verify);
    if (found != NULL) {
        tell(explorer, run, kind, found, NULL);
    } else {
        found = check_crashes(explorer, run, &verify, &states);
        tell(explorer, run, kind, found, found != NULL ? &states : NULL);
        states_end(&states);
    }
    verify_release(&verify);
    run_release(run);
    free(run);
    return hit;
}

/* --- One workload -------------------------------------------------------------------------- */

struct exploration {
    struct options options;
    uint64_t runs; /* of all workloads */
};

/* Violations. None of a workload with threads, whose calls are others each time. */
static uint64_t explore(void *context, const struct workload *workload, const char *directory)
{
    struct exploration *exploration = context;
    const struct options *options = &exploration->options;
    struct explorer explorer = {.options = options, .workload = workload};
    uint64_t call, calls = 0;
    size_t i;

    if (workload->threads) {
        return 0;
    }
    base_make(&explorer.base, workload, options->seed, directory);
    stack_init(&explorer.stack, explorer.base.stack.path);
    for (i = 0; i < KINDS; i++) {
        if (options->kind == NULL ? kinds[i].silent : strcmp(options->kind, kinds[i].name) != 0) {
            continue;
        }
        if (options->call != 0) {
            look_at(&explorer, &kinds[i], options->call);
            continue;
        }
        /* Each kind begins elsewhere, so that a stride misses less. */
        call = 1 + (options->seed + i) % options->step;
        while (look_at(&explorer, &kinds[i], call)) {
            calls = call;
            call += options->step;
        }
    }
    printf("%s: seed %" PRIu64 ", %" PRIu64 " calls, %" PRIu64 " runs, %" PRIu64 " violations\n",
           workload->name, options->seed, calls, explorer.runs, explorer.violations);
    fflush(stdout);
    exploration->runs += explorer.runs;
    stack_release(&explorer.stack);
    base_release(&explorer.base);
    return explorer.violations;
}

/* --- main() -------------------------------------------------------------------------------- */

int main(int count, char **arguments)
{
    struct exploration exploration = {.options = {.seed = 1, .step = 1}};
    struct options *options = &exploration.options;
    const struct setting settings[] = {
        {.name = "workload", .text = &options->workload},
        {.name = "kind", .text = &options->kind},
        {.name = "seed", .number = &options->seed},
        {.name = "step", .number = &options->step},
        {.name = "call", .number = &options->call},
    };
    uint64_t violations;

    if (workloads_list(count, arguments)) {
        return 0;
    }
    take_settings(count, arguments, settings, sizeof(settings) / sizeof(settings[0]));
    if (options->step == 0) {
        die("a step of 0");
    }
    violations = workloads_each(options->workload, explore, &exploration);
    printf("%" PRIu64 " runs, %" PRIu64 " violations\n", exploration.runs, violations);
    return violations > 0 ? 1 : 0;
}
