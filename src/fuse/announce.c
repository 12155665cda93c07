/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/announce.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* --- the service manager ------------------------------------------------------- */

/* False for a name that can be no socket's. A name that begins with @ is abstract. */
static bool make_address(const char *name, struct sockaddr_un *address, socklen_t *length)
{
    size_t size = strlen(name);

    if ((name[0] != '/' && name[0] != '@') || size >= sizeof(address->sun_path)) {
        return false;
    }
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->sun_path, name, size);
    if (name[0] == '@') {
        address->sun_path[0] = '\0';
    }
    *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
    return true;
}

/* While a socket can still be made. It is for the manager to notice that it is not told. */
static int connect_to_manager(void)
{
    const char *name = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address;
    socklen_t length;
    int descriptor;

    if (name == NULL || !make_address(name, &address, &length)) {
        return -1;
    }
    descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (descriptor >= 0 && connect(descriptor, (const struct sockaddr *)&address, length) != 0) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

static void notify(const struct announce *announce, const char *text)
{
    while (announce->manager >= 0 &&
           send(announce->manager, text, strlen(text), MSG_NOSIGNAL) < 0 && errno == EINTR) {
    }
}

/* --- the beginning ------------------------------------------------------------------ */

int announce_begin(struct announce *announce, const char *pid_file, int descriptor, bool foreground)
{
    char *directory = NULL;
    int length;

    *announce = (struct announce){.descriptor = descriptor, .manager = -1};
    if (foreground) {
        announce->manager = connect_to_manager();
    }
    if (descriptor >= 0) {
        (void)fcntl(descriptor, F_SETFD, FD_CLOEXEC);
    }
    if (pid_file == NULL) {
        return 0;
    }
    if (pid_file[0] != '/') {
        directory = getcwd(NULL, 0);
        if (directory == NULL) {
            return -errno;
        }
    }
    length = asprintf(&announce->pid_file, "%s%s%s", directory != NULL ? directory : "",
                      directory != NULL ? "/" : "", pid_file);
    free(directory);
    if (length < 0) {
        announce->pid_file = NULL;
        return -ENOMEM;
    }
    return 0;
}

/* --- the file ---------------------------------------------------------------- */

/* Whether nothing is lost when the file is gone: it has a number, as of a program before, or
 * nothing. */
static bool holds_a_number(int descriptor)
{
    char text[32];
    struct stat status;
    ssize_t length = read(descriptor, text, sizeof(text) - 1), digits = 0;

    if (length < 0 || fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode) ||
        status.st_size != length) {
        return false;
    }
    while (digits < length && text[digits] >= '0' && text[digits] <= '9') {
        digits++;
    }
    return digits == length || (digits == length - 1 && text[digits] == '\n');
}

/* 0; -EEXIST for a file that is something else. A link is replaced, whatever it leads to. */
static int check_place(const char *path)
{
    int descriptor = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    int result;

    if (descriptor < 0) {
        return errno == ENOENT || errno == ELOOP ? 0 : -errno;
    }
    result = holds_a_number(descriptor) ? 0 : -EEXIST;
    close(descriptor);
    return result;
}

/* Under another name, so that nobody reads half a number, and no link is followed. */
static int write_pid(const char *path, const char *temporary)
{
    int descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    int result = 0;

    if (descriptor < 0) {
        return -errno;
    }
    if (dprintf(descriptor, "%ld\n", (long)getpid()) < 0) {
        result = -errno;
    }
    if (close(descriptor) != 0 && result == 0) {
        result = -errno;
    }
    if (result == 0 && rename(temporary, path) != 0) {
        result = -errno;
    }
    if (result != 0) {
        (void)unlink(temporary);
    }
    return result;
}

int announce_pid(struct announce *announce, struct steward *steward, struct error *error)
{
    char *temporary;
    int result;

    if (announce->pid_file == NULL) {
        return 0;
    }
    if (asprintf(&temporary, "%s.%ld.new", announce->pid_file, (long)getpid()) < 0) {
        return error_set(error, ENOMEM, "out of memory for the mount");
    }
    result = check_place(announce->pid_file);
    if (result == 0) {
        result = write_pid(announce->pid_file, temporary);
    }
    free(temporary);
    announce->is_written = result == 0;
    if (result == 0) {
        announce->steward = steward;
        result = steward_tell_pid_file(steward, announce->pid_file);
    }
    if (result == -EEXIST) {
        return error_set(error, EEXIST,
                         "pid-file=%s: there is a file already that is more than a process's "
                         "number, and would be lost; name another one",
                         announce->pid_file);
    }
    return result == 0 ? 0
                       : error_set(error, -result, "pid-file=%s cannot be written: %s",
                                   announce->pid_file, strerror(-result));
}

void announce_remove(const char *pid_file, pid_t pid)
{
    int descriptor = open(pid_file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    char text[32] = "";

    if (descriptor >= 0) {
        if (read(descriptor, text, sizeof(text) - 1) < 0) {
            text[0] = '\0';
        }
        close(descriptor);
    }
    if (strtol(text, NULL, 10) == (long)pid) {
        (void)unlink(pid_file);
    }
}

/* --- the moments ----------------------------------------------------------------- */

void announce_ready(struct announce *announce)
{
    if (announce == NULL) {
        return;
    }
    if (announce->descriptor >= 0) {
        while (write(announce->descriptor, "\n", 1) < 0 && errno == EINTR) {
        }
        close(announce->descriptor);
        announce->descriptor = -1;
    }
    if (announce->manager >= 0) {
        char text[64];

        snprintf(text, sizeof(text), "READY=1\nMAINPID=%ld\n", (long)getpid());
        notify(announce, text);
    }
}

void announce_stopping(const struct announce *announce)
{
    notify(announce, "STOPPING=1\n");
}

void announce_end(struct announce *announce)
{
    if (announce->is_written) {
        (void)steward_remove_pid_file(announce->steward);
    }
    if (announce->manager >= 0) {
        close(announce->manager);
    }
    if (announce->descriptor >= 0) {
        close(announce->descriptor);
    }
    free(announce->pid_file);
    *announce = (struct announce){.descriptor = -1, .manager = -1};
}
