/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/loop.h"

#include "util/deadline.h"
#include "util/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define ATTEMPTS 64 /* others may take the device that was free */

#define LOOP_MAJOR 7

/* For all devices together; then some for each. */
#define PATIENCE_MILLISECONDS 2000

static int open_device(int number, bool read_only, char name[LOOP_NAME_MAX])
{
    snprintf(name, LOOP_NAME_MAX, "/dev/loop%d", number);
    return open(name, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
}

/* Opens a device that was free a moment ago. A descriptor, or a negative errno with a sentence. */
static int open_free(int control, bool read_only, char name[LOOP_NAME_MAX], struct error *error)
{
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    int device;

    if (number < 0) {
        return error_set(error, errno,
                         "there is no free loop device: %s; free one (losetup -l lists them), or "
                         "load the module loop with a larger max_loop",
                         strerror(errno));
    }
    device = open_device(number, read_only, name);
    if (device < 0) {
        return error_set(error, errno,
                         "%s: cannot be opened: %s; loop devices need root, and in a container "
                         "their nodes in /dev",
                         name, strerror(errno));
    }
    return device;
}

int loop_attach(int file, const struct loop_settings *settings, char name[LOOP_NAME_MAX],
                struct error *error)
{
    struct loop_config config = {
        .fd = (uint32_t)file,
        .block_size = settings->sector_size,
        .info = {.lo_offset = settings->offset, .lo_sizelimit = settings->size},
    };
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int device = -1, code = 0;

    if (control < 0) {
        return error_set(error, errno,
                         "/dev/loop-control: cannot be opened: %s; loop devices need root, and the "
                         "kernel's module loop",
                         strerror(errno));
    }
    config.info.lo_flags = (settings->read_only ? LO_FLAGS_READ_ONLY : 0) |
                           (settings->autoclear ? LO_FLAGS_AUTOCLEAR : 0) |
                           (settings->partitions ? LO_FLAGS_PARTSCAN : 0) |
                           (settings->direct_io ? LO_FLAGS_DIRECT_IO : 0);
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        device = open_free(control, settings->read_only, name, error);
        if (device < 0 || ioctl(device, LOOP_CONFIGURE, &config) == 0) {
            close(control);
            return device;
        }
        code = errno;
        close(device);
        if (code != EBUSY) {
            break;
        }
    }
    close(control);
    return error_set(error, code, "%s: the raw disk cannot be attached: %s", name, strerror(code));
}

int loop_add_partition(int device, unsigned number, uint64_t start, uint64_t size)
{
    struct blkpg_partition partition = {
        .start = (long long)start,
        .length = (long long)size,
        .pno = (int)number,
    };
    struct blkpg_ioctl_arg request = {
        .op = BLKPG_ADD_PARTITION,
        .datalen = sizeof(partition),
        .data = &partition,
    };

    return ioctl(device, BLKPG, &request) == 0 ? 0 : -errno;
}

int loop_detach(const char *name)
{
    int device = open(name, O_RDONLY | O_CLOEXEC);
    int result = 0;

    if (device < 0) {
        return -errno;
    }
    if (ioctl(device, LOOP_CLR_FD) != 0) {
        result = -errno;
    }
    close(device);
    return result;
}

bool loop_has_device(const struct loop_status *loop, dev_t device)
{
    char path[96], target[512];
    const char *name = loop->name + strlen("/dev/");
    struct stat node;
    ssize_t length;
    char *at;

    if (stat(loop->name, &node) == 0 && node.st_rdev == device) {
        return true;
    }
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(device), minor(device));
    length = readlink(path, target, sizeof(target) - 1);
    if (length <= 0) {
        return false;
    }
    target[length] = '\0'; /* .../block/loop0/loop0p1 */
    at = strstr(target, name);
    return at != NULL && at > target && at[-1] == '/' && at[strlen(name)] == '/';
}

/* --- which there are -------------------------------------------------------------------------- */

/*
 * The kernel asks the attached file's server for its number. One that is stopped, or has lost what
 * it reads from, does not answer, and would keep everybody waiting who looks at any loop device; so
 * a thread asks, and is left alone with its question after a while.
 */
struct question {
    pthread_mutex_t mutex;
    pthread_cond_t answered;
    unsigned knowing; /* threads; the last one frees it */
    bool is_answered;
    bool has_file; /* there is something to tell: */
    int number;
    struct loop_status status;
};

static void forget(struct question *question)
{
    bool last = --question->knowing == 0;

    pthread_mutex_unlock(&question->mutex);
    if (last) {
        pthread_cond_destroy(&question->answered);
        pthread_mutex_destroy(&question->mutex);
        free(question);
    }
}

static bool examine(int number, struct loop_status *status)
{
    struct loop_info64 info;
    struct stat node;
    int device = open_device(number, true, status->name);
    bool is_loop, has_file;

    if (device < 0) {
        return false;
    }
    is_loop =
        fstat(device, &node) == 0 && S_ISBLK(node.st_mode) && major(node.st_rdev) == LOOP_MAJOR;
    has_file = is_loop && ioctl(device, LOOP_GET_STATUS64, &info) == 0;
    status->is_dead = is_loop && !has_file && errno == ENOTCONN;
    if (has_file) {
        status->file_device = (dev_t)info.lo_device;
        status->file_inode = (ino_t)info.lo_inode;
        status->offset = info.lo_offset;
        status->size = info.lo_sizelimit;
        status->read_only = (info.lo_flags & LO_FLAGS_READ_ONLY) != 0;
        status->autoclear = (info.lo_flags & LO_FLAGS_AUTOCLEAR) != 0;
        status->partitions = (info.lo_flags & LO_FLAGS_PARTSCAN) != 0;
    }
    close(device);
    return has_file || status->is_dead;
}

static void *ask(void *context)
{
    struct question *question = context;
    struct loop_status status = {.name = ""};
    bool has_file = examine(question->number, &status);

    pthread_mutex_lock(&question->mutex);
    question->has_file = has_file;
    question->status = status;
    question->is_answered = true;
    pthread_cond_signal(&question->answered);
    forget(question);
    return NULL;
}

/* 1: *status is told; 0: there is nothing to tell; -ENOMEM. Waits no longer than `until`. */
static int question_loop(int number, const struct timespec *until, struct loop_status *status)
{
    struct question *question = calloc(1, sizeof(*question));
    pthread_t thread;
    int waited = 0, result;

    if (question == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_init(&question->mutex, NULL);
    deadline_condition(&question->answered);
    question->number = number;
    question->knowing = 2;
    if (process_start_thread(&thread, "loop", ask, question) == 0) {
        (void)pthread_detach(thread);
    } else {
        (void)ask(question); /* then without a limit */
    }
    pthread_mutex_lock(&question->mutex);
    while (!question->is_answered && waited == 0) {
        waited = pthread_cond_timedwait(&question->answered, &question->mutex, until);
    }
    if (question->is_answered) {
        *status = question->status;
        status->answers = true;
        result = question->has_file;
    } else {
        *status = (struct loop_status){.answers = false};
        snprintf(status->name, sizeof(status->name), "/dev/loop%d", number);
        result = 1;
    }
    forget(question);
    return result;
}

/* The number of the device with that name in /sys/block, if it has a file; else -1. */
static int number_of(const char *name)
{
    char path[512];
    int number;

    if (sscanf(name, "loop%d", &number) != 1) {
        return -1;
    }
    /* Without this a look would keep devices from going that nobody uses any more. */
    snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file", name);
    return access(path, F_OK) == 0 ? number : -1;
}

int loop_visit(int (*each)(void *context, const struct loop_status *status), void *context)
{
    DIR *stream = opendir("/sys/block");
    struct timespec until = deadline_after(PATIENCE_MILLISECONDS);
    struct dirent *item;
    int result = 0;

    if (stream == NULL) {
        return errno == ENOENT || errno == EACCES ? 0 : -errno; /* there is no such list here */
    }
    while (result == 0 && (item = readdir(stream)) != NULL) {
        struct timespec least = deadline_after(PATIENCE_MILLISECONDS / 100);
        struct loop_status status;
        int number = number_of(item->d_name);

        if (number < 0) {
            continue;
        }
        if (deadline_is_before(&until, &least)) {
            until = least;
        }
        result = question_loop(number, &until, &status);
        if (result > 0) {
            result = each(context, &status);
        }
    }
    closedir(stream);
    return result;
}
