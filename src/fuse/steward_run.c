/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/above_disk.h"
#include "fuse/announce.h"
#include "fuse/mount_point.h"
#include "fuse/own_disk.h"
#include "fuse/steward_internal.h"
#include "util/box_calls.h"
#include "util/journal.h"
#include "util/memory.h"
#include "util/mounts.h"
#include "util/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <syslog.h>
#include <unistd.h>

#define FIRST_SOCKET 3 /* behind the standard descriptors */

/* On what it works. What threads read is set before they start. */
struct work {
    int sockets[STEWARD_SOCKETS];
    bool is_sealed, is_asked_for_filter, unmounts, has_ended;
    struct box_filter *filter; /* begun; or NULL */
    char *image;
    char *mount_point;
    struct own_disk disk;
    char *pid_file;
    pid_t server; /* whose number is in it */
    char *registry_name;
    int registry; /* the directory, or -1 */
    char syslog_name[32];
    sem_t has_begun;
    pid_t thread;
};

/* --- messages
 * ---------------------------------------------------------------------------------------- */

static void answer(int socket, int result)
{
    int32_t number = result;

    while (send(socket, &number, sizeof(number), MSG_NOSIGNAL) < 0 && errno == EINTR) {
    }
}

/* The descriptor that came along, or -1. */
static int find_descriptor(struct msghdr *header)
{
    struct cmsghdr *control = CMSG_FIRSTHDR(header);
    int descriptor = -1;

    if (control != NULL && control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS &&
        control->cmsg_len == CMSG_LEN(sizeof(int))) {
        memcpy(&descriptor, CMSG_DATA(control), sizeof(descriptor));
    }
    return descriptor;
}

/* False at the end: the server is gone, or says what no server says. */
static bool hear(int socket, struct steward_message *message, int *descriptor)
{
    struct iovec part = {.iov_base = message, .iov_len = sizeof(*message)};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct msghdr header = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof(control.bytes),
    };
    size_t begin = offsetof(struct steward_message, text);
    ssize_t count;

    while ((count = recvmsg(socket, &header, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {
    }
    *descriptor = count > 0 ? find_descriptor(&header) : -1;
    return count > (ssize_t)begin && memchr(message->text, '\0', (size_t)count - begin) != NULL;
}

/* --- the disk's threads
 * ------------------------------------------------------------------------------- */

static int work_on_disk(const struct own_disk *disk, const struct steward_message *message)
{
    switch (message->work) {
    case STEWARD_SYNC:
        return own_disk_sync(disk);
    case STEWARD_SYNC_ABOVE:
        return above_disk_sync(disk);
    case STEWARD_SIZE:
        return own_disk_restore_size(disk);
    case STEWARD_TIMES:
        return own_disk_set_times(disk, message->times);
    default:
        return -EINVAL;
    }
}

static void serve_disk(const struct work *work, enum steward_socket socket)
{
    struct steward_message message;
    int descriptor;

    while (hear(work->sockets[socket], &message, &descriptor)) {
        if (descriptor >= 0) {
            close(descriptor);
        }
        answer(work->sockets[socket], work_on_disk(&work->disk, &message));
    }
}

static void *run_attributes(void *argument)
{
    struct work *work = argument;

    work->thread = gettid();
    sem_post(&work->has_begun);
    serve_disk(work, STEWARD_ATTRIBUTES);
    return NULL;
}

static void *run_syncs(void *argument)
{
    serve_disk(argument, STEWARD_SYNCS);
    return NULL;
}

/* The id of the thread for size and times, or a negative errno. */
static int start_threads(struct work *work)
{
    pthread_t threads[2];
    int r = pthread_create(&threads[0], NULL, run_attributes, work);

    if (r != 0) {
        return -r;
    }
    pthread_detach(threads[0]);
    while (sem_wait(&work->has_begun) != 0) {
    }
    r = pthread_create(&threads[1], NULL, run_syncs, work);
    if (r != 0) {
        return -r;
    }
    pthread_detach(threads[1]);
    return work->thread;
}

/* --- what it is told
 * ----------------------------------------------------------------------------------- */

static int keep(char **where, const char *text)
{
    *where = strdup(text);
    return *where != NULL ? 0 : -ENOMEM;
}

static int take_image(struct work *work, const struct steward_message *message)
{
    return keep(&work->image, message->text);
}

static int take_mount(struct work *work, const struct steward_message *message)
{
    int r = mounts_know(message->text, message->device, &work->disk.mount);

    if (r != 0) {
        return r;
    }
    work->disk.device = message->device;
    work->unmounts = message->unmounts;
    return keep(&work->mount_point, message->text);
}

static int take_disk(struct work *work, const struct steward_message *message)
{
    char *path;
    int r = keep(&path, message->text);

    if (r != 0) {
        return r;
    }
    work->disk.path = path;
    work->disk.inode = message->inode;
    return start_threads(work);
}

static int take_pid_file(struct work *work, const struct steward_message *message)
{
    work->server = message->server;
    return keep(&work->pid_file, message->text);
}

static int take_registry(struct work *work, const struct steward_message *message, int *descriptor)
{
    work->registry = *descriptor;
    *descriptor = -1;
    return keep(&work->registry_name, message->text);
}

/* Until it is sealed: each once. */
static int be_told(struct work *work, const struct steward_message *message, int *descriptor)
{
    switch (work->is_sealed ? STEWARD_LOG : message->work) {
    case STEWARD_IMAGE:
        return work->image == NULL ? take_image(work, message) : -EPERM;
    case STEWARD_MOUNT:
        return work->mount_point == NULL ? take_mount(work, message) : -EPERM;
    case STEWARD_DISK:
        return work->disk.path == NULL ? take_disk(work, message) : -EPERM;
    case STEWARD_PID_FILE:
        return work->pid_file == NULL ? take_pid_file(work, message) : -EPERM;
    case STEWARD_REGISTRY:
        return work->registry_name == NULL ? take_registry(work, message, descriptor) : -EPERM;
    case STEWARD_SEAL:
        work->is_sealed = true;
        work->is_asked_for_filter = message->filters;
        return 0;
    default:
        return -EPERM;
    }
}

/* --- what it does
 * ---------------------------------------------------------------------------------------- */

static int was_aborted(const struct work *work)
{
    return work->mount_point != NULL && mount_point_was_aborted(&work->disk.mount);
}

/*
 * Only what is ours, and where that is by now: since the mount something else may have come to lie
 * on top of it, and a directory above may have been renamed.
 */
static int unmount(const struct work *work)
{
    char *path;
    unsigned id;
    int r;

    if (work->mount_point == NULL) {
        return -EINVAL;
    }
    if (work->disk.device == 0) {
        return mounts_detach(work->mount_point);
    }
    r = mounts_find(&work->disk.mount, &path, &id);
    if (r == 0) {
        r = mounts_detach_exactly(path, id);
        free(path);
    }
    return r;
}

static int remove_pid_file(const struct work *work)
{
    if (work->pid_file != NULL) {
        announce_remove(work->pid_file, work->server);
    }
    return 0;
}

static int remove_registry(const struct work *work)
{
    if (work->registry_name != NULL) {
        registry_remove(work->registry, work->registry_name);
    }
    return 0;
}

/* A mount without a name (ctl/raw_disk.h) has a descriptor's. */
static const char *named_mount_point(const struct work *work)
{
    return work->mount_point != NULL && strncmp(work->mount_point, "/dev/fd/", 8) != 0
               ? work->mount_point
               : NULL;
}

static int write_to_journal(const struct work *work, const struct steward_message *message)
{
    char priority[16], facility[16], server[32];
    const struct journal_field fields[] = {
        {"MESSAGE", message->text},
        {"PRIORITY", priority},
        {"SYSLOG_FACILITY", facility},
        {"SYSLOG_IDENTIFIER", "qcow2fs"},
        {"SYSLOG_PID", server},
        {"QCOW2FS_IMAGE", work->image},
        {"QCOW2FS_MOUNT_POINT", named_mount_point(work)},
    };

    snprintf(priority, sizeof(priority), "%d", LOG_PRI(message->priority));
    snprintf(facility, sizeof(facility), "%d", LOG_FAC(LOG_DAEMON));
    snprintf(server, sizeof(server), "%ld", (long)message->server);
    return journal_send(fields, sizeof(fields) / sizeof(fields[0]));
}

/* As syslog(3) would have it of the server itself. */
static void write_to_syslog(struct work *work, const struct steward_message *message)
{
    if (work->syslog_name[0] == '\0') {
        snprintf(work->syslog_name, sizeof(work->syslog_name), "qcow2fs[%ld]",
                 (long)message->server);
        openlog(work->syslog_name, 0, LOG_DAEMON);
    }
    syslog(LOG_PRI(message->priority), "%s", message->text);
}

static void write_line(struct work *work, const struct steward_message *message)
{
    if (write_to_journal(work, message) != 0) {
        write_to_syslog(work, message);
    }
}

static int do_work(struct work *work, const struct steward_message *message, int *descriptor)
{
    switch (message->work) {
    case STEWARD_ABORTED:
        return was_aborted(work);
    case STEWARD_UNMOUNT:
        return unmount(work);
    case STEWARD_REMOVE_PID_FILE:
        return remove_pid_file(work);
    case STEWARD_REMOVE_REGISTRY:
        return remove_registry(work);
    default:
        return be_told(work, message, descriptor);
    }
}

/* Empty where there is none. */
static void send_filter(struct work *work, const struct steward_message *message)
{
    struct sock_filter *program = malloc(BOX_PROGRAM_MAX * sizeof(*program));
    size_t count =
        box_filter_end(work->filter, &message->needs, message->opens, message->server, program);

    work->filter = NULL;
    while (send(work->sockets[STEWARD_MAIN], program, count * sizeof(*program), MSG_NOSIGNAL) < 0 &&
           errno == EINTR) {
    }
    free(program);
}

/* The server was killed; one that ends by itself has unmounted, or somebody else has. */
static void unmount_behind(const struct work *work)
{
    if (work->unmounts && !work->has_ended && work->disk.device != 0) {
        (void)unmount(work);
    }
}

static void serve(struct work *work)
{
    struct steward_message message;
    int descriptor;

    while (hear(work->sockets[STEWARD_MAIN], &message, &descriptor)) {
        if (message.work == STEWARD_LOG) {
            write_line(work, &message);
        } else if (message.work == STEWARD_END) {
            work->has_ended = true;
        } else {
            answer(work->sockets[STEWARD_MAIN], do_work(work, &message, &descriptor));
        }
        if (work->is_asked_for_filter) {
            work->is_asked_for_filter = false;
            send_filter(work, &message);
        }
        if (descriptor >= 0) {
            close(descriptor);
        }
    }
}

/* --- the process
 * ------------------------------------------------------------------------------------------- */

/* Keeps its sockets, and nothing that anybody could wait for. */
static bool part_from_all(struct work *work, const int *sockets)
{
    int moved[STEWARD_SOCKETS], null;

    for (int i = 0; i < STEWARD_SOCKETS; i++) { /* out of the way first */
        moved[i] = fcntl(sockets[i], F_DUPFD_CLOEXEC, FIRST_SOCKET + STEWARD_SOCKETS);
        if (moved[i] < 0) {
            return false;
        }
    }
    for (int i = 0; i < STEWARD_SOCKETS; i++) {
        work->sockets[i] = dup3(moved[i], FIRST_SOCKET + i, O_CLOEXEC);
        if (work->sockets[i] < 0) {
            return false;
        }
    }
    (void)close_range(FIRST_SOCKET + STEWARD_SOCKETS, ~0U, 0);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) {
        null = open("/", O_PATH | O_CLOEXEC);
    }
    return null >= 0 && dup2(null, STDIN_FILENO) == STDIN_FILENO &&
           dup2(null, STDOUT_FILENO) == STDOUT_FILENO &&
           dup2(null, STDERR_FILENO) == STDERR_FILENO && close(null) == 0;
}

static void ignore_signals(void)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE};

    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        signal(signals[i], SIG_IGN);
    }
}

void steward_run(const int sockets[STEWARD_SOCKETS], bool filters)
{
    struct work work = {.registry = -1};

    ignore_signals();
    (void)prctl(PR_SET_NAME, "qcow2fs-steward", 0, 0, 0); /* all that there is room for */
    setsid();
    if (part_from_all(&work, sockets) && chdir("/") == 0 && sem_init(&work.has_begun, 0, 0) == 0) {
        box_keep_to_mounts();
        if (filters) {
            memory_map_code();
            memory_map_heap();
            work.filter = box_filter_begin();
        }
        serve(&work);
        unmount_behind(&work);
    }
    _exit(EXIT_SUCCESS);
}
