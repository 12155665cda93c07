/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/later.h"
#include "util/deadline.h"
#include "util/process.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define NANOSECONDS UINT64_C(1000000000)

struct later {
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t changed;
    bool ends;
    bool was_poked;
    struct later_job *first, **last;
    struct later_attempt *attempts;
};

int later_create(struct later **later)
{
    struct later *made = calloc(1, sizeof(*made));

    if (made == NULL) {
        return -ENOMEM;
    }
    made->last = &made->first;
    pthread_mutex_init(&made->mutex, NULL);
    deadline_condition(&made->changed);
    *later = made;
    return 0;
}

/* --- the thread ------------------------------------------------------------- */

static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NANOSECONDS + (uint64_t)time.tv_nsec;
}

/* The three below are called with the mutex held, and release it for what they call. */

static bool serve_one(struct later *later)
{
    struct later_job *job = later->first;
    bool ends = later->ends;

    if (job == NULL) {
        return false;
    }
    later->first = job->next;
    if (later->first == NULL) {
        later->last = &later->first;
    }
    pthread_mutex_unlock(&later->mutex);
    job->serve(job, ends);
    pthread_mutex_lock(&later->mutex);
    return true;
}

/* Each once; those that come meanwhile as well, at the next poke. */
static void try_all(struct later *later)
{
    struct later_attempt *waiting = later->attempts, *kept = NULL;
    bool ends = later->ends;

    later->attempts = NULL;
    pthread_mutex_unlock(&later->mutex);
    while (waiting != NULL) {
        struct later_attempt *attempt = waiting;

        waiting = attempt->next;
        if (!attempt->attempt(attempt, ends || now() >= attempt->deadline)) {
            attempt->next = kept;
            kept = attempt;
        }
    }
    pthread_mutex_lock(&later->mutex);
    while (kept != NULL) {
        struct later_attempt *attempt = kept;

        kept = attempt->next;
        attempt->next = later->attempts;
        later->attempts = attempt;
    }
}

static void wait_for_more(struct later *later)
{
    uint64_t deadline = UINT64_MAX;
    struct timespec until;

    for (const struct later_attempt *each = later->attempts; each != NULL; each = each->next) {
        deadline = each->deadline < deadline ? each->deadline : deadline;
    }
    if (deadline == UINT64_MAX) {
        pthread_cond_wait(&later->changed, &later->mutex);
        return;
    }
    until.tv_sec = (time_t)(deadline / NANOSECONDS);
    until.tv_nsec = (long)(deadline % NANOSECONDS);
    if (pthread_cond_timedwait(&later->changed, &later->mutex, &until) != 0) {
        later->was_poked = true;
    }
}

static void *run(void *argument)
{
    struct later *later = argument;

    pthread_mutex_lock(&later->mutex);
    for (;;) {
        if (serve_one(later)) {
            continue;
        }
        if (later->was_poked || later->ends) {
            later->was_poked = false;
            try_all(later);
            if (later->ends && later->first == NULL && later->attempts == NULL) {
                break;
            }
            continue;
        }
        wait_for_more(later);
    }
    pthread_mutex_unlock(&later->mutex);
    return NULL;
}

/* Whether somebody will come for what is left here; the mutex is held. */
static bool has_thread(struct later *later)
{
    if (!later->ends && !later->has_thread) {
        later->has_thread = process_start_thread(&later->thread, NULL, run, later) == 0;
    }
    return !later->ends && later->has_thread;
}

void later_stop(struct later *later)
{
    pthread_mutex_lock(&later->mutex);
    later->ends = true;
    pthread_cond_signal(&later->changed);
    pthread_mutex_unlock(&later->mutex);
    if (later->has_thread) {
        pthread_join(later->thread, NULL);
        later->has_thread = false;
    }
}

void later_destroy(struct later *later)
{
    if (later == NULL) {
        return;
    }
    later_stop(later);
    pthread_cond_destroy(&later->changed);
    pthread_mutex_destroy(&later->mutex);
    free(later);
}

/* --- what it is asked for --------------------------------------------------- */

void later_do(struct later *later, struct later_job *job)
{
    bool is_left;

    job->next = NULL;
    pthread_mutex_lock(&later->mutex);
    is_left = has_thread(later);
    if (is_left) {
        *later->last = job;
        later->last = &job->next;
        pthread_cond_signal(&later->changed);
    }
    pthread_mutex_unlock(&later->mutex);
    if (!is_left) {
        job->serve(job, true);
    }
}

void later_try(struct later *later, struct later_attempt *attempt, unsigned milliseconds)
{
    bool is_left;

    attempt->deadline = now() + milliseconds * (NANOSECONDS / 1000);
    pthread_mutex_lock(&later->mutex);
    is_left = has_thread(later);
    if (is_left) {
        attempt->next = later->attempts;
        later->attempts = attempt;
        later->was_poked = true; /* what it waits for may have come before it did */
        pthread_cond_signal(&later->changed);
    }
    pthread_mutex_unlock(&later->mutex);
    if (!is_left) {
        (void)attempt->attempt(attempt, true);
    }
}

void later_poke(struct later *later)
{
    pthread_mutex_lock(&later->mutex);
    later->was_poked = true;
    pthread_cond_signal(&later->changed);
    pthread_mutex_unlock(&later->mutex);
}
