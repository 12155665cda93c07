/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/nbdkit.h"

#include "store/nbdkit_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define BACKLOG     16
#define END_MS      10000 /* for which the end of one is waited for */
#define ANSWER_MS   2000
#define FIXED_WORDS 3 /* before the user's */

struct server {
    char *address;
    int control; /* the keeper's socket */
    int place;   /* what the name of the socket led to */
    char uri[64];
    struct server *next;
};

/* Of this process: changed while it has one thread. */
static struct server *servers;
static struct {
    bool all;
    const char *address; /* or NULL */
} allowed;

bool nbdkit_is_address(const char *name)
{
    return strncmp(name, NBDKIT_SCHEME, strlen(NBDKIT_SCHEME)) == 0;
}

void nbdkit_allow(const char *address)
{
    if (address == NULL) {
        allowed.all = true;
    } else {
        allowed.address = address;
    }
}

int nbdkit_check_allowed(const char *address, struct error *error)
{
    if (allowed.all || (allowed.address != NULL && strcmp(allowed.address, address) == 0)) {
        return 0;
    }
    return error_set(
        error, EPERM,
        "%s: is an address of nbdkit, whose words would be run as a program; where "
        "that is meant, allow it with -o nbdkit (qcow2ctl: --nbdkit), and write ./NAME "
        "for a file of that name",
        address);
}

static struct server *find(const char *address)
{
    struct server *server = servers;

    while (server != NULL && strcmp(server->address, address) != 0) {
        server = server->next;
    }
    return server;
}

char *nbdkit_make_address(const char *words, const char *last)
{
    size_t size = strlen(NBDKIT_SCHEME) + strlen(words) + 1;
    char *address = malloc(size + (last != NULL ? 2 * strlen(last) + 3 : 0)), *at = address;

    if (address == NULL) {
        return NULL;
    }
    at += snprintf(address, size, "%s%s", NBDKIT_SCHEME, words);
    if (last != NULL) {
        at = stpcpy(at, last[0] == '-' ? " ./" : " ");
        for (; *last != '\0'; last++) {
            if (strchr(" \t\n\\'\"", *last) != NULL) {
                *at++ = '\\';
            }
            *at++ = *last;
        }
        *at = '\0';
    }
    return address;
}

/* --- words ------------------------------------------------------------------------------------ */

/*
 * The next word of *text, unquoted in place; NULL: there is none. *text is behind it then. A quote
 * that has no end, or a backslash with nothing behind it: *wrong.
 */
static char *next_word(char **text, bool *wrong)
{
    char *from = *text + strspn(*text, " \t\n"), *to = from, *word = from;
    char quote = '\0';

    if (*from == '\0') {
        return NULL;
    }
    for (; *from != '\0' && (quote != '\0' || strchr(" \t\n", *from) == NULL); from++) {
        if (quote == '\0' && (*from == '\'' || *from == '"')) {
            quote = *from;
        } else if (*from == quote) {
            quote = '\0';
        } else if (*from == '\\' && quote != '\'') {
            from++;
            if (*from == '\0') {
                *wrong = true;
                break;
            }
            *to++ = *from;
        } else {
            *to++ = *from;
        }
    }
    *wrong = *wrong || quote != '\0';
    *text = *from != '\0' ? from + 1 : from;
    *to = '\0';
    return word;
}

/* The command, for the caller to free with what its words lie in, the last one but NULL. */
static int make_words(const char *address, bool read_only, char ***words, char **text,
                      struct error *error)
{
    static char name[] = "nbdkit", foreground[] = "-f", reading[] = "-r";
    char *at, *word;
    size_t count = 0;
    bool wrong = false;

    *text = strdup(address + strlen(NBDKIT_SCHEME));
    /* There are no more words than letters. */
    *words = *text != NULL ? calloc(strlen(*text) + FIXED_WORDS + 1, sizeof(**words)) : NULL;
    if (*words == NULL) {
        free(*text);
        return error_set(error, ENOMEM, "%s: out of memory", address);
    }
    (*words)[count++] = name;
    (*words)[count++] = foreground;
    if (read_only) {
        (*words)[count++] = reading;
    }
    at = *text;
    word = next_word(&at, &wrong);
    if (word != NULL) {
        for (; word != NULL; word = next_word(&at, &wrong)) {
            (*words)[count++] = word;
        }
        if (!wrong) {
            return 0;
        }
    }
    free(*words);
    free(*text);
    return error_set(error, EINVAL, "%s: %s", address,
                     wrong ? "its words end within quotes, or with a backslash"
                           : "names no plugin of nbdkit; write nbdkit:PLUGIN, and what the plugin "
                             "wants behind it");
}

/* --- the socket --------------------------------------------------------------------------------
 */

/* Bound and listened to; *place: a descriptor of its name, which it has no longer. */
static int listen_unnamed(const char *directory, int *listening, int *place)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int length = snprintf(name.sun_path, sizeof(name.sun_path), "%s/socket", directory);
    int result = 0;

    *place = -1;
    *listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*listening < 0) {
        return -errno;
    }
    if (length < 0 || (size_t)length >= sizeof(name.sun_path)) {
        result = -ENAMETOOLONG;
    } else if (bind(*listening, (const struct sockaddr *)&name, sizeof(name)) != 0) {
        result = -errno;
    } else {
        *place = open(name.sun_path, O_PATH | O_CLOEXEC);
        result = *place < 0 || listen(*listening, BACKLOG) != 0 ? -errno : 0;
        (void)unlink(name.sun_path);
    }
    if (result < 0) {
        close(*listening);
        if (*place >= 0) {
            close(*place);
        }
    }
    return result;
}

static int make_socket(int *listening, int *place)
{
    const char *wanted = getenv("TMPDIR");
    const char *const parents[] = {wanted != NULL && wanted[0] == '/' ? wanted : "/tmp", "/tmp",
                                   "/dev/shm"};
    int result = -ENOENT;

    for (size_t i = 0; i < sizeof(parents) / sizeof(parents[0]) && result < 0; i++) {
        char directory[PATH_MAX];
        int length = snprintf(directory, sizeof(directory), "%s/qcow2fs-XXXXXX", parents[i]);

        if (length < 0 || (size_t)length >= sizeof(directory)) {
            result = -ENAMETOOLONG;
        } else if (mkdtemp(directory) == NULL) { /* which nobody else may look into */
            result = -errno;
        } else {
            result = listen_unnamed(directory, listening, place);
            (void)rmdir(directory);
        }
    }
    return result;
}

/* --- starting --------------------------------------------------------------------------------- */

/* What the keeper says of the start: 0, or a negative errno. */
static int hear_start(int control)
{
    keeper_start number;
    ssize_t count;

    while ((count = recv(control, &number, sizeof(number), 0)) < 0 && errno == EINTR) {
    }
    return count == sizeof(number) ? -number : -ECHILD;
}

/* A keeper, and under it nbdkit; *control: the socket that it lives by. */
static int start_keeper(char **words, int listening, int *control)
{
    int ends[2], result;
    pid_t keeper;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        return -errno;
    }
    keeper = fork();
    if (keeper == 0) {
        keeper_run(ends[1], listening, words);
    }
    result = keeper < 0 ? -errno : 0;
    close(ends[1]);
    if (result == 0) {
        result = hear_start(ends[0]);
    }
    if (result < 0) {
        close(ends[0]);
        if (keeper > 0) {
            while (waitpid(keeper, NULL, 0) < 0 && errno == EINTR) {
            }
        }
    }
    *control = ends[0];
    return result;
}

static int start_nbdkit(struct server *server, bool read_only, struct error *error)
{
    char **words, *text;
    int listening, result = make_words(server->address, read_only, &words, &text, error);

    if (result < 0) {
        return result;
    }
    result = make_socket(&listening, &server->place);
    if (result < 0) {
        error_set(error, -result, "%s: no socket for nbdkit can be made in $TMPDIR or /tmp: %s",
                  server->address, strerror(-result));
    } else {
        result = start_keeper(words, listening, &server->control);
        close(listening);
        if (result < 0) {
            close(server->place);
            error_set(error, -result,
                      result == -ENOENT
                          ? "%s: the program nbdkit is not there; install it (Debian: "
                            "apt-get install nbdkit)"
                          : "%s: the program nbdkit cannot be started: %s",
                      server->address, strerror(-result));
        }
    }
    free(words);
    free(text);
    return result;
}

int nbdkit_start(const char *address, bool read_only, const char **server, struct error *error)
{
    struct server *made = find(address);
    int result = nbdkit_check_allowed(address, error);

    if (result < 0) {
        return result;
    }
    if (made != NULL) {
        *server = made->uri;
        return 0;
    }
    made = calloc(1, sizeof(*made));
    if (made == NULL || (made->address = strdup(address)) == NULL) {
        free(made);
        return error_set(error, ENOMEM, "%s: out of memory", address);
    }
    result = start_nbdkit(made, read_only, error);
    if (result < 0) {
        free(made->address);
        free(made);
        return result;
    }
    snprintf(made->uri, sizeof(made->uri), "nbd+unix:///?socket=/proc/self/fd/%d", made->place);
    made->next = servers;
    servers = made;
    *server = made->uri;
    return 0;
}

/* --- while it runs ---------------------------------------------------------------------------- */

static bool ask(const struct server *server, char question)
{
    ssize_t count;

    while ((count = send(server->control, &question, 1, MSG_NOSIGNAL)) < 0 && errno == EINTR) {
    }
    return count == 1;
}

/* Whether there is something to read, or the other end is closed, in so many milliseconds. */
static bool wait_for(int descriptor, int milliseconds)
{
    struct pollfd end = {.fd = descriptor, .events = POLLIN};
    int count;

    while ((count = poll(&end, 1, milliseconds)) < 0 && errno == EINTR) {
    }
    return count > 0;
}

void nbdkit_said(const char *address, char said[NBDKIT_SAID])
{
    const struct server *server = find(address);
    ssize_t count = 0;

    if (server != NULL && ask(server, KEEPER_SAID) && wait_for(server->control, ANSWER_MS)) {
        count = recv(server->control, said, NBDKIT_SAID - 1, 0);
    }
    said[count > 0 ? count : 0] = '\0';
}

void nbdkit_has_begun(const char *address)
{
    const struct server *server = find(address);

    if (server != NULL) {
        (void)ask(server, KEEPER_BEGUN);
    }
}

void nbdkit_stop(void)
{
    for (struct server *each = servers; each != NULL; each = each->next) {
        (void)shutdown(each->control, SHUT_WR);
    }
    while (servers != NULL) {
        struct server *server = servers;

        (void)wait_for(server->control, END_MS);
        close(server->control);
        close(server->place);
        servers = server->next;
        free(server->address);
        free(server);
    }
}
