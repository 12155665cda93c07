/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/steward.h"

#include "fuse/steward_internal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define END_MILLISECONDS 1000 /* for which its end is waited for */

/* The server's side. */
struct steward {
    int sockets[STEWARD_SOCKETS];
    pthread_mutex_t mutexes[STEWARD_SOCKETS]; /* one question at a time, and its answer */

    /* Of the main socket, under its mutex, until it is sealed. */
    unsigned owed; /* answers to what it was told that were not taken yet */
    int failure;   /* the first of them that was one */

    pid_t disk_thread;
};

static void close_all(const int *sockets)
{
    for (int i = 0; i < STEWARD_SOCKETS; i++) {
        close(sockets[i]);
    }
}

/* Both ends of each; of those that are made none is left after an error. */
static int make_sockets(int *ours, int *its)
{
    for (int i = 0; i < STEWARD_SOCKETS; i++) {
        int ends[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
            int code = errno;

            while (i-- > 0) {
                close(ours[i]);
                close(its[i]);
            }
            return -code;
        }
        ours[i] = ends[0];
        its[i] = ends[1];
    }
    return 0;
}

int steward_start(bool filters, struct steward **steward)
{
    struct steward *made = calloc(1, sizeof(*made));
    int its[STEWARD_SOCKETS], r;
    pid_t pid;

    r = made != NULL ? make_sockets(made->sockets, its) : -ENOMEM;
    if (r != 0) {
        free(made);
        return r;
    }
    pid = fork();
    if (pid == 0) {
        steward_run(its, filters);
    }
    r = -errno;
    close_all(its);
    if (pid < 0) {
        close_all(made->sockets);
        free(made);
        return r;
    }
    for (int i = 0; i < STEWARD_SOCKETS; i++) {
        pthread_mutex_init(&made->mutexes[i], NULL);
    }
    *steward = made;
    return 0;
}

/* --- questions
 * ------------------------------------------------------------------------------------ */

/* With a descriptor, or -1. */
static int put(int socket, const struct steward_message *message, size_t length, int descriptor)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)message, .iov_len = length};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t count;

    if (descriptor < 0) { /* in its box a process has no sendmsg(2) */
        while ((count = send(socket, message, length, MSG_NOSIGNAL)) < 0 && errno == EINTR) {
        }
        return count < 0 ? -errno : 0;
    }
    header.msg_control = control.bytes;
    header.msg_controllen = sizeof(control.bytes);
    CMSG_FIRSTHDR(&header)->cmsg_level = SOL_SOCKET;
    CMSG_FIRSTHDR(&header)->cmsg_type = SCM_RIGHTS;
    CMSG_FIRSTHDR(&header)->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header)), &descriptor, sizeof(descriptor));
    while ((count = sendmsg(socket, &header, MSG_NOSIGNAL)) < 0 && errno == EINTR) {
    }
    return count < 0 ? -errno : 0;
}

/* Its answer; -ECONNRESET where it is gone. */
static int take(int socket)
{
    int32_t answer;
    ssize_t count;

    while ((count = recv(socket, &answer, sizeof(answer), 0)) < 0 && errno == EINTR) {
    }
    return count == sizeof(answer) ? answer : count < 0 ? -errno : -ECONNRESET;
}

/* Of all that it was told. The mutex of the main socket is held. */
static void take_what_is_owed(struct steward *steward)
{
    while (steward->owed > 0) {
        int answer = take(steward->sockets[STEWARD_MAIN]);

        steward->owed--;
        if (answer > 0) { /* see STEWARD_DISK: nothing else has such an answer */
            steward->disk_thread = answer;
        } else if (steward->failure == 0) {
            steward->failure = answer;
        }
    }
}

/* With the text in its place; with a descriptor, or -1. The mutex of the socket is held. */
static int put_with(struct steward *steward, enum steward_socket socket,
                    struct steward_message *message, const char *text, int descriptor)
{
    size_t length = strlen(text) + 1;

    if (length > sizeof(message->text)) {
        return -ENAMETOOLONG;
    }
    memcpy(message->text, text, length);
    return put(steward->sockets[socket], message, offsetof(struct steward_message, text) + length,
               descriptor);
}

static int ask_with(struct steward *steward, enum steward_socket socket,
                    struct steward_message *message)
{
    int r;

    pthread_mutex_lock(&steward->mutexes[socket]);
    if (socket == STEWARD_MAIN) {
        take_what_is_owed(steward);
    }
    r = put_with(steward, socket, message, "", -1);
    r = r == 0 ? take(steward->sockets[socket]) : r;
    pthread_mutex_unlock(&steward->mutexes[socket]);
    return r;
}

static int ask(struct steward *steward, enum steward_socket socket, enum steward_work work)
{
    struct steward_message message = {.work = work};

    return ask_with(steward, socket, &message);
}

/* It may be at something else: what it says to this is heard when it is sealed. */
static int tell(struct steward *steward, struct steward_message *message, const char *text,
                int descriptor)
{
    int r;

    pthread_mutex_lock(&steward->mutexes[STEWARD_MAIN]);
    r = put_with(steward, STEWARD_MAIN, message, text, descriptor);
    steward->owed += r == 0;
    pthread_mutex_unlock(&steward->mutexes[STEWARD_MAIN]);
    return r;
}

int steward_tell_image(struct steward *steward, const char *path)
{
    struct steward_message message = {.work = STEWARD_IMAGE};

    return tell(steward, &message, path, -1);
}

int steward_tell_mount(struct steward *steward, const char *path, dev_t device, bool unmounts)
{
    struct steward_message message = {
        .work = STEWARD_MOUNT, .device = device, .unmounts = unmounts};

    return tell(steward, &message, path, -1);
}

int steward_tell_disk(struct steward *steward, const char *path, ino_t inode)
{
    struct steward_message message = {.work = STEWARD_DISK, .inode = inode};

    return tell(steward, &message, path, -1);
}

int steward_tell_pid_file(struct steward *steward, const char *path)
{
    struct steward_message message = {.work = STEWARD_PID_FILE, .server = getpid()};

    return tell(steward, &message, path, -1);
}

int steward_tell_registry(struct steward *steward, const struct registry_entry *entry)
{
    struct steward_message message = {.work = STEWARD_REGISTRY};

    return tell(steward, &message, registry_name(entry), registry_directory(entry));
}

int steward_seal(struct steward *steward, const struct box_needs *needs)
{
    struct steward_message message = {.work = STEWARD_SEAL, .server = getpid()};
    int r;

    if (needs != NULL) {
        message.filters = true;
        message.opens = box_has_landlock();
        message.needs = *needs;
        message.needs.read = NULL;
    }
    r = ask_with(steward, STEWARD_MAIN, &message);
    return r != 0 ? r : steward->failure;
}

size_t steward_take_filter(void *steward, struct sock_filter *program)
{
    struct steward *asked = steward;
    ssize_t count;

    while ((count = recv(asked->sockets[STEWARD_MAIN], program, BOX_PROGRAM_MAX * sizeof(*program),
                         0)) < 0 &&
           errno == EINTR) {
    }
    return count > 0 && count % sizeof(*program) == 0 ? (size_t)count / sizeof(*program) : 0;
}

pid_t steward_disk_thread(const struct steward *steward)
{
    return steward->disk_thread;
}

/* Where there is no disk to write nobody listens at these sockets. */
static int ask_of_disk(struct steward *steward, enum steward_socket socket,
                       struct steward_message *message)
{
    return steward->disk_thread != 0 ? ask_with(steward, socket, message) : -ENXIO;
}

int steward_sync_disk(struct steward *steward)
{
    struct steward_message message = {.work = STEWARD_SYNC};

    return ask_of_disk(steward, STEWARD_SYNCS, &message);
}

int steward_sync_above_disk(struct steward *steward)
{
    struct steward_message message = {.work = STEWARD_SYNC_ABOVE};

    return ask_of_disk(steward, STEWARD_SYNCS, &message);
}

int steward_restore_size(struct steward *steward)
{
    struct steward_message message = {.work = STEWARD_SIZE};

    return ask_of_disk(steward, STEWARD_ATTRIBUTES, &message);
}

int steward_set_times(struct steward *steward, const struct timespec times[2])
{
    struct steward_message message = {.work = STEWARD_TIMES, .times = {times[0], times[1]}};

    return ask_of_disk(steward, STEWARD_ATTRIBUTES, &message);
}

bool steward_sees_abort(struct steward *steward)
{
    return ask(steward, STEWARD_MAIN, STEWARD_ABORTED) == 1;
}

int steward_unmount(struct steward *steward)
{
    return ask(steward, STEWARD_MAIN, STEWARD_UNMOUNT);
}

int steward_remove_pid_file(struct steward *steward)
{
    return ask(steward, STEWARD_MAIN, STEWARD_REMOVE_PID_FILE);
}

int steward_remove_registry(struct steward *steward)
{
    return ask(steward, STEWARD_MAIN, STEWARD_REMOVE_REGISTRY);
}

/* It has no answer, so it may come between a question and its own. */
int steward_log(struct steward *steward, int priority, const char *line)
{
    struct steward_message message = {.work = STEWARD_LOG, .priority = priority};
    size_t length = strnlen(line, sizeof(message.text) - 1);

    memcpy(message.text, line, length);
    message.text[length] = '\0';
    message.server = getpid();
    return put(steward->sockets[STEWARD_MAIN], &message,
               offsetof(struct steward_message, text) + length + 1, -1);
}

void steward_stop(struct steward *steward)
{
    struct steward_message message = {.work = STEWARD_END};
    struct pollfd end;

    if (steward == NULL) {
        return;
    }
    (void)put_with(steward, STEWARD_MAIN, &message, "", -1);
    for (int i = 0; i < STEWARD_SOCKETS; i++) {
        (void)shutdown(steward->sockets[i], SHUT_WR);
    }
    take_what_is_owed(steward); /* nobody else asks any more */
    /* Its last descriptor of the socket goes with its process. */
    end = (struct pollfd){.fd = steward->sockets[STEWARD_MAIN], .events = POLLIN};
    while (poll(&end, 1, END_MILLISECONDS) < 0 && errno == EINTR) {
    }
    close_all(steward->sockets);
    for (int i = 0; i < STEWARD_SOCKETS; i++) {
        pthread_mutex_destroy(&steward->mutexes[i]);
    }
    free(steward);
}
