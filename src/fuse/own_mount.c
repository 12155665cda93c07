/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/own_mount.h"
#include "util/deadline.h"
#include "util/process.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum sync_state {
    SYNC_NONE,
    SYNC_WANTED,
    SYNC_DONE,
};

struct own_mount {
    struct steward *steward;
    pthread_t thread;
    bool has_thread;
    int (*recall)(void *context); /* set before the thread starts */
    void *recall_context;
    atomic_int asking; /* the id of the steward's thread while it asks, or 0 */

    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t changed;
    enum sync_state sync;
    int sync_result;
    bool wants_size;
    bool wants_times;
    bool ends;
    struct timespec times[2]; /* with wants_times; and what follows */
    void (*times_done)(void *context);
    void *times_context;
};

int own_mount_create(struct steward *steward, struct own_mount **own)
{
    struct own_mount *made = calloc(1, sizeof(*made));

    if (made == NULL) {
        return -ENOMEM;
    }
    made->steward = steward;
    atomic_init(&made->asking, 0);
    pthread_mutex_init(&made->mutex, NULL);
    deadline_condition(&made->changed);
    *own = made;
    return 0;
}

void own_mount_set_recall(struct own_mount *own, int (*recall)(void *context), void *context)
{
    own->recall = recall;
    own->recall_context = context;
}

bool own_mount_recognise(struct own_mount *own, pid_t asking)
{
    return own != NULL && asking != 0 && atomic_load(&own->asking) == asking;
}

/* --- the thread ------------------------------------------------------------- */

/* Whether it was the path, or the steward, and not the disk, that failed. */
static bool no_way_there(int r)
{
    return r == -ENXIO || r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -EACCES ||
           r == -EPERM || r == -ENOTCONN || r == -ECONNRESET || r == -EPIPE;
}

int own_mount_hand_over(struct own_mount *own)
{
    int r = steward_sync_disk(own->steward);

    if (no_way_there(r) && own->recall != NULL) {
        r = own->recall(own->recall_context);
    }
    return r;
}

/* Nobody is left who could be asked; what holds something above the disk is not known then. */
static bool is_without_steward(int r)
{
    return r == -ECONNRESET || r == -EPIPE || r == -ENOTCONN;
}

/* All, from the top down: what is above the disk comes to the kernel's copy of it first. */
static int hand_over_all(struct own_mount *own)
{
    int above = steward_sync_above_disk(own->steward);
    int r = own_mount_hand_over(own);

    return r == 0 && !is_without_steward(above) ? above : r;
}

static void change_size(struct own_mount *own)
{
    atomic_store(&own->asking, steward_disk_thread(own->steward));
    (void)steward_restore_size(own->steward);
    atomic_store(&own->asking, 0);
}

static void change_times(struct own_mount *own)
{
    atomic_store(&own->asking, steward_disk_thread(own->steward));
    (void)steward_set_times(own->steward, own->times);
    atomic_store(&own->asking, 0);
}

static void *run(void *argument)
{
    struct own_mount *own = argument;

    pthread_mutex_lock(&own->mutex);
    while (!own->ends) {
        if (own->wants_size) {
            own->wants_size = false;
            pthread_mutex_unlock(&own->mutex);
            change_size(own);
            pthread_mutex_lock(&own->mutex);
        } else if (own->wants_times) {
            own->wants_times = false;
            pthread_mutex_unlock(&own->mutex);
            change_times(own);
            own->times_done(own->times_context);
            pthread_mutex_lock(&own->mutex);
        } else if (own->sync == SYNC_WANTED) {
            int r;

            pthread_mutex_unlock(&own->mutex);
            r = hand_over_all(own);
            pthread_mutex_lock(&own->mutex);
            own->sync_result = r;
            own->sync = SYNC_DONE;
            pthread_cond_broadcast(&own->changed);
        } else {
            pthread_cond_wait(&own->changed, &own->mutex);
        }
    }
    pthread_mutex_unlock(&own->mutex);
    return NULL;
}

int own_mount_start(struct own_mount *own)
{
    int r = process_start_thread(&own->thread, NULL, run, own);

    own->has_thread = r == 0;
    return r;
}

void own_mount_destroy(struct own_mount *own)
{
    if (own == NULL) {
        return;
    }
    if (own->has_thread) {
        pthread_mutex_lock(&own->mutex);
        own->ends = true;
        pthread_cond_broadcast(&own->changed);
        pthread_mutex_unlock(&own->mutex);
        pthread_join(own->thread, NULL);
    }
    pthread_cond_destroy(&own->changed);
    pthread_mutex_destroy(&own->mutex);
    free(own);
}

/* --- what it is asked for --------------------------------------------------- */

int own_mount_sync(struct own_mount *own, unsigned seconds)
{
    struct timespec until;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&own->mutex);
    own->sync = SYNC_WANTED;
    pthread_cond_broadcast(&own->changed);
    while (own->sync != SYNC_DONE && r == 0) {
        r = pthread_cond_timedwait(&own->changed, &own->mutex, &until);
    }
    r = own->sync == SYNC_DONE ? own->sync_result : -r;
    pthread_mutex_unlock(&own->mutex);
    return r;
}

void own_mount_restore_size(struct own_mount *own)
{
    pthread_mutex_lock(&own->mutex);
    own->wants_size = true;
    pthread_cond_broadcast(&own->changed);
    pthread_mutex_unlock(&own->mutex);
}

void own_mount_set_times(struct own_mount *own, const struct timespec times[2],
                         void (*done)(void *context), void *context)
{
    pthread_mutex_lock(&own->mutex);
    own->times[0] = times[0];
    own->times[1] = times[1];
    own->times_done = done;
    own->times_context = context;
    own->wants_times = true;
    pthread_cond_broadcast(&own->changed);
    pthread_mutex_unlock(&own->mutex);
}
