/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "image/writer_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

struct ticker {
    struct writer *writer;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards `stopping` */
    pthread_cond_t stop;
    bool stopping;
};

/* Waits for one interval; false when it is to end. */
static bool wait_interval(struct ticker *ticker)
{
    struct timespec until;
    int result = 0;
    bool go_on;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ticker->writer->options.interval;
    pthread_mutex_lock(&ticker->mutex);
    while (!ticker->stopping && result != ETIMEDOUT) {
        result = pthread_cond_timedwait(&ticker->stop, &ticker->mutex, &until);
    }
    go_on = !ticker->stopping;
    pthread_mutex_unlock(&ticker->mutex);
    return go_on;
}

static void *run(void *context)
{
    struct ticker *ticker = context;

    while (wait_interval(ticker)) {
        if (writer_is_dirty(ticker->writer)) {
            (void)writer_flush(ticker->writer); /* the next fsync will report it */
        } else {
            (void)commit_reap(ticker->writer->commit);
        }
    }
    return NULL;
}

static int start_thread(struct ticker *ticker)
{
    sigset_t all, before;
    int result;

    sigfillset(&all); /* signals are for the thread that waits for them */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = -pthread_create(&ticker->thread, NULL, run, ticker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

int ticker_start(struct writer *writer, struct ticker **ticker)
{
    struct ticker *started = calloc(1, sizeof(*started));
    pthread_condattr_t monotonic;
    int result;

    if (started == NULL) {
        return -ENOMEM;
    }
    started->writer = writer;
    pthread_mutex_init(&started->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&started->stop, &monotonic);
    pthread_condattr_destroy(&monotonic);
    result = start_thread(started);
    if (result < 0) {
        pthread_cond_destroy(&started->stop);
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
    pthread_cond_signal(&ticker->stop);
    pthread_mutex_unlock(&ticker->mutex);
    pthread_join(ticker->thread, NULL);
    pthread_cond_destroy(&ticker->stop);
    pthread_mutex_destroy(&ticker->mutex);
    free(ticker);
}
