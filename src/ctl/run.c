/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGUMENTS_MAX 16 /* with the NULL */

/* An ordinary user's PATH often lacks the places of mkfs, mount helpers and the like. */

#define MORE_PATH ":/usr/local/sbin:/usr/sbin:/sbin"

/* The directory of this program, with the slash; false where it cannot be told. */
static bool own_directory(char *path, size_t size)
{
    ssize_t length = readlink("/proc/self/exe", path, size - 1);
    char *slash;

    if (length <= 0) {
        return false;
    }
    path[length] = '\0';
    slash = strrchr(path, '/');
    if (slash == NULL) {
        return false;
    }
    slash[1] = '\0';
    return true;
}

static void extend_path(void)
{
    const char *old = getenv("PATH");
    char *new;

    if (asprintf(&new, "%s%s", old != NULL ? old : "/usr/local/bin:/usr/bin:/bin", MORE_PATH) >=
        0) {
        setenv("PATH", new, 1);
        free(new);
    }
}

/* Ours come from beside us, so that a build tree and an installation each run their own. */
static void execute(const char *const words[])
{
    char path[4096 + 64];
    char *argv[ARGUMENTS_MAX];

    size_t count = 0;

    do { /* exec does not change them, and takes them all the same */
        memcpy(&argv[count], &words[count], sizeof(argv[0]));
    } while (words[count++] != NULL && count < ARGUMENTS_MAX);

    if (strncmp(argv[0], "qcow2", 5) == 0 && own_directory(path, 4096)) {
        strncat(path, argv[0], 63);
        execv(path, argv);
    }
    extend_path();
    execvp(argv[0], argv);
}

int run_find(const char *name)
{
    const char *path = getenv("PATH");
    char *all, *state = NULL;
    int result = -ENOENT;

    if (asprintf(&all, "%s%s", path != NULL ? path : "/usr/bin:/bin", MORE_PATH) < 0) {
        return -ENOMEM;
    }
    for (char *item = strtok_r(all, ":", &state); item != NULL;
         item = strtok_r(NULL, ":", &state)) {
        char *file;

        if (asprintf(&file, "%s/%s", item, name) < 0) {
            result = -ENOMEM;
            break;
        }
        result = access(file, X_OK) == 0 ? 0 : result;
        free(file);
        if (result == 0) {
            break;
        }
    }
    free(all);
    return result;
}

static void become(const char *const argv[], const int *keep, int output)
{
    sigset_t none;
    int nowhere;

    if (strcmp(argv[0], "qcow2fs") != 0) {
        /* What we were started with no daemon shall keep; qcow2fs may be told to open it. */
        (void)close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    }
    for (; keep != NULL && *keep >= 0; keep++) {
        (void)fcntl(*keep, F_SETFD, 0);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(nowhere >= 0 ? nowhere : output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    execute(argv);
    /* A directory of PATH that must not be entered makes execvp() say EACCES. */
    _exit(errno == ENOENT || run_find(argv[0]) == -ENOENT ? 127 : 126);
}

/* Up to the end, or what fits; the rest is read, too, so that nobody gets SIGPIPE. */
static void read_all(int descriptor, char *text, size_t size)
{
    size_t used = 0;

    for (;;) {
        char rest[512];
        bool full = used + 1 >= size;
        ssize_t count = full ? read(descriptor, rest, sizeof(rest))
                             : read(descriptor, text + used, size - 1 - used);

        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            break;
        }
        used += full ? 0 : (size_t)count;
    }
    text[used] = '\0';
}

/* A line without the "qcow2fs: " that the program put before it. */
static const char *without_name(const char *line, const char *program)
{
    size_t length = strlen(program);

    return strncmp(line, program, length) == 0 && strncmp(line + length, ": ", 2) == 0
               ? line + length + 2
               : line;
}

static void pass_on(struct log *log, const char *line, const char *program)
{
    if (log != NULL) {
        log_line(log, LOG_LEVEL_WARNING, "%s", without_name(line, program));
    }
}

static void log_lines(struct log *log, char *text, const char *program)
{
    char *state = NULL;

    for (char *line = strtok_r(text, "\n", &state); line != NULL;
         line = strtok_r(NULL, "\n", &state)) {
        pass_on(log, line, program);
    }
}

/* What a program says behind its sentence: more of it, or, if it is ours, the code. */
static void take_more(struct error *why, const char *line, const char *program)
{
    size_t used = strlen(why->text);
    int code;

    if (strcmp(program, "qcow2fs") == 0 && sscanf(line, ERROR_CODE_LINE, &code) == 1 && code > 0) {
        why->code = code;
        return;
    }
    line += strspn(line, " \t");
    used -= used > 0 && why->text[used - 1] == '.';
    snprintf(why->text + used, sizeof(why->text) - used, "; %s", line);
    used = strlen(why->text);
    if (why->text[used - 1] == '.') {
        why->text[used - 1] = '\0';
    }
}

/*
 * The last line that is no continuation of another (mount(8) indents these) is why, with what
 * continues it; the others are lines of the log. Where there is no log, the first one is, which no
 * usage text follows.
 */
static int explain(char *text, const char *program, int status, struct log *log,
                   struct error *error)
{
    struct error why = {0};
    char *state = NULL;

    if (WIFSIGNALED(status)) {
        return error_set(error, EIO, "%s: was ended by signal %d (%s)", program, WTERMSIG(status),
                         strsignal(WTERMSIG(status)));
    }
    for (char *line = strtok_r(text, "\n", &state); line != NULL;
         line = strtok_r(NULL, "\n", &state)) {
        if (why.code != 0 && log == NULL) {
            continue;
        }
        if (why.code != 0 && line[0] == ' ') {
            take_more(&why, line, program);
            continue;
        }
        if (why.code != 0) {
            pass_on(log, why.text, program);
        }
        error_set(&why, EIO, "%s", without_name(line, program));
    }
    return why.code != 0
               ? error_set(error, why.code, "%s", why.text)
               : error_set(error, EIO, "%s: ended with status %d", program, WEXITSTATUS(status));
}

int run_program(const char *const argv[], const int *keep, struct log *log, struct error *error)
{
    const char *program = argv[0];
    char text[ERROR_TEXT_MAX * 2];
    int ends[2], status;
    pid_t child;

    if (pipe2(ends, O_CLOEXEC) != 0) {
        return error_set(error, errno, "%s: cannot be run: %s", program, strerror(errno));
    }
    fflush(NULL);
    child = fork();
    if (child == 0) {
        become(argv, keep, ends[1]);
    }
    close(ends[1]);
    if (child < 0) {
        int code = errno;

        close(ends[0]);
        return error_set(error, code, "%s: cannot be run: %s", program, strerror(code));
    }
    read_all(ends[0], text, sizeof(text));
    close(ends[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        log_lines(log, text, program);
        return 0;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127 && text[0] == '\0') {
        return error_set(error, ENOENT, "%s: there is no such program", program);
    }
    return explain(text, program, status, log, error);
}
