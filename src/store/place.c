/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/place.h"

#include "store/kernel_files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FD_PATH_SIZE (sizeof("/proc/self/fd/") + 3 * sizeof(int))

/* The path of what a descriptor is of, for the caller to free; NULL where that is not known. */
static char *real_path(int fd)
{
    char self[FD_PATH_SIZE], path[PATH_MAX];
    ssize_t length;

    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    length = readlink(self, path, sizeof(path));
    return length > 0 && (size_t)length < sizeof(path) && path[0] == '/'
               ? strndup(path, (size_t)length)
               : NULL;
}

/* What of the absolute `path` is behind that of the directory; NULL where it is not in it. */
static const char *behind(const char *directory, const char *path)
{
    size_t length = strlen(directory);

    if (strncmp(path, directory, length) != 0 || (length > 1 && path[length] != '/')) {
        return NULL;
    }
    return path + length + strspn(path + length, "/");
}

/* For a kernel that cannot keep a name in a directory: whether what it led to lies there. */
static bool lies_beneath(int directory, int fd)
{
    char *above = real_path(directory), *path = real_path(fd);
    bool is = above != NULL && path != NULL && behind(above, path) != NULL;

    free(above);
    free(path);
    return is;
}

/* As openat(2) with O_PATH, by no link of /proc that stands for an open file. */
static int find_without_magic(int directory, const char *name, bool beneath)
{
    const struct open_how how = {
        .flags = O_PATH | O_CLOEXEC,
        .resolve = RESOLVE_NO_MAGICLINKS | (beneath ? RESOLVE_BENEATH : 0),
    };
    int fd;

    do {
        fd = (int)syscall(SYS_openat2, directory, name, &how, sizeof(how));
    } while (fd < 0 && (errno == EINTR || errno == EAGAIN));
    if (fd < 0 && (errno == ENOSYS || errno == EPERM)) { /* an old kernel, or a filter of calls */
        fd = openat(directory, name, O_PATH | O_CLOEXEC);
        if (fd >= 0 && beneath && !lies_beneath(directory, fd)) {
            close(fd);
            return -EXDEV;
        }
    }
    return fd >= 0 ? fd : -errno;
}

static int find(int directory, const char *name)
{
    int fd;

    do {
        fd = openat(directory, name, O_PATH | O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    return fd >= 0 ? fd : -errno;
}

/* Bytes of `path` that are the directory of `named_by`, and were not chosen by the image. */
static size_t directory_length(const char *path, const char *named_by)
{
    const char *slash = strrchr(named_by, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash - named_by) + 1;

    return strncmp(path, named_by, length) == 0 && path[length] != '/' ? length : 0;
}

/* The directory of the image (O_PATH), with *name what of `path` is to be looked up there. */
static int find_directory(const char *path, const struct place_naming *naming, const char **name)
{
    const char *slash = strrchr(naming->image, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash - naming->image) + 1;
    size_t skip = directory_length(path, naming->image);
    char *directory = length == 0 ? strdup(".") : strndup(naming->image, length), *real;
    int fd;

    if (directory == NULL) {
        return -ENOMEM;
    }
    fd = skip < length && path[0] != '/' ? -EXDEV : find(AT_FDCWD, directory);
    free(directory);
    *name = path + skip;
    if (fd >= 0 && **name == '/') {
        real = real_path(fd);
        *name = real == NULL ? NULL : behind(real, path);
        free(real);
        if (*name == NULL) {
            close(fd);
            return -EXDEV;
        }
    }
    return fd;
}

static int find_named(const char *path, const struct place_naming *naming, bool *magic)
{
    const char *name = path;
    int directory = AT_FDCWD, fd, seen;

    if (naming->beneath || directory_length(path, naming->image) > 0) {
        directory = find_directory(path, naming, &name);
        if (directory < 0) {
            return directory;
        }
    }
    fd = find_without_magic(directory, name, naming->beneath);
    if (fd == -ELOOP) { /* there are two reasons for that */
        seen = find(directory, name);
        *magic = seen >= 0;
        if (seen >= 0) {
            close(seen);
        }
    }
    if (directory >= 0) {
        close(directory);
    }
    return fd;
}

int place_find(const char *path, const struct place_naming *naming, struct place *place)
{
    int fd;

    *place = (struct place){.fd = -1};
    fd = naming->image != NULL ? find_named(path, naming, &place->magic) : find(AT_FDCWD, path);
    if (fd < 0) {
        return fd;
    }
    if (fstat(fd, &place->status) != 0) {
        int code = errno;

        close(fd);
        return -code;
    }
    place->fd = fd;
    if (S_ISREG(place->status.st_mode)) {
        place->kernel = kernel_file_system(fd, place->status.st_dev);
    }
    return 0;
}

static bool is_same(int fd, const struct stat *status)
{
    struct stat found;

    return fstat(fd, &found) == 0 && found.st_dev == status->st_dev &&
           found.st_ino == status->st_ino;
}

static int open_checked(const char *path, int flags, const struct stat *status)
{
    int fd;

    do {
        fd = open(path, flags);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return -errno;
    }
    if (!is_same(fd, status)) {
        close(fd);
        return -ESTALE;
    }
    return fd;
}

int place_open(const struct place *place, const char *path, int flags)
{
    char self[FD_PATH_SIZE];
    int fd;

    snprintf(self, sizeof(self), "/proc/self/fd/%d", place->fd);
    fd = open_checked(self, flags, &place->status);
    switch (fd) {
    case -ENOENT: /* there is no /proc, or what has that name is none */
    case -ENOTDIR:
    case -ESTALE:
        return open_checked(path, flags, &place->status);
    default:
        return fd;
    }
}

void place_leave(struct place *place)
{
    if (place->fd >= 0) {
        close(place->fd);
        place->fd = -1;
    }
}
