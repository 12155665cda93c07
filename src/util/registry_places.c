/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/registry_places.h"

#include "util/id_map.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FALLBACK "/tmp"
#define PREFIX   "qcow2fs-"
#define RUNTIMES "/run/user"

/* --- one directory ------------------------------------------------------------- */

/* Whether only its owner writes to it. */
static bool is_safe(int directory, struct stat *status)
{
    return fstat(directory, status) == 0 && (status->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

/* Made where `make` says so; a descriptor or a negative errno. */
static int open_own(const char *path, bool make)
{
    struct stat status;
    int directory;

    if (make && mkdir(path, 0700) != 0 && errno != EEXIST) {
        return -errno;
    }
    directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0) {
        return -errno;
    }
    if (!is_safe(directory, &status) || status.st_uid != geteuid()) {
        close(directory);
        return -EPERM;
    }
    return directory;
}

/* The one with a name that is the user's alone. */
static int open_named(bool make)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char path[4096];

    if (geteuid() == 0) {
        return open_own("/run/qcow2fs", make);
    }
    if (runtime == NULL || runtime[0] != '/' ||
        snprintf(path, sizeof(path), "%s/qcow2fs", runtime) >= (int)sizeof(path)) {
        return -ENOENT;
    }
    return open_own(path, make);
}

/* --- by who is its owner ---------------------------------------------------------------- */

/* The user that is outside what this one is here. */
static uid_t own_user(void)
{
    uid_t user;

    return id_map_outside(geteuid(), &user) ? user : geteuid();
}

/* Whose it says that it is, PREFIXuid or PREFIXuid.ANYTHING; false where that is not its name. */
static bool parse_user(const char *name, const char *prefix, uid_t *user)
{
    const char *digits = name + strlen(prefix);
    unsigned long number;
    char *end;

    if (strncmp(name, prefix, strlen(prefix)) != 0 || *digits < '0' || *digits > '9') {
        return false;
    }
    errno = 0;
    number = strtoul(digits, &end, 10);
    *user = (uid_t)number;
    return errno == 0 && *user == number && (*end == '\0' || *end == '.');
}

/* Who mounts something on a name keeps those waiting who open it. */
static bool is_mounted_on(int top, const char *name)
{
    struct statx around, found;

    return statx(top, "", AT_EMPTY_PATH, STATX_TYPE, &around) != 0 ||
           statx(top, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_TYPE,
                 &found) != 0 ||
           around.stx_dev_major != found.stx_dev_major ||
           around.stx_dev_minor != found.stx_dev_minor;
}

/* Only where it belongs to who is `user` outside; -1 otherwise. */
static int open_of(int top, const char *name, uid_t user)
{
    struct stat status;
    uid_t owner;
    int directory;

    if (is_mounted_on(top, name)) {
        return -1;
    }
    directory = openat(top, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory >= 0 &&
        (!is_safe(directory, &status) || !id_map_outside(status.st_uid, &owner) || owner != user)) {
        close(directory);
        return -1;
    }
    return directory;
}

/* --- those in /tmp ---------------------------------------------------------------- */

/* Calls `each` for those of `user`; for those of all with `all`. */
static int visit_fallbacks(uid_t user, bool all, int (*each)(void *context, int directory),
                           void *context)
{
    DIR *stream = opendir(FALLBACK);
    struct dirent *item;
    int result = 0;

    if (stream == NULL) {
        return 0;
    }
    while (result == 0 && (item = readdir(stream)) != NULL) {
        uid_t named;
        int directory;

        if (!parse_user(item->d_name, PREFIX, &named) || (!all && named != user)) {
            continue;
        }
        directory = open_of(dirfd(stream), item->d_name, named);
        if (directory >= 0) {
            result = each(context, directory);
        }
    }
    closedir(stream);
    return result;
}

static int take(void *context, int directory)
{
    *(int *)context = directory;
    return 1;
}

/* A descriptor or a negative errno. */
static int make_fallback(void)
{
    int top = open(FALLBACK, O_PATH | O_DIRECTORY | O_CLOEXEC), found = -1;
    char path[64];
    uid_t user = own_user();

    if (top < 0) {
        return -errno;
    }
    snprintf(path, sizeof(path), FALLBACK "/" PREFIX "%u", (unsigned)user);
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        int code = errno;

        close(top);
        return -code;
    }
    found = open_of(top, path + strlen(FALLBACK "/"), user);
    close(top);
    if (found >= 0 || visit_fallbacks(user, false, take, &found) != 0) {
        return found;
    }
    strcat(path, ".XXXXXX");
    return mkdtemp(path) != NULL ? open_own(path, false) : -errno;
}

/* --- all of them ------------------------------------------------------------------- */

int registry_place_make(void)
{
    int directory = open_named(true);

    return directory >= 0 ? directory : make_fallback();
}

/* Those below /run/user, of which each has the name of its owner. */
static int visit_runtimes(int (*each)(void *context, int directory), void *context)
{
    DIR *stream = opendir(RUNTIMES);
    struct dirent *item;
    int result = 0;

    if (stream == NULL) {
        return 0;
    }
    while (result == 0 && (item = readdir(stream)) != NULL) {
        uid_t user;
        int runtime, directory;

        if (!parse_user(item->d_name, "", &user) || user == 0) {
            continue;
        }
        runtime = openat(dirfd(stream), item->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        directory = runtime >= 0 ? open_of(runtime, "qcow2fs", user) : -1;
        if (runtime >= 0) {
            close(runtime);
        }
        if (directory >= 0) {
            result = each(context, directory);
        }
    }
    closedir(stream);
    return result;
}

int registry_places_visit(int (*each)(void *context, int directory), void *context)
{
    bool is_root = geteuid() == 0;
    int named = open_named(false), result = 0;

    if (named >= 0) {
        result = each(context, named);
    }
    if (result == 0 && is_root) {
        result = visit_runtimes(each, context);
    }
    /* Of others than root, too, what was started without the variable that this process has. */
    return result == 0 ? visit_fallbacks(own_user(), is_root, each, context) : result;
}
