/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/workers.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/*
 * Numbers of jobs, which only grow; a job's piece is its number modulo the size of the ring.
 *
 *     |  done, taken back  |  done or being done  |  waiting  |  not made yet
 *                          ^ oldest               ^ begun     ^ next
 */
struct workers {
    struct workers_options options;
    uint8_t *pieces;
    bool *done;
    pthread_t *threads;
    unsigned started;       /* threads */
    pthread_mutex_t mutex;  /* guards all below, and `done` */
    pthread_cond_t waiting; /* there is a job, or no more will come */
    pthread_cond_t finished;
    uint64_t oldest, begun, next;
    bool ending;
};

/* What a thread is told when it begins. */
struct beginning {
    struct workers *workers;
    unsigned number;
};

static void *piece(const struct workers *workers, uint64_t number)
{
    return workers->pieces + number % workers->options.jobs * workers->options.job_size;
}

/* Does the first job that waits. The mutex is held, before and afterwards. */
static void do_next(struct workers *workers, unsigned thread)
{
    uint64_t number = workers->begun++;

    pthread_mutex_unlock(&workers->mutex);
    workers->options.work(workers->options.context, piece(workers, number), thread);
    pthread_mutex_lock(&workers->mutex);
    workers->done[number % workers->options.jobs] = true;
    pthread_cond_signal(&workers->finished);
}

static void *run(void *argument)
{
    struct beginning beginning = *(struct beginning *)argument;
    struct workers *workers = beginning.workers;

    free(argument);
    pthread_mutex_lock(&workers->mutex);
    while (!workers->ending) {
        if (workers->begun < workers->next) {
            do_next(workers, beginning.number);
        } else {
            pthread_cond_wait(&workers->waiting, &workers->mutex);
        }
    }
    pthread_mutex_unlock(&workers->mutex);
    return NULL;
}

/* Fewer threads than wanted do: without any, who waits for a job does it. */
static void start(struct workers *workers)
{
    while (workers->started < workers->options.threads) {
        struct beginning *beginning = malloc(sizeof(*beginning));

        if (beginning == NULL) {
            return;
        }
        *beginning = (struct beginning){workers, workers->started};
        if (pthread_create(&workers->threads[workers->started], NULL, run, beginning) != 0) {
            free(beginning);
            return;
        }
        workers->started++;
    }
}

int workers_create(const struct workers_options *options, struct workers **workers)
{
    struct workers *created = calloc(1, sizeof(*created));

    *workers = NULL;
    if (created == NULL) {
        return -ENOMEM;
    }
    created->options = *options;
    created->pieces = calloc(options->jobs, options->job_size);
    created->done = calloc(options->jobs, sizeof(*created->done));
    created->threads = calloc(options->threads + 1, sizeof(*created->threads));
    pthread_mutex_init(&created->mutex, NULL);
    pthread_cond_init(&created->waiting, NULL);
    pthread_cond_init(&created->finished, NULL);
    if (created->pieces == NULL || created->done == NULL || created->threads == NULL) {
        workers_destroy(created);
        return -ENOMEM;
    }
    start(created);
    *workers = created;
    return 0;
}

void workers_drop(struct workers *workers)
{
    pthread_mutex_lock(&workers->mutex);
    workers->ending = true;
    pthread_cond_broadcast(&workers->waiting);
    pthread_mutex_unlock(&workers->mutex);
    while (workers->started > 0) {
        pthread_join(workers->threads[--workers->started], NULL);
    }
}

void workers_destroy(struct workers *workers)
{
    if (workers == NULL) {
        return;
    }
    workers_drop(workers);
    pthread_cond_destroy(&workers->finished);
    pthread_cond_destroy(&workers->waiting);
    pthread_mutex_destroy(&workers->mutex);
    free(workers->threads);
    free(workers->done);
    free(workers->pieces);
    free(workers);
}

void *workers_job(struct workers *workers, unsigned index)
{
    return piece(workers, index);
}

void *workers_next(struct workers *workers)
{
    /* Both are changed by the calling thread alone. */
    return workers->next - workers->oldest < workers->options.jobs ? piece(workers, workers->next)
                                                                   : NULL;
}

void workers_submit(struct workers *workers)
{
    pthread_mutex_lock(&workers->mutex);
    workers->done[workers->next % workers->options.jobs] = false;
    workers->next++;
    pthread_cond_signal(&workers->waiting);
    pthread_mutex_unlock(&workers->mutex);
}

void *workers_oldest(struct workers *workers)
{
    uint64_t oldest = workers->oldest;

    if (oldest == workers->next) {
        return NULL;
    }
    pthread_mutex_lock(&workers->mutex);
    while (!workers->done[oldest % workers->options.jobs]) {
        /* Nobody has begun with it: better than to wait. */
        if (workers->begun <= oldest) {
            do_next(workers, workers->options.threads);
        } else {
            pthread_cond_wait(&workers->finished, &workers->mutex);
        }
    }
    pthread_mutex_unlock(&workers->mutex);
    return piece(workers, oldest);
}

void workers_release(struct workers *workers)
{
    workers->oldest++;
}
