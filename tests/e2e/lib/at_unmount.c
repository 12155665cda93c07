/* SPDX-License-Identifier: MIT */
/*
 * For LD_PRELOAD of qcow2ctl: once it has unmounted something, and before it does anything else,
 * the shell runs what $AT_UNMOUNT says. So something else is mounted at the one moment that
 * matters.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

int umount2(const char *path, int flags)
{
    int (*unmount)(const char *path, int flags);
    char *command = getenv("AT_UNMOUNT");
    int result;

    *(void **)&unmount = dlsym(RTLD_NEXT, "umount2");
    result = unmount(path, flags);
    command = result == 0 && command != NULL ? strdup(command) : NULL;
    if (command != NULL) {
        unsetenv("AT_UNMOUNT"); /* once, and not in what it starts */
        unsetenv("LD_PRELOAD");
        result = system(command) == 0 ? 0 : -1;
        free(command);
    }
    return result;
}
