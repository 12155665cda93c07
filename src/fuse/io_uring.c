/* SPDX-License-Identifier: MIT */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/io_uring.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <unistd.h>

#define IO_URING_LIBFUSE 318 /* as fuse_version() counts: 3.18 */
#define IO_URING_SWITCH  "/sys/module/fuse/parameters/enable_uring"

static bool kernel_allows_io_uring(void)
{
    int fd = open(IO_URING_SWITCH, O_RDONLY | O_CLOEXEC);
    char allowed = 'N';

    if (fd >= 0) {
        if (read(fd, &allowed, 1) != 1) {
            allowed = 'N';
        }
        close(fd);
    }
    return allowed == 'Y';
}

int io_uring_check(struct error *error)
{
    if (fuse_version() < IO_URING_LIBFUSE) {
        return error_set(error, ENOTSUP,
                         "io-uring=on needs libfuse 3.18 or later, and this is libfuse %s; leave "
                         "the option out",
                         fuse_pkgversion());
    }
    if (!kernel_allows_io_uring()) {
        return error_set(error, ENOTSUP,
                         "io-uring=on: the kernel does not allow that, or knows nothing of it; as "
                         "root, write Y to %s, or leave the option out",
                         IO_URING_SWITCH);
    }
    return 0;
}
