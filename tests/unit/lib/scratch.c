/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "scratch.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OPEN_DIRECTORIES 8 /* while the tree is removed */

/* Whether everybody can get into the directory: tests that give up being root have to. */
static bool open_to_all(const char *directory)
{
    char path[PATH_MAX];
    char *end;
    struct stat status;
    bool open = realpath(directory, path) != NULL;

    while (open && stat(path, &status) == 0 && (status.st_mode & S_IXOTH) != 0) {
        if (strcmp(path, "/") == 0) {
            return true;
        }
        end = strrchr(path, '/');
        end[end == path ? 1 : 0] = '\0'; /* "/a" is in "/" */
    }
    return false;
}

void scratch_enter(void)
{
    const char *parent = getenv("QCOW2FS_TMP");
    char path[PATH_MAX];

    if (parent == NULL || parent[0] == '\0') {
        parent = "/tmp";
    } else if (mkdir(parent, 0755) != 0) {
        ck_assert_int_eq(errno, EEXIST);
    }
    if (geteuid() == 0 && !open_to_all(parent)) { /* below /root, say */
        parent = "/tmp";
    }
    snprintf(path, sizeof(path), "%s/unit-XXXXXX", parent);
    ck_assert_msg(mkdtemp(path) != NULL, "%s: %m", path);
    ck_assert_int_eq(chmod(path, 0755), 0); /* for tests that give up being root */
    ck_assert_int_eq(chdir(path), 0);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status;
    (void)type;
    (void)where;
    return remove(path);
}

void scratch_leave(void)
{
    char path[PATH_MAX];

    ck_assert_ptr_nonnull(getcwd(path, sizeof(path)));
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert_int_eq(nftw(path, remove_entry, OPEN_DIRECTORIES, FTW_DEPTH | FTW_PHYS), 0);
}

void scratch_file(const char *name, const void *bytes, size_t size)
{
    int fd;

    (void)unlink(name);
    fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    ck_assert_msg(fd >= 0, "%s: %m", name);
    if (size > 0) {
        ck_assert_int_eq(write(fd, bytes, size), (ssize_t)size);
    }
    ck_assert_int_eq(close(fd), 0);
}
