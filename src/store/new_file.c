/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/new_file.h"

#include "store/file.h"
#include "store/nbd.h"
#include "store/open.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODE           0666 /* less the umask */
#define NAME_ATTEMPTS  100
#define PROC_NAME_SIZE 64

struct new_file {
    char *path; /* as given, for sentences */
    const char *what;
    char *target;        /* the name that it gets: path, with symbolic links resolved */
    char *temporary;     /* the name that it has, NULL: none */
    struct store *store; /* of the new file; NULL for a device */
    int fd;              /* of the store */
    struct store *old;   /* locked: what is replaced, or the device; NULL without one */
};

static int out_of_memory(const struct new_file *file, struct error *error)
{
    return error_set(error, ENOMEM, "%s: out of memory while making this %s", file->path,
                     file->what);
}

/* Bytes of the path up to and with its last slash. */
static int directory_length(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? (int)(slash - path) + 1 : 0;
}

static char *directory_of(const char *path)
{
    char *directory;
    int length = directory_length(path);

    return asprintf(&directory, "%.*s", length > 0 ? length : 1, length > 0 ? path : ".") < 0
               ? NULL
               : directory;
}

/* It may still be somebody's working directory. */
static bool is_removed(const char *directory)
{
    struct stat status;

    return stat(directory, &status) == 0 && status.st_nlink == 0;
}

/* What is said of a removed directory; 0: it is not. */
static int refuse_removed(const struct new_file *file, int code, struct error *error)
{
    char *directory = directory_of(file->target);
    int result = 0;

    if (directory != NULL && is_removed(directory)) {
        result = error_set(error, code,
                           "%s: the directory %s was removed, and this %s cannot be made in it; go "
                           "to another one",
                           file->path, directory, file->what);
    }
    free(directory);
    return result;
}

static int cannot_make(const struct new_file *file, int code, struct error *error)
{
    int length = directory_length(file->target);
    const char *directory = length > 0 ? file->target : ".";
    int removed = refuse_removed(file, code, error);

    if (removed != 0) {
        return removed;
    }
    length = length > 0 ? length : 1;
    switch (code) {
    case ENOENT:
    case ENOTDIR:
        return error_set(error, code, "%s: there is no directory %.*s to make this %s in; make it",
                         file->path, length, directory, file->what);
    case EACCES:
        return error_set(error, code,
                         "%s: no permission to make this %s in the directory %.*s; change the "
                         "directory's permissions, or use another one",
                         file->path, file->what, length, directory);
    case EPERM: /* to root, too */
        return error_set(
            error, code,
            "%s: no file can be made in the directory %.*s, nor this %s: it is "
            "immutable or append-only (lsattr shows that), or a policy forbids it; use "
            "another directory",
            file->path, length, directory, file->what);
    case EROFS:
        return error_set(error, code,
                         "%s: the directory %.*s is on a file system that is only read, and this "
                         "%s cannot be made there; use another directory",
                         file->path, length, directory, file->what);
    case ENOSPC:
    case EDQUOT:
        return error_set(error, code,
                         "%s: this %s cannot be made: %s; make room there, or use another "
                         "directory",
                         file->path, file->what, strerror(code));
    default:
        return error_set(error, code, "%s: this %s cannot be made: %s", file->path, file->what,
                         strerror(code));
    }
}

/* --- A file without a name, or with one of its own --------------------------------------- */

/* "DIRECTORY/.qcow2ctl-0123456789abcdef"; NULL when memory ran out. */
static char *temporary_name(const char *target)
{
    uint64_t number = 0;
    char *name;

    /* Any number will do: one that is taken is not used. */
    if (getrandom(&number, sizeof(number), 0) < 0) {
        number = (uint64_t)getpid();
    }
    if (asprintf(&name, "%.*s.qcow2ctl-%016" PRIx64, directory_length(target), target, number) <
        0) {
        return NULL;
    }
    return name;
}

static int open_nameless(const struct new_file *file)
{
    char *directory = directory_of(file->target);
    int fd = -ENOMEM;

    /* Without /proc it could not be given a name. */
    if (directory != NULL && access("/proc/self/fd", X_OK) != 0) {
        fd = -EOPNOTSUPP;
    } else if (directory != NULL) {
        fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, MODE);
        fd = fd < 0 ? -errno : fd;
    }
    free(directory);
    return fd;
}

static int open_named(struct new_file *file)
{
    for (int i = 0; i < NAME_ATTEMPTS; i++) {
        int fd;

        file->temporary = temporary_name(file->target);
        if (file->temporary == NULL) {
            return -ENOMEM;
        }
        fd = open(file->temporary, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, MODE);
        if (fd >= 0) {
            return fd;
        }
        fd = -errno;
        free(file->temporary);
        file->temporary = NULL;
        if (fd != -EEXIST) {
            return fd;
        }
    }
    return -EEXIST;
}

/* The new file gets mode and owner of the one that it replaces, as far as that is allowed. */
static int copy_owner(struct new_file *file)
{
    struct store_info info;
    int result = store_info(file->old, &info);

    if (result == 0 && fchown(file->fd, info.uid, info.gid) != 0 &&
        fchown(file->fd, (uid_t)-1, info.gid) != 0) {
        result = 0; /* then it is ours */
    }
    if (result == 0 && fchmod(file->fd, info.mode & 0777) != 0) {
        result = -errno;
    }
    return result;
}

static int open_new(struct new_file *file, struct error *error)
{
    int result;

    file->fd = open_nameless(file);
    switch (file->fd) {
    case -EOPNOTSUPP: /* of the file system */
    case -EISDIR:     /* of the kernel */
    case -EINVAL:
        file->fd = open_named(file);
        break;
    default:
        break;
    }
    if (file->fd < 0) {
        return cannot_make(file, -file->fd, error);
    }
    result = store_file_adopt(file->fd, STORE_CACHE_WRITEBACK, &file->store);
    if (result < 0) {
        close(file->fd);
        return out_of_memory(file, error);
    }
    result = file->old != NULL ? copy_owner(file) : 0;
    return result < 0 ? cannot_make(file, -result, error) : 0;
}

/* --- What has the name already -------------------------------------------------------------- */

static int open_old(struct new_file *file, bool replace, struct error *error)
{
    const struct store_file_options options = {.access = STORE_WRITE,
                                               .cache = STORE_CACHE_WRITEBACK};
    struct stat status;
    int result;

    if (lstat(file->path, &status) != 0) {
        return errno == ENOENT ? 0 : cannot_make(file, errno, error);
    }
    if (!replace) {
        return error_set(error, EEXIST,
                         "%s: exists already; choose another name for this %s, or add --force to "
                         "replace what is there",
                         file->path, file->what);
    }
    result = store_file_open(file->path, file->what, &options, &file->old, error);
    if (result < 0) {
        return result;
    }
    free(file->target); /* a symbolic link goes on to lead there */
    file->target = realpath(file->path, NULL);
    return file->target == NULL ? cannot_make(file, errno, error) : 0;
}

int new_file_begin(const char *path, const char *what, bool replace, struct new_file **file,
                   struct error *error)
{
    struct new_file *begun = calloc(1, sizeof(*begun));
    int result;

    *file = NULL;
    if (path[0] == '\0') {
        free(begun);
        return error_set(error, ENOENT, "the name of the %s is empty; give it one", what);
    }
    if (store_nbd_is_address(path)) {
        free(begun);
        return store_nbd_refuse_new(path, what, error);
    }
    if (begun == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", path);
    }
    begun->what = what;
    begun->path = strdup(path);
    begun->target = strdup(path);
    if (begun->path == NULL || begun->target == NULL) {
        new_file_abandon(begun);
        return error_set(error, ENOMEM, "%s: out of memory", path);
    }
    result = open_old(begun, replace, error);
    if (result == 0 && !new_file_is_device(begun)) {
        result = open_new(begun, error);
    }
    if (result < 0) {
        new_file_abandon(begun);
        return result;
    }
    *file = begun;
    return 0;
}

struct store *new_file_store(struct new_file *file)
{
    return file->store != NULL ? file->store : file->old;
}

static int host_result(int r)
{
    if (r >= 0) {
        return 0;
    }
    return errno == ENOTTY || errno == ENOSYS ? -EOPNOTSUPP : -errno;
}

static int set_nocow(int fd)
{
    int flags = 0, r = ioctl(fd, FS_IOC_GETFLAGS, &flags);

    if (r == 0) {
        flags |= FS_NOCOW_FL;
        r = ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
    return host_result(r);
}

static int set_extent_size(int fd, uint32_t size)
{
    struct fsxattr attributes = {0};
    int r = ioctl(fd, FS_IOC_FSGETXATTR, &attributes);

    if (r == 0) {
        attributes.fsx_xflags |= FS_XFLAG_EXTSIZE;
        attributes.fsx_extsize = size;
        r = ioctl(fd, FS_IOC_FSSETXATTR, &attributes);
    }
    return host_result(r);
}

int new_file_hint(struct new_file *file, const struct new_file_hints *hints)
{
    int result = 0, second = 0;

    if (new_file_is_device(file)) {
        return 0;
    }
    if (hints->nocow) {
        result = set_nocow(file->fd);
    }
    if (hints->extent_size_hint > 0) {
        second = set_extent_size(file->fd, hints->extent_size_hint);
    }
    return result < 0 ? result : second;
}

bool new_file_is_device(const struct new_file *file)
{
    struct store_info info;

    return file->old != NULL && store_info(file->old, &info) == 0 && S_ISBLK(info.mode);
}

/* --- The end --------------------------------------------------------------------------------- */

/* Gives a file without a name the name `to`, which nothing may have. */
static int link_nameless(const struct new_file *file, const char *to)
{
    char self[PROC_NAME_SIZE];

    snprintf(self, sizeof(self), "/proc/self/fd/%d", file->fd);
    return linkat(AT_FDCWD, self, AT_FDCWD, to, AT_SYMLINK_FOLLOW) == 0 ? 0 : -errno;
}

/* The same for one that has a name. */
static int rename_exclusively(struct new_file *file)
{
    if (renameat2(AT_FDCWD, file->temporary, AT_FDCWD, file->target, RENAME_NOREPLACE) == 0) {
        free(file->temporary);
        file->temporary = NULL;
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return -errno;
    }
    /* The file system cannot; new_file_abandon() removes the other name. */
    return link(file->temporary, file->target) == 0 ? 0 : -errno;
}

static int replace_old(struct new_file *file)
{
    int result = 0;

    if (file->temporary == NULL) {
        file->temporary = temporary_name(file->target);
        result = file->temporary == NULL ? -ENOMEM : link_nameless(file, file->temporary);
        if (result < 0) {
            free(file->temporary); /* not ours */
            file->temporary = NULL;
            return result;
        }
    }
    if (rename(file->temporary, file->target) != 0) {
        return -errno;
    }
    free(file->temporary);
    file->temporary = NULL;
    return 0;
}

/* So that the name outlives a crash; where directories cannot be synced, it does in any case. */
static void sync_directory(const struct new_file *file)
{
    char *directory = directory_of(file->target);
    int fd = directory != NULL ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(directory);
}

int new_file_finish(struct new_file *file, struct error *error)
{
    int result = 0;

    if (file->store != NULL) {
        if (file->old != NULL) {
            result = replace_old(file);
        } else if (file->temporary != NULL) {
            result = rename_exclusively(file);
        } else {
            result = link_nameless(file, file->target);
        }
        if (result == 0) {
            sync_directory(file);
        }
    }
    if (result == -EEXIST) {
        error_set(error, EEXIST,
                  "%s: another program has made a file of this name meanwhile; choose another "
                  "name, or add --force to replace it",
                  file->path);
    } else if (result < 0) {
        cannot_make(file, -result, error);
    }
    new_file_abandon(file);
    return result;
}

void new_file_abandon(struct new_file *file)
{
    if (file == NULL) {
        return;
    }
    if (file->temporary != NULL) {
        unlink(file->temporary);
    }
    store_close(file->store);
    store_close(file->old);
    free(file->temporary);
    free(file->target);
    free(file->path);
    free(file);
}
