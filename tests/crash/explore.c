/* SPDX-License-Identifier: MIT */
/*
 * The crash explorer: see README.md.
 *
 *     explore workload=NAME seed=N states=N          looks at that many states
 *     explore workload=NAME seed=N states=N state=N  tells the story of one
 *     explore list                                   the names of all workloads
 *
 * Exits with 1 when a state is not one that may be, and with 2 when it could
 * not do its work.
 */
#include "config.h"

#include "breaks.h"
#include "run.h"
#include "states.h"
#include "tools.h"
#include "verify.h"
#include "workloads.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STORIES 3 /* that are told of one workload */

struct options {
    const char *workload; /* NULL: all */
    uint64_t seed, states;
    uint64_t state; /* UINT64_MAX: all of them */
    uint64_t qemu;  /* every so many states qemu-img is asked; 0: never */
    uint64_t go_on; /* the same for writing to it */
    const char *breaks;
};

struct explorer {
    const struct options *options;
    const struct workload *workload;
    struct run run;
    struct stack stack; /* the states */
    struct states states;
    struct verify verify;
    uint64_t share; /* most states of a window */
    uint64_t seed;  /* of the choices */
    uint64_t number, windows, violations;
};

/* --- How many states of which window ------------------------------------------------------- */

static void begin(struct explorer *explorer)
{
    stack_copy(&explorer->stack, &explorer->run.base->stack);
    states_begin(&explorer->states, &explorer->run.log, explorer->stack.disks);
}

/* The largest share with which all windows together have at most the states that are wanted. */
static void find_share(struct explorer *explorer)
{
    uint64_t *combinations = NULL, low = 4, high = COMBINATIONS_MAX;
    size_t count = 0, capacity = 0, i;

    begin(explorer);
    while (states_next(&explorer->states)) {
        combinations = room(combinations, count, &capacity, sizeof(*combinations));
        combinations[count++] = explorer->states.window.combinations;
    }
    states_end(&explorer->states);
    while (low < high) {
        uint64_t middle = low + (high - low + 1) / 2, sum = 0;

        for (i = 0; i < count; i++) {
            sum += combinations[i] < middle ? combinations[i] : middle;
        }
        if (sum <= explorer->options->states) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    explorer->share = low;
    explorer->windows = count;
    free(combinations);
}

/* --- One state ----------------------------------------------------------------------------- */

static bool every(uint64_t number, uint64_t times)
{
    return times > 0 && number % times == times / 2;
}

static void tell(struct explorer *explorer, const char *found)
{
    printf("%s: explore workload=%s seed=%" PRIu64 " states=%" PRIu64 " state=%" PRIu64 ": %s\n",
           found != NULL ? "VIOLATION" : "in order", explorer->workload->name,
           explorer->options->seed, explorer->options->states, explorer->number,
           found != NULL ? found : "nothing is wrong");
    if (found == NULL || explorer->violations <= STORIES) {
        states_describe(&explorer->states, stdout);
    }
}

static void look_at(struct explorer *explorer, uint64_t index, uint64_t count)
{
    const struct options *options = explorer->options;
    struct verify *verify = &explorer->verify;
    const char *found;

    if (options->state != UINT64_MAX && options->state != explorer->number) {
        return;
    }
    states_make(&explorer->states, index, count, explorer->seed);
    verify->moment = model_moment(&explorer->run.model, explorer->states.window.crash);
    verify->go_on = every(explorer->number, options->go_on);
    verify->ask_qemu = every(explorer->number, options->qemu);
    verify->seed = explorer->number;
    found = verify_state(verify);
    explorer->violations += found != NULL;
    if (found != NULL || options->state != UINT64_MAX) {
        tell(explorer, found);
    }
    states_restore(&explorer->states);
}

static void look_at_end(struct explorer *explorer)
{
    const char *found = verify_end(&explorer->verify, &explorer->run);

    if (found != NULL) {
        explorer->violations++;
        printf("VIOLATION: explore workload=%s seed=%" PRIu64 ": %s\n", explorer->workload->name,
               explorer->options->seed, found);
    }
}

/* --- One workload -------------------------------------------------------------------------- */

static void look_at_all(struct explorer *explorer)
{
    find_share(explorer);
    begin(explorer);
    while (states_next(&explorer->states)) {
        uint64_t combinations = explorer->states.window.combinations, i;
        uint64_t count = combinations < explorer->share ? combinations : explorer->share;

        for (i = 0; i < count; i++, explorer->number++) {
            look_at(explorer, i, count);
        }
    }
    states_end(&explorer->states);
}

struct exploration {
    struct options options;
    uint64_t states; /* that were looked at, of all workloads */
};

/* Violations. */
static uint64_t explore(void *context, const struct workload *workload, const char *directory)
{
    struct exploration *exploration = context;
    const struct options *options = &exploration->options;
    struct explorer *explorer = grab(sizeof(*explorer));
    uint64_t violations;
    struct base base;

    base_make(&base, workload, options->seed, directory);
    run_workload(&explorer->run, &base, NULL);
    explorer->options = options;
    explorer->workload = workload;
    explorer->seed = options->seed ^ hash_name(workload->name);
    stack_init(&explorer->stack, base.stack.path);
    verify_init(&explorer->verify, &base, &explorer->run.model, &explorer->stack);
    look_at_end(explorer);
    breaks_apply(options->breaks, &explorer->run);
    look_at_all(explorer);
    printf("%s: seed %" PRIu64 ", %zu operations, %" PRIu64 " windows, %" PRIu64 " states, %" PRIu64
           " violations%s\n",
           workload->name, options->seed, explorer->run.log.count, explorer->windows,
           explorer->number, explorer->violations,
           workload->threads ? " (of threads: another log each time)" : "");
    fflush(stdout);
    violations = explorer->violations;
    exploration->states += explorer->number;
    verify_release(&explorer->verify);
    stack_release(&explorer->stack);
    run_release(&explorer->run);
    base_release(&base);
    free(explorer);
    return violations;
}

/* --- main() -------------------------------------------------------------------------------- */

int main(int count, char **arguments)
{
    struct exploration exploration = {
        .options = {.seed = 1, .states = 1000, .state = UINT64_MAX, .qemu = 500, .go_on = 4}};
    struct options *options = &exploration.options;
    const struct setting settings[] = {
        {.name = "workload", .text = &options->workload},
        {.name = "break", .text = &options->breaks},
        {.name = "seed", .number = &options->seed},
        {.name = "states", .number = &options->states},
        {.name = "state", .number = &options->state},
        {.name = "qemu", .number = &options->qemu},
        {.name = "go-on", .number = &options->go_on},
    };
    uint64_t violations;

    if (workloads_list(count, arguments)) {
        return 0;
    }
    take_settings(count, arguments, settings, sizeof(settings) / sizeof(settings[0]));
    violations = workloads_each(options->workload, explore, &exploration);
    printf("%" PRIu64 " states, %" PRIu64 " violations\n", exploration.states, violations);
    return violations > 0 ? 1 : 0;
}
