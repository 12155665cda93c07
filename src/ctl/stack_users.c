/* SPDX-License-Identifier: MIT */
/* Who is in the way of what is to be taken down. */
#include "config.h"

#include "ctl/stack_internal.h"

#include "util/mounts.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct search {
    dev_t device;                   /* of a mount, or 0 and */
    const struct loop_status *loop; /* a device that is open */
};

/* Asks no server. */
static bool is_used(const struct search *search, int directory, const char *name)
{
    struct statx status;

    if (search->loop == NULL) {
        return statx(directory, name, AT_STATX_DONT_SYNC, 0, &status) == 0 &&
               makedev(status.stx_dev_major, status.stx_dev_minor) == search->device;
    }
    return statx(directory, name, AT_STATX_DONT_SYNC, STATX_TYPE, &status) == 0 &&
           S_ISBLK(status.stx_mode) &&
           loop_has_device(search->loop, makedev(status.stx_rdev_major, status.stx_rdev_minor));
}

/* Whether it is an open file of the process, its working directory or its root. */
static bool uses(pid_t pid, const struct search *search)
{
    static const char *const links[] = {"cwd", "root"};
    char path[64];
    struct dirent *item;
    bool found = false;
    DIR *stream;

    for (size_t i = 0; i < 2 && search->loop == NULL; i++) {
        snprintf(path, sizeof(path), "/proc/%ld/%s", (long)pid, links[i]);
        if (is_used(search, AT_FDCWD, path)) {
            return true;
        }
    }
    snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
    stream = opendir(path);
    while (stream != NULL && !found && (item = readdir(stream)) != NULL) {
        found = item->d_name[0] != '.' && is_used(search, dirfd(stream), item->d_name);
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

static void find_users(const struct search *search, char *text, size_t size)
{
    DIR *stream = opendir("/proc");
    struct dirent *item;
    unsigned count = 0;
    size_t used = 0;

    text[0] = '\0';
    while (stream != NULL && count < 3 && (item = readdir(stream)) != NULL) {
        pid_t pid = (pid_t)strtol(item->d_name, NULL, 10);
        char name[32];

        if (pid > 0 && pid != getpid() && uses(pid, search)) {
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

static void find_users_of(dev_t device, char *text, size_t size)
{
    const struct search search = {.device = device};

    text[0] = '\0';
    if (device != 0) {
        find_users(&search, text, size);
    }
}

void stack_users(const char *path, char *text, size_t size)
{
    find_users_of(mounts_device_at(path), text, size);
}

void stack_device_users(const struct stack *stack, char *text, size_t size)
{
    find_users_of(stack_device(stack), text, size);
}

void stack_loop_users(const struct loop_status *loop, char *text, size_t size)
{
    const struct search search = {.loop = loop};

    find_users(&search, text, size);
}
