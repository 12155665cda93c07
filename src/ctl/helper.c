/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/helper.h"

#include "ctl/dead_files.h"
#include "ctl/mount_image.h"
#include "ctl/teardown.h"
#include "util/dead_mount.h"
#include "util/mounts.h"
#include "util/printable.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

enum helper_status {
    HELPER_OK = 0,
    HELPER_USAGE = 1,
    HELPER_FAILED = 32,
};

#define MOUNT_NAME  "mount.qcow2"
#define UMOUNT_NAME "umount.fuse.qcow2fs"

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? slash + 1 : path;
}

bool helper_is_meant(const char *program)
{
    return program != NULL && (strcmp(base_name(program), MOUNT_NAME) == 0 ||
                               strcmp(base_name(program), UMOUNT_NAME) == 0);
}

static void log_to_stderr(void *context, enum log_level level, const char *line)
{
    (void)level;
    printable_line(stderr, "%s: %s", (const char *)context, line);
}

/* --- mount.qcow2 ------------------------------------------------------------------------- */

struct mount_words {
    const char *image, *directory;
    char *partition, *type;
    char *disk_options; /* of qcow2fs */
    char *fs_options;   /* of the file system */
    bool read_only, fake;
};

/* Appends to a list; false when memory ran out. */
static bool append(char **list, const char *item)
{
    char *longer;

    if (asprintf(&longer, "%s%s%s", *list != NULL ? *list : "", *list != NULL ? "," : "", item) <
        0) {
        return false;
    }
    free(*list);
    *list = longer;
    return true;
}

static bool is_one_of(const char *item, const char *const *words)
{
    for (; *words != NULL; words++) {
        if (strcmp(item, *words) == 0) {
            return true;
        }
    }
    return false;
}

/* What mount(8) and fstab know for themselves. */
static bool means_nothing_here(const char *item)
{
    static const char *const words[] = {"rw",     "defaults", "noauto", "auto",  "user",
                                        "nouser", "users",    "owner",  "group", "_netdev",
                                        "nofail", "loop",     NULL};

    return is_one_of(item, words) || strncmp(item, "x-", 2) == 0 ||
           strncmp(item, "comment=", 8) == 0 || *item == '\0';
}

/* What every file system takes. */
static bool is_of_every_mount(const char *item)
{
    static const char *const words[] = {"nosuid",     "suid",       "nodev",       "dev",
                                        "noexec",     "exec",       "sync",        "async",
                                        "dirsync",    "noatime",    "atime",       "relatime",
                                        "norelatime", "nodiratime", "diratime",    "strictatime",
                                        "lazytime",   "nolazytime", "nosymfollow", NULL};

    return is_one_of(item, words);
}

static bool take_item(struct mount_words *words, const char *item)
{
    if (means_nothing_here(item)) {
        return true;
    }
    if (strcmp(item, "ro") == 0) {
        words->read_only = true;
        return true;
    }
    if (strncmp(item, "partition=", 10) == 0) {
        free(words->partition);
        words->partition = strdup(item + 10);
        return words->partition != NULL;
    }
    if (strncmp(item, "fstype=", 7) == 0) {
        free(words->type);
        words->type = strdup(item + 7);
        return words->type != NULL;
    }
    if (strncmp(item, "fs.", 3) == 0) {
        return append(&words->fs_options, item + 3);
    }
    return append(is_of_every_mount(item) ? &words->fs_options : &words->disk_options, item);
}

/* A comma within a value has a backslash before it, as qcow2fs reads it. */
static bool take_list(struct mount_words *words, const char *list)
{
    char *item = malloc(strlen(list) + 1);
    size_t used = 0;
    bool complete = item != NULL;

    for (; complete; list++) {
        if (*list == '\\' && list[1] != '\0') {
            item[used++] = *list++;
            item[used++] = *list;
        } else if (*list == ',' || *list == '\0') {
            item[used] = '\0';
            complete = take_item(words, item);
            used = 0;
            if (*list == '\0') {
                break;
            }
        } else {
            item[used++] = *list;
        }
    }
    free(item);
    return complete;
}

static int parse_mount(int count, char **arguments, struct mount_words *words, struct error *error)
{
    int option;

    opterr = 0;
    while ((option = getopt(count, arguments, "-sfnvrwo:t:N:")) != -1) {
        switch (option) {
        case 1:
            if (words->image == NULL) {
                words->image = optarg;
            } else if (words->directory == NULL) {
                words->directory = optarg;
            } else {
                return error_set(error, EINVAL, "'%s' is one argument too many", optarg);
            }
            break;
        case 'o':
            if (!take_list(words, optarg)) {
                return error_set(error, ENOMEM, "out of memory while reading the options");
            }
            break;
        case 'r':
            words->read_only = true;
            break;
        case 'f':
            words->fake = true;
            break;
        case '?':
            return error_set(error, EINVAL, "unknown option -%c", optopt);
        default: /* -s, -n, -v, -w, -t TYPE, -N NAMESPACE: mount(8) has seen to it */
            break;
        }
    }
    return words->directory != NULL
               ? 0
               : error_set(error, EINVAL, "write " MOUNT_NAME " IMAGE DIR [-o OPTIONS]");
}

static int run_mount(int count, char **arguments, struct log *log, struct error *error)
{
    struct mount_words words = {0};
    int status = HELPER_USAGE;

    if (parse_mount(count, arguments, &words, error) == 0) {
        const struct mount_request request = {
            .disk =
                {
                    .image = words.image,
                    .options = words.disk_options,
                    .read_only = words.read_only,
                },
            .directory = words.directory,
            .partition = words.partition,
            .fs_options = words.fs_options,
            .fs_type = words.type,
        };

        if (!words.fake) {
            (void)dead_mount_clear(words.directory, log); /* what cannot be cleared is met next */
        }
        status = words.fake || (dead_files_refuse(words.directory, error) == 0 &&
                                mount_image(&request, NULL, log, error) == 0)
                     ? HELPER_OK
                     : HELPER_FAILED;
    }
    free(words.partition);
    free(words.type);
    free(words.disk_options);
    free(words.fs_options);
    return status;
}

/* --- umount.fuse.qcow2fs ------------------------------------------------------------------- */

/* A bind mount of the disk, say: nothing but that goes, and the daemon goes on. */
static bool is_another_place(const struct stack *stack, const char *path)
{
    char *absolute = realpath(path, NULL);
    dev_t device = absolute != NULL ? mounts_device_at(absolute) : 0;
    bool is_another = device != 0 && major(device) == stack->daemon.major &&
                      minor(device) == stack->daemon.minor &&
                      strcmp(absolute, stack->daemon.mount_point) != 0;

    free(absolute);
    return is_another;
}

static int unmount(const char *path, const struct teardown *how, struct log *log,
                   struct error *error)
{
    struct error ignored = {0};
    struct stacks stacks;
    struct stack *stack;
    int result = stacks_find(&stacks);

    if (result < 0) {
        return error_set(error, -result, "%s: cannot be unmounted: %s", path, strerror(-result));
    }
    /* One that is not listed, of a killed daemon say, is merely unmounted. */
    stack = stacks_choose(&stacks, path, &ignored);
    result = stack != NULL && stack->mount_id != 0 && !is_another_place(stack, path)
                 ? teardown_stack(stack, how, log, error)
                 : teardown_unmount(path, 0, how->lazy, log, error);
    stacks_release(&stacks);
    return result;
}

static int run_umount(int count, char **arguments, struct log *log, struct error *error)
{
    struct teardown how = {.only_mount_point = true};
    const char *path = NULL;
    int option;

    opterr = 0;
    while ((option = getopt(count, arguments, "-flnrvt:N:")) != -1) {
        switch (option) {
        case 1:
            if (path != NULL) {
                error_set(error, EINVAL, "'%s' is one argument too many", optarg);
                return HELPER_USAGE;
            }
            path = optarg;
            break;
        case 'l':
            how.lazy = true;
            break;
        case '?':
            error_set(error, EINVAL, "unknown option -%c", optopt);
            return HELPER_USAGE;
        default: /* -f, -n, -r, -v, -t, -N: nothing to do */
            break;
        }
    }
    if (path == NULL) {
        error_set(error, EINVAL, "write " UMOUNT_NAME " MOUNTPOINT");
        return HELPER_USAGE;
    }
    return unmount(path, &how, log, error) == 0 ? HELPER_OK : HELPER_FAILED;
}

int helper_run(int count, char **arguments)
{
    bool mounts = strcmp(base_name(arguments[0]), MOUNT_NAME) == 0;
    char name[] = "qcow2ctl";
    struct error error = {0};
    struct log log;
    int status;

    log_init(&log, log_to_stderr, name);
    status = mounts ? run_mount(count, arguments, &log, &error)
                    : run_umount(count, arguments, &log, &error);
    if (error.code != 0) {
        log_line(&log, LOG_LEVEL_ERROR, "%s", error.text);
    }
    log_release(&log);
    return status;
}
