/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/passing_mount.h"

#include "ctl/run.h"
#include "util/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

/* NULL with a sentence. */
static char *make_directory(struct error *error)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char *path;

    if (runtime == NULL || runtime[0] != '/' || access(runtime, W_OK) != 0) {
        runtime = "/tmp";
    }
    if (asprintf(&path, "%s/qcow2fs-mount.%ld.XXXXXX", runtime, (long)getpid()) < 0) {
        error_set(error, ENOMEM, "out of memory for the mount");
        return NULL;
    }
    if (mkdtemp(path) == NULL) {
        error_set(error, errno,
                  "%s: cannot be made: %s; set XDG_RUNTIME_DIR to a directory of "
                  "your own",
                  path, strerror(errno));
        free(path);
        return NULL;
    }
    return path;
}

/* A qcow2fs that has been started and had not mounted yet finds no directory then, or is met again.
 */
static void detach(char *path, struct log *log)
{
    const char *const argv[] = {"fusermount3", "-u", "-z", path, NULL};
    struct error error = {0};

    for (unsigned attempt = 0; attempt < 10; attempt++) {
        if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL) {
            (void)run_program(argv, NULL, NULL, &error);
        }
        if (rmdir(path) == 0 || errno != EBUSY) {
            return;
        }
    }
    log_line(log, LOG_LEVEL_WARNING, "%s: cannot be unmounted: %s", path, error.text);
}

/* Nothing but the end of the lifeline ends it, and it holds nothing open. */
static void wait_and_detach(int lifeline, char *path, struct log *log)
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
    char byte;

    (void)setsid();
    for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++) {
        signal(ignored[i], SIG_IGN);
    }
    if (dup2(lifeline, 3) == 3) {
        (void)close_range(4, ~0U, 0);
        lifeline = 3;
    }
    while (read(lifeline, &byte, 1) < 0 && errno == EINTR) {
    }
    detach(path, log);
}

int passing_mount_begin(struct passing_mount *passing, struct log *log, struct error *error)
{
    int ends[2];

    *passing = (struct passing_mount){.lifeline = -1, .guard = -1};
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return error_set(error, errno, "a pipe cannot be made: %s", strerror(errno));
    }
    passing->path = make_directory(error);
    if (passing->path == NULL) {
        close(ends[0]);
        close(ends[1]);
        return -error->code;
    }
    fflush(NULL);
    passing->guard = fork();
    if (passing->guard == 0) {
        close(ends[1]);
        wait_and_detach(ends[0], passing->path, log);
        _exit(0);
    }
    close(ends[0]);
    passing->lifeline = ends[1];
    if (passing->guard < 0) {
        int code = errno;

        passing_mount_end(passing, log);
        return error_set(error, code, "no process can be made: %s", strerror(code));
    }
    return 0;
}

void passing_mount_end(struct passing_mount *passing, struct log *log)
{
    int status = 0;

    if (passing->path == NULL) {
        return;
    }
    close(passing->lifeline);
    if (passing->guard > 0) {
        while (waitpid(passing->guard, &status, 0) < 0 && errno == EINTR) {
        }
    }
    if (passing->guard < 0 || !WIFEXITED(status)) {
        detach(passing->path, log);
    }
    free(passing->path);
    *passing = (struct passing_mount){.lifeline = -1, .guard = -1};
}
