/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/barrier.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct barrier {
    struct store *file;
    struct store *data_file;
    bool unsafe;

    pthread_mutex_t mutex;      /* guards all below */
    pthread_cond_t synced;      /* a sync has ended */
    uint64_t current;           /* epoch of the writes that return now */
    uint64_t stable;            /* all epochs up to this one are stable */
    atomic_uint_fast64_t syncs; /* read without the mutex */
    bool syncing;               /* a sync is under way, of all epochs before `current` */
    int failed;                 /* negative errno of the first sync that failed */
};

int barrier_create(struct store *file, struct store *data_file, bool unsafe,
                   struct barrier **barrier)
{
    *barrier = calloc(1, sizeof(**barrier));
    if (*barrier == NULL) {
        return -ENOMEM;
    }
    **barrier = (struct barrier){
        .file = file,
        .data_file = data_file,
        .unsafe = unsafe,
        .current = 1,
    };
    pthread_mutex_init(&(*barrier)->mutex, NULL);
    pthread_cond_init(&(*barrier)->synced, NULL);
    return 0;
}

void barrier_destroy(struct barrier *barrier)
{
    if (barrier != NULL) {
        pthread_cond_destroy(&barrier->synced);
        pthread_mutex_destroy(&barrier->mutex);
        free(barrier);
    }
}

uint64_t barrier_epoch(struct barrier *barrier)
{
    uint64_t epoch;

    pthread_mutex_lock(&barrier->mutex);
    epoch = barrier->current;
    pthread_mutex_unlock(&barrier->mutex);
    return epoch;
}

bool barrier_is_stable(struct barrier *barrier, uint64_t epoch)
{
    bool stable;

    pthread_mutex_lock(&barrier->mutex);
    stable = epoch <= barrier->stable;
    pthread_mutex_unlock(&barrier->mutex);
    return stable;
}

static int sync_stores(const struct barrier *barrier)
{
    int result = 0;

    if (barrier->unsafe) {
        return 0;
    }
    if (barrier->data_file != barrier->file) {
        result = store_sync(barrier->data_file);
    }
    return result == 0 ? store_sync(barrier->file) : result;
}

/* With the mutex held, which is given up meanwhile: ends the current epoch with a sync. */
static void sync_current(struct barrier *barrier)
{
    uint64_t covered = barrier->current++;
    int result;

    barrier->syncing = true;
    pthread_mutex_unlock(&barrier->mutex);
    result = sync_stores(barrier);
    pthread_mutex_lock(&barrier->mutex);
    barrier->syncing = false;
    atomic_fetch_add_explicit(&barrier->syncs, 1, memory_order_relaxed);
    if (result == 0) {
        barrier->stable = covered;
    } else {
        barrier->failed = result; /* R7 */
    }
    pthread_cond_broadcast(&barrier->synced);
}

int barrier_wait(struct barrier *barrier, uint64_t epoch)
{
    int result;

    pthread_mutex_lock(&barrier->mutex);
    while (barrier->stable < epoch && barrier->failed == 0) {
        if (barrier->syncing) {
            pthread_cond_wait(&barrier->synced, &barrier->mutex);
        } else {
            sync_current(barrier);
        }
    }
    result = barrier->failed; /* R7: also for what became stable before */
    pthread_mutex_unlock(&barrier->mutex);
    return result;
}

void barrier_fail(struct barrier *barrier, int result)
{
    pthread_mutex_lock(&barrier->mutex);
    barrier->failed = result;
    pthread_cond_broadcast(&barrier->synced);
    pthread_mutex_unlock(&barrier->mutex);
}

uint64_t barrier_syncs(struct barrier *barrier)
{
    return atomic_load_explicit(&barrier->syncs, memory_order_relaxed);
}
