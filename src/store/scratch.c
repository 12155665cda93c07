/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/scratch.h"

#include "store/open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MODE 0600

static int open_and_unlink(const char *directory)
{
    char *path;
    int fd;

    if (asprintf(&path, "%s/.qcow2fs-XXXXXX", directory) < 0) {
        return -ENOMEM;
    }
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) {
        fd = -errno;
    } else if (unlink(path) != 0) {
        int result = -errno;

        close(fd);
        fd = result;
    }
    free(path);
    return fd;
}

static int open_scratch(const char *directory)
{
    int fd = open(directory, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, MODE);

    if (fd >= 0) {
        return fd;
    }
    switch (errno) {
    case EOPNOTSUPP: /* of the file system */
    case EISDIR:     /* of the kernel */
    case EINVAL:
        return open_and_unlink(directory);
    default:
        return -errno;
    }
}

int store_scratch_create(const char *directory, struct store **store)
{
    int fd = open_scratch(directory), result;

    if (fd < 0) {
        return fd;
    }
    result = store_file_adopt(fd, STORE_CACHE_UNSAFE, store);
    if (result < 0) {
        close(fd);
    }
    return result;
}
