/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/opener.h"

#include "store/open.h"
#include "store/opener_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of this process: set while it has one thread. */
static struct {
    pid_t process; /* 0: there is none */
    int socket;
    pthread_mutex_t mutex; /* a leaf: one question at a time, and its answer */
} opener = {.mutex = PTHREAD_MUTEX_INITIALIZER};

int opener_start(const struct opener_policy *policy)
{
    int ends[2];
    pid_t process;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        return -errno;
    }
    process = fork();
    if (process == 0) {
        opener_run(ends[1], policy);
    }
    close(ends[1]);
    if (process < 0) {
        int code = errno;

        close(ends[0]);
        return -code;
    }
    opener.process = process;
    opener.socket = ends[0];
    return 0;
}

void opener_stop(void)
{
    if (opener.process != 0) {
        close(opener.socket);
        while (waitpid(opener.process, NULL, 0) < 0 && errno == EINTR) {
        }
        opener.process = 0;
    }
}

/* --- questions -------------------------------------------------------------------------------- */

/* 0, with the descriptor that came along, or -1; -ECONNRESET where it is gone. */
static int hear(struct opener_answer *answer, int *descriptor)
{
    struct iovec part = {.iov_base = answer, .iov_len = sizeof(*answer)};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct msghdr header = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof(control.bytes),
    };
    const struct cmsghdr *found;
    ssize_t count;

    while ((count = recvmsg(opener.socket, &header, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {
    }
    if (count != sizeof(*answer)) {
        return count < 0 ? -errno : -ECONNRESET;
    }
    found = CMSG_FIRSTHDR(&header);
    if (found != NULL && found->cmsg_type == SCM_RIGHTS &&
        found->cmsg_len == CMSG_LEN(sizeof(int))) {
        memcpy(descriptor, CMSG_DATA(found), sizeof(*descriptor));
    }
    return 0;
}

static int say(const struct opener_question *question)
{
    ssize_t count;

    while ((count = send(opener.socket, question, sizeof(*question), MSG_NOSIGNAL)) < 0 &&
           errno == EINTR) {
    }
    return count < 0 ? -errno : 0;
}

/* The result that it answers, or a negative errno where it does not. *descriptor: or -1. */
static int ask(const struct opener_question *question, struct opener_answer *answer,
               int *descriptor)
{
    int result;

    *descriptor = -1;
    pthread_mutex_lock(&opener.mutex);
    result = say(question);
    if (result == 0) {
        result = hear(answer, descriptor);
    }
    pthread_mutex_unlock(&opener.mutex);
    return result == 0 ? answer->result : result;
}

static bool put(char *to, size_t size, const char *text)
{
    size_t length = strlen(text);

    if (length >= size) {
        return false;
    }
    memcpy(to, text, length + 1);
    return true;
}

/* What is asked of a path alone. */
static int ask_of(enum opener_kind kind, const char *path, struct opener_answer *answer,
                  int *descriptor)
{
    struct opener_question question = {.kind = kind};

    return put(question.path, sizeof(question.path), path) ? ask(&question, answer, descriptor)
                                                           : -ENAMETOOLONG;
}

static int ask_to_open(const char *path, const char *what, const struct store_file_options *options,
                       struct host_file *file, struct error *error)
{
    struct opener_question question = {
        .kind = OPENER_OPEN,
        .access = options->access,
        .cache = options->cache,
        .no_locks = options->no_locks,
    };
    struct opener_answer answer = {.result = 0};
    int descriptor, result;

    if (!put(question.path, sizeof(question.path), path) ||
        !put(question.what, sizeof(question.what), what) ||
        (options->named_by != NULL &&
         !put(question.named_by, sizeof(question.named_by), options->named_by))) {
        return error_set(error, ENAMETOOLONG, "%s: this %s cannot be opened: %s; check the path",
                         path, what, strerror(ENAMETOOLONG));
    }
    result = ask(&question, &answer, &descriptor);
    if (result == 0 && descriptor >= 0) {
        *file = (struct host_file){answer.status, answer.owners};
        return descriptor;
    }
    if (answer.error.code == 0) {
        return error_set(error, EIO,
                         "%s: this %s cannot be opened: the process that opens files for this one "
                         "has ended; try again, or with --sandbox=off",
                         path, what);
    }
    if (error != NULL) {
        *error = answer.error;
    }
    return result;
}

/* --- or without ---------------------------------------------------------------------------------
 */

int host_file_open(const char *path, const char *what, const struct store_file_options *options,
                   struct host_file *file, struct error *error)
{
    return opener.process != 0 ? ask_to_open(path, what, options, file, error)
                               : host_file_open_here(path, what, options, file, error);
}

int opener_stat(const char *path, struct stat *status)
{
    struct opener_answer answer;
    int descriptor, result;

    if (opener.process == 0) {
        return stat(path, status) == 0 ? 0 : -errno;
    }
    result = ask_of(OPENER_STAT, path, &answer, &descriptor);
    if (result == 0) {
        *status = answer.status;
    }
    return result;
}

char *opener_real_path(const char *path)
{
    struct opener_answer answer;
    int descriptor, result;

    if (opener.process == 0) {
        return realpath(path, NULL);
    }
    result = ask_of(OPENER_REAL_PATH, path, &answer, &descriptor);
    if (result != 0) {
        errno = -result;
        return NULL;
    }
    return strdup(answer.text);
}

ssize_t opener_read_link(const char *path, char *target, size_t size)
{
    struct opener_answer answer;
    int descriptor;

    if (opener.process == 0) {
        ssize_t length = readlink(path, target, size - 1);

        if (length >= 0) {
            target[length] = '\0';
        }
        return length;
    }
    if (ask_of(OPENER_READ_LINK, path, &answer, &descriptor) != 0) {
        return -1;
    }
    (void)put(target, size, answer.text);
    return (ssize_t)strlen(answer.text);
}

int opener_make(const char *path)
{
    struct opener_answer answer;
    int descriptor, result;

    if (opener.process == 0) {
        descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        return descriptor >= 0 ? descriptor : -errno;
    }
    result = ask_of(OPENER_MAKE, path, &answer, &descriptor);
    return result == 0 && descriptor < 0 ? -ECONNRESET : result == 0 ? descriptor : result;
}

int opener_replace(const char *path, const char *becomes)
{
    struct opener_answer answer;
    int descriptor;

    return opener.process != 0          ? ask_of(OPENER_REPLACE, path, &answer, &descriptor)
           : rename(path, becomes) == 0 ? 0
                                        : -errno;
}

int opener_remove(const char *path)
{
    struct opener_answer answer;
    int descriptor;

    return opener.process != 0 ? ask_of(OPENER_REMOVE, path, &answer, &descriptor)
           : unlink(path) == 0 ? 0
                               : -errno;
}
