/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/prefetch.h"

#include "util/checked.h"
#include "util/helpers.h"

#include <errno.h>
#include <stdlib.h>

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

struct prefetch {
    struct helpers helpers; /* its mutex guards all that follows */
    struct prefetch_options options;
    uint64_t clock; /* counts calls of prefetch_begin() */
    struct reading readings[PREFETCH_READINGS];
};

/* --- The jobs -------------------------------------------------------------------------------- */

/* Takes the next job of the reading that was used last. */
static bool take_job(void *context, struct helpers_part *part)
{
    struct prefetch *prefetch = context;
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
    part->offset = from->next_job;
    from->next_job += prefetch->options.step;
    return true;
}

static void do_job(void *context, const struct helpers_part *part)
{
    const struct prefetch *prefetch = context;
    const struct prefetch_options *options = &prefetch->options;

    options->job(options->context, part->offset, options->step);
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

/* The mutex is held. */
static void wake(struct prefetch *prefetch)
{
    helpers_wake(&prefetch->helpers, count_jobs(prefetch));
}

int prefetch_create(const struct prefetch_options *options, struct prefetch **prefetch)
{
    static const struct helpers_owner owner = {.take = take_job, .run = do_job};

    *prefetch = calloc(1, sizeof(**prefetch));
    if (*prefetch == NULL) {
        return -ENOMEM;
    }
    (*prefetch)->options = *options;
    if (options->long_read == 0) {
        (*prefetch)->options.long_read = options->step;
    }
    helpers_init(&(*prefetch)->helpers, &owner, *prefetch, "prefetch", options->threads);
    return 0;
}

void prefetch_destroy(struct prefetch *prefetch)
{
    if (prefetch != NULL) {
        helpers_destroy(&prefetch->helpers);
        free(prefetch);
    }
}

/* --- The readings ---------------------------------------------------------------------------- */

/*
 * The reading that a read belongs to, or NULL. Long reads may come out of their
 * order by as much as may be under way; of short ones that would say nothing.
 */
static struct reading *find_reading(struct prefetch *prefetch, uint64_t offset, uint64_t length)
{
    uint64_t slack = length >= prefetch->options.long_read ? OUT_OF_ORDER_MAX : 0;
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
    return reading->matches > (length < options->long_read);
}

bool prefetch_begin(struct prefetch *prefetch, uint64_t offset, uint64_t length)
{
    uint64_t step = prefetch->options.step, end = offset + length, first, limit;
    struct reading *reading;
    bool sequential = false;

    pthread_mutex_lock(&prefetch->helpers.mutex);
    prefetch->helpers.callers++;
    if (end > (uint64_t)INT64_MAX - prefetch->options.window - 2 * step) {
        pthread_mutex_unlock(&prefetch->helpers.mutex);
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
    pthread_mutex_unlock(&prefetch->helpers.mutex);
    return sequential;
}

void prefetch_end(struct prefetch *prefetch)
{
    pthread_mutex_lock(&prefetch->helpers.mutex);
    prefetch->helpers.callers--;
    wake(prefetch);
    pthread_mutex_unlock(&prefetch->helpers.mutex);
}

void prefetch_claim(struct prefetch *prefetch, uint64_t offset, uint64_t length)
{
    uint64_t step = prefetch->options.step;
    uint64_t end = round_down(offset + length + step - 1, step);

    pthread_mutex_lock(&prefetch->helpers.mutex);
    for (unsigned i = 0; i < PREFETCH_READINGS; i++) {
        struct reading *reading = &prefetch->readings[i];

        /* Jobs before this one are other reads', which are under way: theirs, too, from here on. */
        if (reading->next_job < end && end <= reading->limit &&
            offset <= reading->next_job + OUT_OF_ORDER_MAX) {
            reading->next_job = end;
        }
    }
    pthread_mutex_unlock(&prefetch->helpers.mutex);
}
