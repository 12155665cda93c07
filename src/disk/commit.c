/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/commit.h"

#include "cache/change.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct commit {
    struct commit_source source;

    pthread_mutex_t mutex; /* guards all below; no call into other modules under it */
    pthread_cond_t ended;
    bool running;
    uint64_t begun, done; /* numbers of the last commit that began, and that succeeded */
    int last_result;

    /* Only the running commit touches these. */
    bool draining;          /* requests from before `drain_commit` ended may be under way */
    uint64_t drain_commit;  /* when they have ended, what this commit dropped is free */
    uint64_t stable_commit; /* the last one that is stable */
};

int commit_create(const struct commit_source *source, struct commit **commit)
{
    *commit = calloc(1, sizeof(**commit));
    if (*commit == NULL) {
        return -ENOMEM;
    }
    (*commit)->source = *source;
    pthread_mutex_init(&(*commit)->mutex, NULL);
    pthread_cond_init(&(*commit)->ended, NULL);
    return 0;
}

void commit_destroy(struct commit *commit)
{
    if (commit != NULL) {
        pthread_cond_destroy(&commit->ended);
        pthread_mutex_destroy(&commit->mutex);
        free(commit);
    }
}

static int write_metadata(void *context, uint64_t host_offset, const void *data, size_t length)
{
    const struct commit_source *source = context;

    return gate_write(source->gate, GATE_L2, host_offset, data, length);
}

static int sync_now(struct commit *commit)
{
    return barrier_wait(commit->source.barrier, barrier_epoch(commit->source.barrier));
}

/* Steps 2 to 4. */
static int write_all(struct commit *commit, struct cache_writeback *slices,
                     const struct l1_changes *l1)
{
    struct commit_source *source = &commit->source;
    uint64_t epoch = cache_writeback_epoch(slices);
    int result = 0;

    if (!barrier_is_stable(source->barrier, epoch)) {
        result = barrier_wait(source->barrier, epoch); /* R1, R2 */
    }
    if (result == 0) {
        result = cache_writeback_write(slices, write_metadata, source);
    }
    if (result == 0 && l1->count > 0) {
        result = sync_now(commit); /* R3; covers l1->epoch, which is older */
        if (result == 0) {
            result = mapping_write_l1_changes(source->mapping, l1);
        }
    }
    return result == 0 ? sync_now(commit) : result; /* R7 */
}

static int commit_once(struct commit *commit)
{
    struct commit_source *source = &commit->source;
    struct cache_writeback *slices;
    struct l1_changes l1;
    int result;

    result = gate_settle(source->gate, source->barrier);
    if (result == 0) {
        result = mapping_settle(source->mapping);
    }
    if (result == 0) {
        result = allocator_write_back(source->allocator);
    }
    if (result == 0) {
        result = cache_writeback_begin(source->l2, &slices);
    }
    if (result < 0) {
        return result;
    }
    /* After the slices: each table that a slice of these belongs to is in the list. */
    mapping_take_l1_changes(source->mapping, &l1);
    result = write_all(commit, slices, &l1);
    mapping_release_l1_changes(source->mapping, &l1, result < 0);
    cache_writeback_end(slices, result == 0);
    return result;
}

/*
 * R4: after a commit is stable, the requests that are under way are waited
 * for, in passing: when the generation from before has drained, what that
 * commit dropped is free.
 */
static int reap(struct commit *commit)
{
    struct commit_source *source = &commit->source;

    for (;;) {
        int result;

        if (!commit->draining) {
            if (commit->drain_commit >= commit->stable_commit) {
                return 0;
            }
            inflight_flip(source->inflight);
            commit->draining = true;
            commit->drain_commit = commit->stable_commit;
        }
        if (!inflight_drained(source->inflight)) {
            return 0;
        }
        commit->draining = false;
        result = allocator_dropped(source->allocator, commit->drain_commit);
        if (result < 0) {
            return result;
        }
    }
}

/* Runs a commit; the mutex is held, and given up meanwhile. */
static void run(struct commit *commit)
{
    uint64_t number;
    int result;

    commit->running = true;
    number = atomic_fetch_add(commit->source.next_commit, 1);
    commit->begun = number;
    pthread_mutex_unlock(&commit->mutex);
    result = commit_once(commit);
    if (result == 0) {
        commit->stable_commit = number;
        (void)reap(commit); /* what cannot be freed is a leak */
    }
    pthread_mutex_lock(&commit->mutex);
    commit->running = false;
    commit->last_result = result;
    if (result == 0) {
        commit->done = number;
    }
    pthread_cond_broadcast(&commit->ended);
}

int commit_flush(struct commit *commit)
{
    uint64_t wanted;
    int result;

    pthread_mutex_lock(&commit->mutex);
    wanted = commit->begun + 1; /* the running one may have begun too early for us */
    while (commit->done < wanted && (commit->running || commit->begun < wanted)) {
        if (commit->running) {
            pthread_cond_wait(&commit->ended, &commit->mutex);
        } else {
            run(commit);
        }
    }
    /* What failed after our commit had succeeded is for others to hear of. */
    result = commit->done >= wanted ? 0 : commit->last_result;
    pthread_mutex_unlock(&commit->mutex);
    return result;
}

int commit_reap(struct commit *commit)
{
    int result = 0;

    pthread_mutex_lock(&commit->mutex);
    if (!commit->running) {
        commit->running = true;
        pthread_mutex_unlock(&commit->mutex);
        result = reap(commit);
        pthread_mutex_lock(&commit->mutex);
        commit->running = false;
        pthread_cond_broadcast(&commit->ended);
    }
    pthread_mutex_unlock(&commit->mutex);
    return result;
}
