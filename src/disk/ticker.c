/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/ticker.h"

#include "util/deadline.h"
#include "util/process.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

struct ticker {
    struct ticker_calls calls;
    unsigned interval; /* seconds */
    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows; a leaf */
    pthread_cond_t changed;
    bool stopping;
    bool fills; /* calls.fill is wanted */
};

/* Waits until then, for ever where there is no interval; the mutex is held. 0 or ETIMEDOUT. */
static int wait_until(struct ticker *ticker, const struct timespec *until)
{
    if (ticker->interval == 0) {
        return pthread_cond_wait(&ticker->changed, &ticker->mutex);
    }
    return pthread_cond_timedwait(&ticker->changed, &ticker->mutex, until);
}

/* Waits for one interval, and calls to fill meanwhile; false when it is to end. */
static bool wait_interval(struct ticker *ticker)
{
    struct timespec until;
    int result = 0;
    bool go_on;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ticker->interval;
    pthread_mutex_lock(&ticker->mutex);
    while (!ticker->stopping && result != ETIMEDOUT) {
        if (ticker->fills) {
            ticker->fills = false;
            pthread_mutex_unlock(&ticker->mutex);
            ticker->calls.fill(ticker->calls.context);
            pthread_mutex_lock(&ticker->mutex);
        } else {
            result = wait_until(ticker, &until);
        }
    }
    go_on = !ticker->stopping;
    pthread_mutex_unlock(&ticker->mutex);
    return go_on;
}

void ticker_fill(struct ticker *ticker)
{
    pthread_mutex_lock(&ticker->mutex);
    ticker->fills = true;
    pthread_cond_signal(&ticker->changed);
    pthread_mutex_unlock(&ticker->mutex);
}

static void *run(void *context)
{
    struct ticker *ticker = context;

    while (wait_interval(ticker)) {
        ticker->calls.tick(ticker->calls.context);
    }
    return NULL;
}

int ticker_start(unsigned interval, const struct ticker_calls *calls, struct ticker **ticker)
{
    struct ticker *started = calloc(1, sizeof(*started));
    int result;

    if (started == NULL) {
        return -ENOMEM;
    }
    started->calls = *calls;
    started->interval = interval;
    pthread_mutex_init(&started->mutex, NULL);
    deadline_condition(&started->changed);
    result = process_start_thread(&started->thread, NULL, run, started);
    if (result < 0) {
        pthread_cond_destroy(&started->changed);
        pthread_mutex_destroy(&started->mutex);
        free(started);
        return result;
    }
    *ticker = started;
    return 0;
}

void ticker_stop(struct ticker *ticker)
{
    if (ticker == NULL) {
        return;
    }
    pthread_mutex_lock(&ticker->mutex);
    ticker->stopping = true;
    pthread_cond_signal(&ticker->changed);
    pthread_mutex_unlock(&ticker->mutex);
    pthread_join(ticker->thread, NULL);
    pthread_cond_destroy(&ticker->changed);
    pthread_mutex_destroy(&ticker->mutex);
    free(ticker);
}
