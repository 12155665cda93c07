/* SPDX-License-Identifier: MIT */
/*
 * The descriptors that the program was started with, besides the standard ones. Somebody may wait
 * until all have let go of them (flock(1), a pipe to its end), which a daemon in the background
 * would keep for as long as the mount: it closes them. One in the foreground keeps all, as its
 * parent may mean that.
 */
#ifndef FUSE_INHERITED_H
#define FUSE_INHERITED_H

#include <stddef.h>

struct inherited {
    int *numbers; /* inherited_release() frees them */
    size_t count;
};

/*
 * To be called before anything is opened. Left out is what the command line names: as /dev/fd/N or
 * /proc/self/fd/N, and `used`, a descriptor or -1. Where they cannot be found out there are none.
 */
void inherited_find(struct inherited *inherited, char *const *arguments, int used);

/* By the process in the background alone. */
void inherited_close(const struct inherited *inherited);

void inherited_release(struct inherited *inherited);

#endif
