/* SPDX-License-Identifier: MIT */
/* Who is in the way of what is to be taken down. */
#include "config.h"

#include "ctl/stack.h"

#include "util/mounts.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Whether the process has a file, its working directory or its root on that device. */
static bool uses(pid_t pid, dev_t device)
{
    static const char *const links[] = {"cwd", "root"};
    char path[64];
    struct statx status;
    struct dirent *item;
    bool found = false;
    DIR *stream;

    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "/proc/%ld/%s", (long)pid, links[i]);
        if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, 0, &status) == 0 &&
            makedev(status.stx_dev_major, status.stx_dev_minor) == device) {
            return true;
        }
    }
    snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
    stream = opendir(path);
    while (stream != NULL && !found && (item = readdir(stream)) != NULL) {
        found = item->d_name[0] != '.' &&
                statx(dirfd(stream), item->d_name, AT_STATX_DONT_SYNC, 0, &status) == 0 &&
                makedev(status.stx_dev_major, status.stx_dev_minor) == device;
    }
    if (stream != NULL) {
        closedir(stream);
    }
    return found;
}

static void read_name(pid_t pid, char name[32])
{
    char path[48];
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%ld/comm", (long)pid);
    file = fopen(path, "re");
    if (file == NULL || fgets(name, 32, file) == NULL) {
        snprintf(name, 32, "?");
    }
    name[strcspn(name, "\n")] = '\0';
    if (file != NULL) {
        fclose(file);
    }
}

void stack_users(const char *path, char *text, size_t size)
{
    dev_t device = mounts_device_at(path);
    DIR *stream = opendir("/proc");
    struct dirent *item;
    unsigned count = 0;
    size_t used = 0;

    text[0] = '\0';
    while (stream != NULL && device != 0 && count < 3 && (item = readdir(stream)) != NULL) {
        pid_t pid = (pid_t)strtol(item->d_name, NULL, 10);
        char name[32];

        if (pid > 0 && pid != getpid() && uses(pid, device)) {
            read_name(pid, name);
            used += (size_t)snprintf(text + used, size - used, "%s%s (%ld)", count > 0 ? ", " : "",
                                     name, (long)pid);
            if (used >= size) {
                break;
            }
            count++;
        }
    }
    if (stream != NULL) {
        closedir(stream);
    }
}
