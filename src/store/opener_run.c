/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/open.h"
#include "store/opener_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define STANDARD   3    /* descriptors that every process has */
#define OPENED_MAX 4096 /* files; no chain has as many */

/* A file that was opened: what it names later is opened with the rights of its owners. */
struct opened {
    char *path;
    struct owners owners;
};

struct process {
    int socket; /* to who asks */
    const struct opener_policy *policy;
    struct opened *opened; /* room for OPENED_MAX */
    size_t count;
    uint64_t made; /* a bit for each of policy->makes: it is there, and was made here */
};

/* --- what is allowed -------------------------------------------------------------------------- */

static bool has(const char *const *list, const char *path)
{
    for (; *list != NULL; list++) {
        if (strcmp(*list, path) == 0) {
            return true;
        }
    }
    return false;
}

static const struct opened *find_opened(const struct process *process, const char *path)
{
    for (size_t i = process->count; i > 0; i--) {
        if (strcmp(process->opened[i - 1].path, path) == 0) {
            return &process->opened[i - 1];
        }
    }
    return NULL;
}

static bool remember(struct process *process, const char *path, const struct owners *owners)
{
    char *copy = process->count < OPENED_MAX ? strdup(path) : NULL;

    if (copy == NULL) {
        return false;
    }
    process->opened[process->count++] = (struct opened){copy, *owners};
    return true;
}

/* Whether it is opened, and how. What is asked for can be no more than that. */
static bool judge(const struct process *process, const struct opener_question *question,
                  struct store_file_options *options)
{
    const struct opener_policy *policy = process->policy;
    const struct opened *by;

    *options = (struct store_file_options){
        .access = (enum store_access)question->access,
        .cache = (enum store_cache)question->cache,
        .no_locks = question->no_locks != 0,
    };
    if (options->access != STORE_READ && options->access != STORE_READ_SHARED) {
        return false;
    }
    if (question->named_by[0] == '\0') {
        return has(policy->given, question->path);
    }
    by = find_opened(process, question->named_by);
    if (!policy->follows || (by == NULL && !policy->trusts)) {
        return false;
    }
    options->named_by = question->named_by;
    options->beneath = policy->beneath;
    if (!policy->trusts) {
        options->led_by = &by->owners;
        options->as_owners = true;
    }
    return true;
}

/* --- work ---------------------------------------------------------------------------------------
 */

/* Each answers with a descriptor, or a negative errno, or -1 and a result. */
static int open_file(struct process *process, const struct opener_question *question,
                     struct opener_answer *answer)
{
    struct store_file_options options;
    struct host_file file = {0};
    int descriptor;

    if (!judge(process, question, &options)) {
        answer->result = error_set(&answer->error, EPERM,
                                   "%s: this %s is not opened by a command that only reads what "
                                   "was named to it",
                                   question->path, question->what);
        return -1;
    }
    descriptor =
        host_file_open_here(question->path, question->what, &options, &file, &answer->error);
    answer->status = file.status;
    answer->owners = file.owners;
    if (descriptor >= 0 && !remember(process, question->path, &file.owners)) {
        close(descriptor);
        descriptor =
            error_set(&answer->error, EMFILE, "%s: too many files were opened", question->path);
    }
    answer->result = descriptor < 0 ? descriptor : 0;
    return descriptor;
}

/* What the user named to be made; NULL. */
static const struct opener_new *find_new(const struct process *process, const char *path)
{
    const struct opener_new *found = process->policy->makes;

    while (found->path != NULL && strcmp(found->path, path) != 0) {
        found++;
    }
    return found->path != NULL ? found : NULL;
}

/* Nobody names more than 64. */
static uint64_t bit_of(const struct process *process, const struct opener_new *named)
{
    size_t number = (size_t)(named - process->policy->makes);

    return number < 64 ? UINT64_C(1) << number : 0;
}

static int make_file(struct process *process, const struct opener_question *question,
                     struct opener_answer *answer)
{
    const struct opener_new *wanted = find_new(process, question->path);
    int descriptor = -1;

    if (wanted != NULL) {
        descriptor = open(question->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        answer->result = descriptor < 0 ? -errno : 0;
    } else {
        answer->result = -EPERM;
    }
    if (descriptor >= 0) {
        process->made |= bit_of(process, wanted);
    }
    return descriptor;
}

/* Nothing that was there before: what was made here, and only where it may get another name. */
static int end_file(struct process *process, const struct opener_question *question)
{
    const struct opener_new *made = find_new(process, question->path);

    if (made == NULL || made->becomes == NULL || (process->made & bit_of(process, made)) == 0) {
        return -EPERM;
    }
    process->made &= ~bit_of(process, made);
    return (question->kind == OPENER_REPLACE ? rename(made->path, made->becomes)
                                             : unlink(made->path)) == 0
               ? 0
               : -errno;
}

static void look(const struct opener_question *question, struct opener_answer *answer)
{
    const char *path = question->path;
    ssize_t length;

    switch (question->kind) {
    case OPENER_STAT:
        answer->result = stat(path, &answer->status) == 0 ? 0 : -errno;
        break;
    case OPENER_REAL_PATH: /* of at most PATH_MAX bytes */
        answer->result = realpath(path, answer->text) != NULL ? 0 : -errno;
        break;
    case OPENER_READ_LINK:
        length = readlink(path, answer->text, sizeof(answer->text) - 1);
        answer->result = length >= 0 ? 0 : -errno;
        break;
    default:
        answer->result = -EINVAL;
        break;
    }
}

/* --- messages -----------------------------------------------------------------------------------
 */

static void say(const struct process *process, const struct opener_answer *answer, int descriptor)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)answer, .iov_len = sizeof(*answer)};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

    if (descriptor >= 0) {
        header.msg_control = control.bytes;
        header.msg_controllen = sizeof(control.bytes);
        CMSG_FIRSTHDR(&header)->cmsg_level = SOL_SOCKET;
        CMSG_FIRSTHDR(&header)->cmsg_type = SCM_RIGHTS;
        CMSG_FIRSTHDR(&header)->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header)), &descriptor, sizeof(descriptor));
    }
    while (sendmsg(process->socket, &header, MSG_NOSIGNAL) < 0 && errno == EINTR) {
    }
}

static bool ends(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

/* False at the end: who asks is gone, or says what nobody says. */
static bool hear(const struct process *process, struct opener_question *question)
{
    ssize_t count;

    while ((count = recv(process->socket, question, sizeof(*question), 0)) < 0 && errno == EINTR) {
    }
    return count == sizeof(*question) && ends(question->what, sizeof(question->what)) &&
           ends(question->path, sizeof(question->path)) &&
           ends(question->named_by, sizeof(question->named_by));
}

/* The locks belong to the description, which who asked has from then on alone. */
static void serve(struct process *process, const struct opener_question *question)
{
    struct opener_answer answer = {.result = 0};
    int descriptor = -1;

    if (question->kind == OPENER_OPEN) {
        descriptor = open_file(process, question, &answer);
    } else if (question->kind == OPENER_MAKE) {
        descriptor = make_file(process, question, &answer);
    } else if (question->kind == OPENER_REPLACE || question->kind == OPENER_REMOVE) {
        answer.result = end_file(process, question);
    } else {
        look(question, &answer);
    }
    say(process, &answer, descriptor);
    if (descriptor >= 0) {
        close(descriptor);
    }
}

/* Whether it is what the user named: /dev/stdin and /dev/fd/5 are names, too. */
static bool is_given(const struct opener_policy *policy, int descriptor)
{
    struct stat own, given;

    if (fstat(descriptor, &own) != 0) {
        return false;
    }
    for (const char *const *path = policy->given; *path != NULL; path++) {
        if (stat(*path, &given) == 0 && given.st_dev == own.st_dev && given.st_ino == own.st_ino) {
            return true;
        }
    }
    return false;
}

/* Standard descriptors stay taken, so that no file gets their number. */
static void part_from(int descriptor, int nothing)
{
    if (descriptor < STANDARD) {
        (void)dup2(nothing, descriptor);
    } else {
        close(descriptor);
    }
}

static void part_from_ungiven(const struct process *process, DIR *own, int nothing)
{
    const struct dirent *entry;

    while ((entry = readdir(own)) != NULL) {
        int descriptor = atoi(entry->d_name);

        if (entry->d_name[0] != '.' && descriptor != dirfd(own) && descriptor != nothing &&
            descriptor != process->socket && !is_given(process->policy, descriptor)) {
            part_from(descriptor, nothing);
        }
    }
}

/*
 * Has nothing but the socket, and what the user named: whoever waits for the end of any other pipe
 * waits for the other process.
 */
static void part_from_all(const struct process *process)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    DIR *own = opendir("/proc/self/fd");

    if (nothing < 0) {
        nothing = open("/", O_PATH | O_CLOEXEC);
    }
    if (own != NULL) {
        part_from_ungiven(process, own, nothing);
        closedir(own);
    } else { /* no descriptor has a name */
        unsigned socket = (unsigned)process->socket;

        for (unsigned i = 0; i < STANDARD; i++) {
            if (i != socket) {
                (void)dup2(nothing, (int)i);
            }
        }
        if (socket > STANDARD) {
            (void)close_range(STANDARD, socket - 1, 0);
        }
        (void)close_range(socket < STANDARD ? STANDARD : socket + 1, ~0U, 0);
    }
    if (nothing >= STANDARD) {
        close(nothing);
    }
}

void opener_run(int socket, const struct opener_policy *policy)
{
    struct process process = {
        .socket = socket,
        .policy = policy,
        .opened = calloc(OPENED_MAX, sizeof(*process.opened)),
    };
    struct opener_question question;

    part_from_all(&process);
    (void)prctl(PR_SET_NAME, "qcow2ctl-opener");
    while (process.opened != NULL && hear(&process, &question)) {
        serve(&process, &question);
    }
    /* Before the other one can know of the end: nothing of the host is in use then. */
    _exit(chdir("/") == 0 ? 0 : 1);
}
