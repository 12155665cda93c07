/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/nbdkit_internal.h"

#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#define CONTROL   3 /* behind the standard descriptors */
#define LISTENING 4
#define ACTIVATED 3 /* where a server that is given a socket looks for it: sd_listen_fds(3) */

#define PATIENCE_MS 5000 /* that nbdkit has to end by itself */

struct keeper {
    pid_t nbdkit;
    bool has_ended;
    bool has_begun;         /* what it says goes to syslog */
    int messages;           /* its standard error; -1: at its end */
    int ended;              /* a signalfd of SIGCHLD */
    struct log log;         /* to syslog */
    char line[NBDKIT_SAID]; /* that has no end yet */
    size_t length;
    char said[NBDKIT_SAID]; /* the last line that tells of an error, or the last one */
    bool said_is_error;
};

/* --- nbdkit ------------------------------------------------------------------------------------
 */

static void to_syslog(void *context, enum log_level level, const char *line)
{
    (void)context;
    (void)level;
    syslog(LOG_WARNING, "%s", line);
}

/*
 * All signals as they are by default, but that to end: who stops a service by a signal to each of
 * its processes means us, and we still write. It is ended by another one.
 */
static void reset_signals(void)
{
    sigset_t blocked;

    for (int number = 1; number < NSIG; number++) {
        signal(number, SIG_DFL);
    }
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
}

/* In the new process: nbdkit, or the errno of what keeps it from running is written to `failed`. */
static _Noreturn void become_nbdkit(char **words, int messages, int failed)
{
    char self[24];
    int code;

    snprintf(self, sizeof(self), "%ld", (long)getpid());
    /* Without O_CLOEXEC; CONTROL, in whose place it comes, is not for nbdkit. */
    if (dup2(messages, STDERR_FILENO) == STDERR_FILENO && dup2(LISTENING, ACTIVATED) == ACTIVATED &&
        setenv("LISTEN_PID", self, 1) == 0 && setenv("LISTEN_FDS", "1", 1) == 0 &&
        unsetenv("LISTEN_FDNAMES") == 0) {
        reset_signals();
        execvp(words[0], words);
    }
    code = errno;
    (void)!write(failed, &code, sizeof(code));
    _exit(EXIT_FAILURE);
}

/* 0, or the errno of what keeps it from running. */
static int start(struct keeper *keeper, char **words)
{
    int messages[2], failed[2], code = 0;
    ssize_t count;

    if (pipe2(messages, O_CLOEXEC) != 0 || pipe2(failed, O_CLOEXEC) != 0) {
        return errno;
    }
    keeper->nbdkit = fork();
    if (keeper->nbdkit == 0) {
        become_nbdkit(words, messages[1], failed[1]);
    }
    code = keeper->nbdkit < 0 ? errno : 0;
    close(messages[1]);
    close(failed[1]);
    close(LISTENING); /* who connects when nbdkit has ended is refused */
    keeper->messages = messages[0];
    (void)fcntl(keeper->messages, F_SETFL, O_NONBLOCK);
    while (code == 0 && (count = read(failed[0], &code, sizeof(code))) < 0 && errno == EINTR) {
    }
    close(failed[0]);
    return code;
}

/* --- what it says -------------------------------------------------------------------------------
 */

static void take_line(struct keeper *keeper)
{
    static const char name[] = "nbdkit: ";
    const char *line = keeper->line;
    bool is_error;

    keeper->line[keeper->length] = '\0';
    is_error = strstr(line, "error: ") != NULL;
    if (is_error || !keeper->said_is_error) {
        line += strncmp(line, name, strlen(name)) == 0 ? strlen(name) : 0;
        memcpy(keeper->said, line, strlen(line) + 1);
        keeper->said_is_error = is_error;
    }
    if (keeper->has_begun) {
        log_limited(&keeper->log, LOG_LEVEL_WARNING, "%s", keeper->line);
    }
    keeper->length = 0;
}

/* All that there is to read now. A line that is too long is cut. */
static void take_messages(struct keeper *keeper)
{
    char bytes[4096];
    ssize_t count;

    while (keeper->messages >= 0) {
        count = read(keeper->messages, bytes, sizeof(bytes));
        if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        for (ssize_t i = 0; i < count; i++) {
            if (bytes[i] == '\n') {
                take_line(keeper);
            } else if (keeper->length < sizeof(keeper->line) - 1 && bytes[i] != '\0') {
                keeper->line[keeper->length++] = bytes[i];
            }
        }
        if (count <= 0) {
            close(keeper->messages);
            keeper->messages = -1;
        }
    }
}

/* --- its end ------------------------------------------------------------------------------------
 */

static void look_for_end(struct keeper *keeper)
{
    struct signalfd_siginfo signals[8];

    (void)!read(keeper->ended, signals, sizeof(signals));
    if (!keeper->has_ended && waitpid(keeper->nbdkit, NULL, WNOHANG) == keeper->nbdkit) {
        keeper->has_ended = true;
    }
}

static void end_nbdkit(struct keeper *keeper)
{
    struct pollfd end = {.fd = keeper->ended, .events = POLLIN};

    look_for_end(keeper);
    if (!keeper->has_ended) {
        (void)kill(keeper->nbdkit, SIGINT);
        (void)poll(&end, 1, PATIENCE_MS);
        look_for_end(keeper);
    }
    if (!keeper->has_ended) {
        (void)kill(keeper->nbdkit, SIGKILL);
        (void)waitpid(keeper->nbdkit, NULL, 0);
    }
}

/* --- the process --------------------------------------------------------------------------------
 */

/* False: nobody is there to ask any more. */
static bool answer(struct keeper *keeper)
{
    char question;
    ssize_t count;

    while ((count = recv(CONTROL, &question, 1, 0)) < 0 && errno == EINTR) {
    }
    if (count != 1) {
        return false;
    }
    if (question == KEEPER_SAID) {
        take_messages(keeper);
        while (send(CONTROL, keeper->said, strlen(keeper->said) + 1, MSG_NOSIGNAL) < 0 &&
               errno == EINTR) {
        }
    } else if (question == KEEPER_BEGUN) {
        keeper->has_begun = true;
    }
    return true;
}

static void serve(struct keeper *keeper)
{
    bool goes_on = true;

    while (goes_on) {
        struct pollfd events[] = {
            {.fd = CONTROL, .events = POLLIN},
            {.fd = keeper->messages, .events = POLLIN},
            {.fd = keeper->ended, .events = POLLIN},
        };

        if (poll(events, 3, -1) < 0 && errno != EINTR) {
            return;
        }
        take_messages(keeper);
        if (events[2].revents != 0) {
            look_for_end(keeper);
        }
        if (events[0].revents != 0) {
            goes_on = answer(keeper);
        }
    }
}

/* Keeps both sockets, and nothing that anybody could wait for. */
static bool part_from_all(int control, int listening)
{
    int first = fcntl(control, F_DUPFD_CLOEXEC, LISTENING + 1); /* out of the way */
    int second = fcntl(listening, F_DUPFD_CLOEXEC, LISTENING + 1);
    int null;

    if (first < 0 || second < 0 || dup3(first, CONTROL, O_CLOEXEC) < 0 ||
        dup3(second, LISTENING, O_CLOEXEC) < 0) {
        return false;
    }
    (void)close_range(LISTENING + 1, ~0U, 0);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    return null >= 0 && dup2(null, STDIN_FILENO) == STDIN_FILENO &&
           dup2(null, STDOUT_FILENO) == STDOUT_FILENO &&
           dup2(null, STDERR_FILENO) == STDERR_FILENO && close(null) == 0;
}

/* No signal meets it but by ->ended. */
static bool block_signals(struct keeper *keeper)
{
    sigset_t all, child;

    sigfillset(&all);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    signal(SIGCHLD, SIG_DFL);
    keeper->ended = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    return sigprocmask(SIG_SETMASK, &all, NULL) == 0 && keeper->ended >= 0;
}

void keeper_run(int control, int listening, char **words)
{
    struct keeper keeper = {.messages = -1};
    keeper_start number = ECHILD;

    setsid();
    (void)prctl(PR_SET_NAME, "qcow2fs-nbdkit");
    if (!part_from_all(control, listening)) {
        _exit(EXIT_FAILURE);
    }
    if (block_signals(&keeper)) {
        openlog("qcow2fs-nbdkit", 0, LOG_DAEMON);
        log_init(&keeper.log, to_syslog, NULL);
        number = start(&keeper, words);
    }
    while (send(CONTROL, &number, sizeof(number), MSG_NOSIGNAL) < 0 && errno == EINTR) {
    }
    if (number == 0) {
        (void)!chdir("/"); /* nbdkit stays where it is: there relative names mean something */
        serve(&keeper);
        end_nbdkit(&keeper);
    }
    _exit(EXIT_SUCCESS);
}
