/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/fuse_device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICE "/dev/fuse"

/* Podman and Docker leave a file, systemd and LXC a variable of the first process, or a file. */
static bool in_container(void)
{
    return access("/run/.containerenv", F_OK) == 0 || access("/.dockerenv", F_OK) == 0 ||
           access("/run/systemd/container", F_OK) == 0 || getenv("container") != NULL;
}

int fuse_device_check(struct error *error)
{
    int fd, code = 0;

    if (access(DEVICE, F_OK) != 0) {
        code = errno;
    } else if (geteuid() == 0) { /* for others fusermount3 opens it, which may what they may not */
        fd = open(DEVICE, O_RDWR | O_CLOEXEC);
        code = fd < 0 ? errno : 0;
        if (fd >= 0) {
            close(fd);
        }
    }
    if (code == 0) {
        return 0;
    }
    return error_set(error, code, DEVICE ": cannot be used: %s; %s", strerror(code),
                     in_container()
                         ? "start the container with it (podman, docker: --device /dev/fuse "
                           "--cap-add SYS_ADMIN; systemd-nspawn: --bind=/dev/fuse and "
                           "DeviceAllow=)"
                         : "load the kernel's module fuse (modprobe fuse), as root; in a container "
                           "that has to be given the device (--device /dev/fuse)");
}
