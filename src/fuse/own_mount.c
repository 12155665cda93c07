/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/own_mount.h"
#include "util/deadline.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
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
    ino_t inode;                  /* of the disk */
    dev_t device;                 /* set before the thread starts */
    int (*recall)(void *context); /* set before the thread starts, too */
    void *recall_context;
    atomic_int asking; /* the thread's id, or 0 */

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

int own_mount_create(const char *disk_path, ino_t inode, struct own_mount **own)
{
    struct own_mount *made = calloc(1, sizeof(*made));

    if (made != NULL) {
        made->disk_path = strdup(disk_path);
    }
    if (made == NULL || made->disk_path == NULL) {
        free(made);
        return -ENOMEM;
    }
    made->inode = inode;
    atomic_init(&made->asking, 0);
    pthread_mutex_init(&made->mutex, NULL);
    deadline_condition(&made->changed);
    *own = made;
    return 0;
}

void own_mount_set_device(struct own_mount *own, dev_t device)
{
    own->device = device;
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

/* Without symbolic links anywhere, where the kernel can do that (since 5.6). */
static int open_path(const char *path)
{
    const struct open_how how = {
        .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_NO_SYMLINKS,
    };
    long fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));

    return fd < 0 && errno == ENOSYS ? open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC) : (int)fd;
}

/*
 * A descriptor (O_PATH) of the raw disk, or a negative errno. What is found at
 * the path may be something else by now: the image itself under a mount that was
 * detached, or what somebody has put there.
 */
static int find_disk(const struct own_mount *own)
{
    struct statx status;
    int fd = open_path(own->disk_path);

    if (fd < 0) {
        return -errno;
    }
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &status) != 0 ||
        own->device == 0 || makedev(status.stx_dev_major, status.stx_dev_minor) != own->device ||
        status.stx_ino != own->inode) {
        close(fd);
        return -ENXIO;
    }
    /* Ours: the kernel may know nothing of it yet, owner and permissions included. */
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &status) != 0) {
        int r = -errno;

        close(fd);
        return r;
    }
    return fd;
}

/* A path that leads to what a descriptor with O_PATH stands for. */
struct proc_path {
    char text[sizeof("/proc/thread-self/fd/") + 3 * sizeof(int)];
};

static void make_proc_path(int fd, struct proc_path *path)
{
    snprintf(path->text, sizeof(path->text), "/proc/thread-self/fd/%d", fd);
}

static int sync_disk(struct own_mount *own)
{
    int found = find_disk(own), fd, r = 0;
    struct proc_path path;

    if (found < 0) {
        return found;
    }
    make_proc_path(found, &path);
    fd = open(path.text, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || fsync(fd) != 0) {
        r = -errno;
    }
    if (fd >= 0) {
        close(fd);
    }
    close(found);
    return r;
}

/*
 * Without opening the file: to close one that is open to write takes away the
 * errors of others' writes, which they have not seen yet. The size does not
 * matter, the answer has the right one.
 */
static int restore_size(struct own_mount *own)
{
    int fd = find_disk(own);
    struct proc_path path;

    if (fd >= 0) {
        make_proc_path(fd, &path);
        (void)!truncate(path.text, 0);
        close(fd);
    }
    return 0;
}

static int set_times(struct own_mount *own)
{
    int fd = find_disk(own);
    struct proc_path path;

    if (fd >= 0) {
        make_proc_path(fd, &path);
        (void)utimensat(AT_FDCWD, path.text, own->times, 0);
        close(fd);
    }
    return 0;
}

/* What is asked of the mount, by a thread that has nothing else to do. */
struct errand {
    struct own_mount *own;
    int (*job)(struct own_mount *own);
    int result;
};

/*
 * The thread has descriptors of its own, and none of the others'. Who waits for the answer of a
 * mount cannot be killed; with the descriptors of those who answer it would keep the mount from
 * ending with them, so that the process stayed for ever, and with it the image's locks.
 */
static void *run_errand(void *argument)
{
    struct errand *errand = argument;

    /* Where that is forbidden (by a container, say) it is only worse to be killed just now. */
    if (unshare(CLONE_FILES) == 0) {
        (void)close_range(0, ~0U, 0);
    }
    if (errand->job == sync_disk) { /* of which there may be several at once */
        errand->result = sync_disk(errand->own);
        return NULL;
    }
    atomic_store(&errand->own->asking, gettid());
    errand->result = errand->job(errand->own);
    atomic_store(&errand->own->asking, 0);
    return NULL;
}

static int run_apart(struct own_mount *own, int (*job)(struct own_mount *own))
{
    struct errand errand = {.own = own, .job = job};
    pthread_t thread;
    int r = pthread_create(&thread, NULL, run_errand, &errand);

    if (r != 0) {
        return -r;
    }
    pthread_join(thread, NULL);
    return errand.result;
}

/* Whether it was the path, and not the disk, that failed. */
static bool no_way_there(int r)
{
    return r == -ENXIO || r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -EACCES ||
           r == -EPERM || r == -ENOTCONN;
}

int own_mount_hand_over(struct own_mount *own)
{
    int r = run_apart(own, sync_disk);

    if (no_way_there(r) && own->recall != NULL) {
        r = own->recall(own->recall_context);
    }
    return r;
}

static void *run(void *argument)
{
    struct own_mount *own = argument;

    pthread_mutex_lock(&own->mutex);
    while (!own->ends) {
        if (own->wants_size) {
            own->wants_size = false;
            pthread_mutex_unlock(&own->mutex);
            (void)run_apart(own, restore_size);
            pthread_mutex_lock(&own->mutex);
        } else if (own->wants_times) {
            own->wants_times = false;
            pthread_mutex_unlock(&own->mutex);
            (void)run_apart(own, set_times);
            own->times_done(own->times_context);
            pthread_mutex_lock(&own->mutex);
        } else if (own->sync == SYNC_WANTED) {
            int r;

            pthread_mutex_unlock(&own->mutex);
            r = own_mount_hand_over(own);
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
