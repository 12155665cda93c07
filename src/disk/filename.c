/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/filename.h"

#include "store/opener.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_PREFIX "file:"

/* `name` in the directory of the file `beside`; NULL when memory ran out. */
static char *in_directory_of(const char *beside, const char *name)
{
    const char *slash = strrchr(beside, '/');
    int directory_length = slash == NULL ? 0 : (int)(slash - beside + 1);
    char *path;

    if (asprintf(&path, "%.*s%s", directory_length, beside, name) < 0) {
        return NULL;
    }
    return path;
}

size_t filename_protocol(const char *name)
{
    size_t length = strcspn(name, ":/");

    return name[length] == ':' ? length : 0;
}

char *filename_full(const char *overlay, const char *name)
{
    return name[0] == '/' || filename_protocol(name) > 0 ? strdup(name)
                                                         : in_directory_of(overlay, name);
}

/* Chooses between *path, beside the overlay, and the same name in the current directory. */
static int consider_cwd(const char *overlay, const char *what, const char *name, char **path,
                        struct error *error)
{
    struct stat beside, here;
    char *copy;

    if (opener_stat(name, &here) < 0) {
        return 0;
    }
    if (opener_stat(*path, &beside) == 0) {
        if (beside.st_dev == here.st_dev && beside.st_ino == here.st_ino) {
            return 0;
        }
        return error_set(error, EINVAL,
                         "%s: its %s '%s' could be %s or ./%s, two different files; work in the "
                         "directory of the right one, or rename the other",
                         overlay, what, name, *path, name);
    }
    copy = strdup(name);
    if (copy == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", overlay);
    }
    free(*path);
    *path = copy;
    return 0;
}

int filename_resolve(const char *overlay, const char *what, const char *name, bool also_cwd,
                     char **path, struct error *error)
{
    size_t protocol;
    int result = 0;

    *path = NULL;
    if (strncmp(name, FILE_PREFIX, strlen(FILE_PREFIX)) == 0) {
        name += strlen(FILE_PREFIX);
        also_cwd = true;
    } else if ((protocol = filename_protocol(name)) > 0) {
        return error_set(
            error, ENOTSUP,
            "%s: its %s is '%s', which is not a file but %s'%.*s:'; qcow2fs reads "
            "local files: bring it here and record its path (of a name with a colon: ./NAME) with "
            "qcow2ctl amend -o %s=PATH",
            overlay, what, name,
            strncmp(name, "json:", 5) == 0 ? "a description in QEMU's syntax "
                                           : "an address of the protocol ",
            (int)protocol, name, strcmp(what, "data file") == 0 ? "data_file" : "backing_file");
    }
    *path = name[0] == '/' ? strdup(name) : in_directory_of(overlay, name);
    if (*path == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", overlay);
    }
    if (also_cwd && name[0] != '/') {
        result = consider_cwd(overlay, what, name, path, error);
    }
    if (result < 0) {
        free(*path);
        *path = NULL;
    }
    return result;
}
