/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/prefetch.h"

#include "util/checked.h"
#include "util/deadline.h"
#include "util/process.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#define IDLE_SECONDS 5
#define OUT_OF_ORDER_MAX                                                    \
    (UINT64_C(2) << 20) /* bytes: the kernel's requests overtake each other \
                         */
#define GAPS_MAX 8

struct reading {
    uint64_t next;            /* where its next read is expected; 0: an unused place */
    uint64_t next_job, limit; /* jobs to begin: from the one up to the other, in steps */
    uint64_t window;          /* bytes ahead; grows */
    unsigned matches;         /* reads that began where the last had ended */
    unsigned gaps;            /* reads since then that began behind that */
    uint64_t used;            /* when, as the clock counts */
};

enum thread_state {
    THREAD_NONE,
    THREAD_RUNS,
    THREAD_ENDED, /* to be joined */
};

struct prefetch_thread {
    struct prefetch *prefetch;
    pthread_t thread;
    enum thread_state state;
};

struct prefetch {
    struct prefetch_options options;
    pthread_mutex_t mutex; /* guards all that follows; a leaf */
    pthread_cond_t wake;   /* there are jobs, or `stop`; its clock is CLOCK_MONOTONIC */
    bool stop;
    unsigned running, idle; /* threads; the idle ones are among the running */
    unsigned readers;       /* reads under way */
    uint64_t clock;         /* counts calls of prefetch_begin() */
    struct reading readings[PREFETCH_READINGS];
    struct prefetch_thread threads[PREFETCH_THREADS_MAX];
};

unsigned prefetch_processors(void)
{
    cpu_set_t allowed;

    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
        return 1;
    }
    return (unsigned)CPU_COUNT(&allowed);
}

int prefetch_create(const struct prefetch_options *options, struct prefetch **prefetch)
{
    struct prefetch *made = calloc(1, sizeof(*made));

    if (made == NULL) {
        return -ENOMEM;
    }
    made->options = *options;
    pthread_mutex_init(&made->mutex, NULL);
    deadline_condition(&made->wake);
    *prefetch = made;
    return 0;
}

/* --- The threads --------------------------------------------------------------------------- */

/* How many processors are at work here. */
static unsigned busy(const struct prefetch *prefetch)
{
    return prefetch->readers + prefetch->running - prefetch->idle;
}

/* Takes the next job of the reading that was used last. False: there is none. */
static bool take_job(struct prefetch *prefetch, uint64_t *offset)
{
    struct reading *from = NULL;

    for (unsigned i = 0; i < PREFETCH_READINGS; i++) {
        struct reading *reading = &prefetch->readings[i];

        if (reading->next_job < reading->limit && (from == NULL || reading->used > from->used)) {
            from = reading;
        }
    }
    if (from == NULL) {
        return false;
    }
    *offset = from->next_job;
    from->next_job += prefetch->options.step;
    return true;
}

/* Waits for a job. False: the thread is to end. The mutex is held. */
static bool wait_for_job(struct prefetch *prefetch, uint64_t *offset)
{
    struct timespec until;
    int status = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_SECONDS;
    while (!prefetch->stop) {
        /* This thread is among those that are not idle. */
        if (busy(prefetch) <= prefetch->options.threads && take_job(prefetch, offset)) {
            return true;
        }
        if (status == ETIMEDOUT) {
            return false;
        }
        prefetch->idle++;
        status = pthread_cond_timedwait(&prefetch->wake, &prefetch->mutex, &until);
        prefetch->idle--;
    }
    return false;
}

static void *run(void *argument)
{
    struct prefetch_thread *thread = argument;
    struct prefetch *prefetch = thread->prefetch;
    uint64_t offset;

    pthread_mutex_lock(&prefetch->mutex);
    while (wait_for_job(prefetch, &offset)) {
        pthread_mutex_unlock(&prefetch->mutex);
        prefetch->options.job(prefetch->options.context, offset, prefetch->options.step);
        pthread_mutex_lock(&prefetch->mutex);
    }
    thread->state = THREAD_ENDED;
    prefetch->running--;
    pthread_mutex_unlock(&prefetch->mutex);
    return NULL;
}

/* The mutex is held. */
static void start(struct prefetch *prefetch, struct prefetch_thread *thread)
{
    if (thread->state == THREAD_ENDED) {
        pthread_join(thread->thread, NULL); /* it has no more to do than to end */
        thread->state = THREAD_NONE;
    }
    thread->prefetch = prefetch;
    if (process_start_thread(&thread->thread, "prefetch", run, thread) == 0) {
        thread->state = THREAD_RUNS;
        prefetch->running++;
    }
}

static uint64_t count_jobs(const struct prefetch *prefetch)
{
    uint64_t jobs = 0;

    for (unsigned i = 0; i < PREFETCH_READINGS; i++) {
        const struct reading *reading = &prefetch->readings[i];

        if (reading->next_job < reading->limit) {
            jobs += (reading->limit - reading->next_job) / prefetch->options.step;
        }
    }
    return jobs;
}

/* A thread for each job, as far as there are processors for them. The mutex is held. */
static void wake(struct prefetch *prefetch)
{
    unsigned used = busy(prefetch), threads = prefetch->options.threads;
    uint64_t wanted = used < threads ? min_u64(count_jobs(prefetch), threads - used) : 0;
    uint64_t woken = min_u64(wanted, prefetch->idle);

    for (uint64_t i = 0; i < woken; i++) {
        pthread_cond_signal(&prefetch->wake);
    }
    for (unsigned i = 0; i < threads && woken < wanted; i++) {
        if (prefetch->threads[i].state != THREAD_RUNS) {
            start(prefetch, &prefetch->threads[i]);
            woken++;
        }
    }
}

void prefetch_destroy(struct prefetch *prefetch)
{
    bool started[PREFETCH_THREADS_MAX];

    if (prefetch == NULL) {
        return;
    }
    pthread_mutex_lock(&prefetch->mutex);
    prefetch->stop = true;
    for (unsigned i = 0; i < PREFETCH_THREADS_MAX; i++) {
        started[i] = prefetch->threads[i].state != THREAD_NONE;
    }
    pthread_cond_broadcast(&prefetch->wake);
    pthread_mutex_unlock(&prefetch->mutex);
    for (unsigned i = 0; i < PREFETCH_THREADS_MAX; i++) {
        if (started[i]) {
            pthread_join(prefetch->threads[i].thread, NULL);
        }
    }
    pthread_cond_destroy(&prefetch->wake);
    pthread_mutex_destroy(&prefetch->mutex);
    free(prefetch);
}

/* --- The readings ---------------------------------------------------------------------------- */

/*
 * The reading that a read belongs to, or NULL. Long reads may come out of their
 * order by as much as may be under way; of short ones that would say nothing.
 */
static struct reading *find_reading(struct prefetch *prefetch, uint64_t offset, uint64_t length)
{
    uint64_t slack = length >= prefetch->options.step ? OUT_OF_ORDER_MAX : 0;
    struct reading *near = NULL;

    for (unsigned i = 0; i < PREFETCH_READINGS; i++) {
        struct reading *reading = &prefetch->readings[i];
        uint64_t away = offset > reading->next ? offset - reading->next : reading->next - offset;

        if (reading->next != 0 && away == 0) {
            return reading;
        }
        if (reading->next != 0 && away <= slack && near == NULL) {
            near = reading;
        }
    }
    return near;
}

/* In the place of the reading that was idle for longest. */
static struct reading *new_reading(struct prefetch *prefetch, uint64_t end)
{
    struct reading *oldest = &prefetch->readings[0];

    for (unsigned i = 1; i < PREFETCH_READINGS; i++) {
        if (prefetch->readings[i].used < oldest->used) {
            oldest = &prefetch->readings[i];
        }
    }
    *oldest = (struct reading){.next = end};
    return oldest;
}

/* Returns whether the read is part of a sequential reading. */
static bool follow(struct prefetch *prefetch, struct reading *reading, uint64_t offset,
                   uint64_t length)
{
    const struct prefetch_options *options = &prefetch->options;

    if (offset == reading->next) {
        reading->matches++;
        reading->gaps = 0;
        reading->next = offset + length;
        reading->window = min_u64(max_u64(2 * reading->window, 2 * options->step), options->window);
    } else if (offset > reading->next) {
        reading->next = offset + length;
        if (++reading->gaps > GAPS_MAX) {
            reading->matches = 0;
            reading->window = 0;
        }
    }
    return reading->matches > (length < options->step);
}

bool prefetch_begin(struct prefetch *prefetch, uint64_t offset, uint64_t length)
{
    uint64_t step = prefetch->options.step, end = offset + length, first, limit;
    struct reading *reading;
    bool sequential = false;

    pthread_mutex_lock(&prefetch->mutex);
    prefetch->readers++;
    if (end > (uint64_t)INT64_MAX - prefetch->options.window - 2 * step) {
        pthread_mutex_unlock(&prefetch->mutex);
        return false;
    }
    reading = find_reading(prefetch, offset, length);
    if (reading != NULL) {
        sequential = follow(prefetch, reading, offset, length);
    } else {
        reading = new_reading(prefetch, end);
    }
    reading->used = ++prefetch->clock;
    /* The first cluster is the reader's; the rest is worth a thread where there is much of it. */
    first = round_down(offset, step) + step;
    limit = round_down(end + step - 1, step);
    if (sequential) {
        limit += reading->window;
    } else if (length <= 2 * step) {
        limit = 0;
    }
    reading->next_job = max_u64(reading->next_job, first);
    reading->limit = max_u64(reading->limit, limit);
    wake(prefetch);
    pthread_mutex_unlock(&prefetch->mutex);
    return sequential;
}

void prefetch_end(struct prefetch *prefetch)
{
    pthread_mutex_lock(&prefetch->mutex);
    prefetch->readers--;
    wake(prefetch);
    pthread_mutex_unlock(&prefetch->mutex);
}

void prefetch_claim(struct prefetch *prefetch, uint64_t offset, uint64_t length)
{
    uint64_t step = prefetch->options.step;
    uint64_t end = round_down(offset + length + step - 1, step);

    pthread_mutex_lock(&prefetch->mutex);
    for (unsigned i = 0; i < PREFETCH_READINGS; i++) {
        struct reading *reading = &prefetch->readings[i];

        /* Jobs before this one are other reads', which are under way: theirs, too, from here on. */
        if (reading->next_job < end && end <= reading->limit &&
            offset <= reading->next_job + OUT_OF_ORDER_MAX) {
            reading->next_job = end;
        }
    }
    pthread_mutex_unlock(&prefetch->mutex);
}
