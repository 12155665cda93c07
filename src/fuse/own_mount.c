/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/own_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum sync_state {
    SYNC_NONE,
    SYNC_WANTED,
    SYNC_DONE,
};

struct own_mount {
    char *disk_path;
    pthread_t thread;
    bool has_thread;
    atomic_int opener;     /* the thread's id while it opens the disk, or 0 */
    atomic_bool was_asked; /* the open that is under way came back to us as a request */

    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t changed;
    enum sync_state sync;
    int sync_result;
    bool wants_size;
    bool ends;
};

int own_mount_create(const char *disk_path, struct own_mount **own)
{
    struct own_mount *made = calloc(1, sizeof(*made));
    pthread_condattr_t attributes;

    if (made != NULL) {
        made->disk_path = strdup(disk_path);
    }
    if (made == NULL || made->disk_path == NULL) {
        free(made);
        return -ENOMEM;
    }
    atomic_init(&made->opener, 0);
    atomic_init(&made->was_asked, false);
    pthread_mutex_init(&made->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&made->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    *own = made;
    return 0;
}

bool own_mount_is_opener(struct own_mount *own, pid_t opener)
{
    if (own == NULL || opener == 0 || atomic_load(&own->opener) != opener) {
        return false;
    }
    atomic_store(&own->was_asked, true);
    return true;
}

/* --- the thread ------------------------------------------------------------- */

/*
 * A descriptor of the raw disk, or a negative errno. What is found at the path
 * may be something else by now, the image itself for one: it is ours when the
 * open came back to us as a request.
 */
static int open_disk(struct own_mount *own, int flags)
{
    int fd, r;

    atomic_store(&own->was_asked, false);
    atomic_store(&own->opener, gettid());
    fd = open(own->disk_path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    r = fd < 0 ? -errno : fd;
    atomic_store(&own->opener, 0);
    if (fd >= 0 && !atomic_load(&own->was_asked)) {
        close(fd);
        r = -ENXIO;
    }
    return r;
}

static int sync_disk(struct own_mount *own)
{
    int fd = open_disk(own, O_RDONLY);
    int r = 0;

    if (fd < 0) {
        return fd;
    }
    if (fsync(fd) != 0) {
        r = -errno;
    }
    close(fd);
    return r;
}

/* The size does not matter: whatever we ask for ourselves is answered with the right one. */
static void restore_size(struct own_mount *own)
{
    int fd = open_disk(own, O_WRONLY);

    if (fd >= 0) {
        (void)!ftruncate(fd, 0);
        close(fd);
    }
}

static void *run(void *argument)
{
    struct own_mount *own = argument;

    pthread_mutex_lock(&own->mutex);
    while (!own->ends) {
        if (own->wants_size) {
            own->wants_size = false;
            pthread_mutex_unlock(&own->mutex);
            restore_size(own);
            pthread_mutex_lock(&own->mutex);
        } else if (own->sync == SYNC_WANTED) {
            int r;

            pthread_mutex_unlock(&own->mutex);
            r = sync_disk(own);
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
    int r = pthread_create(&own->thread, NULL, run, own);

    own->has_thread = r == 0;
    return -r;
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
    free(own->disk_path);
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
