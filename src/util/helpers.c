/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/helpers.h"

#include "util/checked.h"
#include "util/deadline.h"
#include "util/process.h"

#include <errno.h>

#define IDLE_MILLISECONDS 5000

void helpers_init(struct helpers *helpers, const struct helpers_owner *owner, void *context,
                  const char *name, unsigned processors)
{
    *helpers = (struct helpers){
        .owner = owner, .context = context, .name = name, .processors = processors};
    pthread_mutex_init(&helpers->mutex, NULL);
    deadline_condition(&helpers->wake);
}

/* How many processors are at work here. The mutex is held. */
static unsigned busy(const struct helpers *helpers)
{
    return helpers->callers + helpers->running - helpers->idle;
}

/* Waits for something to do. False: the thread is to end. The mutex is held. */
static bool wait_for_part(struct helpers *helpers, struct helpers_part *part)
{
    struct timespec until = deadline_after(IDLE_MILLISECONDS);
    int status = 0;

    while (!helpers->stop) {
        /* This thread is among those that are not idle. */
        if (busy(helpers) <= helpers->processors && helpers->owner->take(helpers->context, part)) {
            return true;
        }
        if (status == ETIMEDOUT) {
            return false;
        }
        helpers->idle++;
        status = pthread_cond_timedwait(&helpers->wake, &helpers->mutex, &until);
        helpers->idle--;
    }
    return false;
}

static void *help(void *argument)
{
    struct helper *helper = argument;
    struct helpers *helpers = helper->helpers;
    struct helpers_part part;

    pthread_mutex_lock(&helpers->mutex);
    while (wait_for_part(helpers, &part)) {
        pthread_mutex_unlock(&helpers->mutex);
        helpers->owner->run(helpers->context, &part);
        pthread_mutex_lock(&helpers->mutex);
        if (helpers->owner->done != NULL) {
            helpers->owner->done(helpers->context, &part);
        }
    }
    helper->state = HELPER_ENDED;
    if (--helpers->running == 0 && helpers->owner->rest != NULL) {
        helpers->owner->rest(helpers->context);
    }
    pthread_mutex_unlock(&helpers->mutex);
    return NULL;
}

/* The mutex is held. */
static void start(struct helpers *helpers, struct helper *helper)
{
    if (helper->state == HELPER_ENDED) {
        pthread_join(helper->thread, NULL); /* it has no more to do than to end */
        helper->state = HELPER_NONE;
    }
    helper->helpers = helpers;
    if (process_start_thread(&helper->thread, helpers->name, help, helper) == 0) {
        helper->state = HELPER_RUNS;
        helpers->running++;
    }
}

void helpers_wake(struct helpers *helpers, uint64_t parts)
{
    unsigned used = busy(helpers), processors = helpers->processors;
    uint64_t wanted = used < processors ? min_u64(parts, processors - used) : 0;
    uint64_t woken = min_u64(wanted, helpers->idle);

    for (uint64_t i = 0; i < woken; i++) {
        pthread_cond_signal(&helpers->wake);
    }
    for (unsigned i = 0; i < HELPERS_MAX && woken < wanted; i++) {
        if (helpers->threads[i].state != HELPER_RUNS) {
            start(helpers, &helpers->threads[i]);
            woken++;
        }
    }
}

void helpers_destroy(struct helpers *helpers)
{
    bool started[HELPERS_MAX];

    pthread_mutex_lock(&helpers->mutex);
    helpers->stop = true;
    for (unsigned i = 0; i < HELPERS_MAX; i++) {
        started[i] = helpers->threads[i].state != HELPER_NONE;
    }
    pthread_cond_broadcast(&helpers->wake);
    pthread_mutex_unlock(&helpers->mutex);
    for (unsigned i = 0; i < HELPERS_MAX; i++) {
        if (started[i]) {
            pthread_join(helpers->threads[i].thread, NULL);
        }
    }
    pthread_cond_destroy(&helpers->wake);
    pthread_mutex_destroy(&helpers->mutex);
}
