/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/mounts.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

extern char **environ;

/* Blanks, newlines and backslashes are written as \ooo; in place. */
static void unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from != '\0'; to++) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' &&
            from[2] <= '7' && from[3] >= '0' && from[3] <= '7') {
            *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);

    for (const char *item = list; item != NULL; item = strchr(item, ',')) {
        item += *item == ',';
        if (strncmp(item, word, length) == 0 && (item[length] == ',' || item[length] == '\0')) {
            return true;
        }
    }
    return false;
}

/* The number behind `name`, as "user_id=", in a list; -1: there is none. */
static int64_t number_of(const char *list, const char *name)
{
    size_t length = strlen(name);

    for (const char *item = list; item != NULL; item = strchr(item, ',')) {
        item += *item == ',';
        if (strncmp(item, name, length) == 0 && item[length] >= '0' && item[length] <= '9') {
            return strtoll(item + length, NULL, 10);
        }
    }
    return -1;
}

/* One line: id parent major:minor root path options [tags] - type source options. */
static bool parse(char *line, struct mount_entry *entry)
{
    char *fields[6], *state = NULL, *word, *type, *source, *options;
    unsigned id, major_number, minor_number;

    for (size_t i = 0; i < 6; i++) {
        fields[i] = strtok_r(i == 0 ? line : NULL, " \n", &state);
        if (fields[i] == NULL) {
            return false;
        }
    }
    do {
        word = strtok_r(NULL, " \n", &state);
    } while (word != NULL && strcmp(word, "-") != 0);
    type = strtok_r(NULL, " \n", &state);
    source = strtok_r(NULL, " \n", &state);
    options = strtok_r(NULL, " \n", &state);
    if (word == NULL || type == NULL || source == NULL || sscanf(fields[0], "%u", &id) != 1 ||
        sscanf(fields[2], "%u:%u", &major_number, &minor_number) != 2) {
        return false;
    }
    unescape(fields[4]);
    unescape(type);
    unescape(source);
    *entry = (struct mount_entry){
        .id = id,
        .device = makedev(major_number, minor_number),
        .path = fields[4],
        .type = type,
        .source = source,
        .read_only = has_word(fields[5], "ro") || (options != NULL && has_word(options, "ro")),
        .user = number_of(options, "user_id="),
    };
    return true;
}

int mounts_visit(int (*each)(void *context, const struct mount_entry *entry), void *context)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t size = 0;
    int result = 0;

    if (file == NULL) {
        return -errno;
    }
    while (result == 0 && getline(&line, &size, file) > 0) {
        struct mount_entry entry;

        if (parse(line, &entry)) {
            result = each(context, &entry);
        }
    }
    free(line);
    fclose(file);
    return result;
}

dev_t mounts_source_device(const struct mount_entry *entry)
{
    struct stat node;

    return major(entry->device) == 0 && strncmp(entry->source, "/dev/", 5) == 0 &&
                   stat(entry->source, &node) == 0 && S_ISBLK(node.st_mode)
               ? node.st_rdev
               : entry->device;
}

struct search {
    const char *path;
    dev_t device;
};

static int compare_path(void *context, const struct mount_entry *entry)
{
    struct search *search = context;

    if (strcmp(entry->path, search->path) == 0) {
        search->device = entry->device;
    }
    return 0;
}

dev_t mounts_device_at(const char *path)
{
    struct search search = {.path = path};

    (void)mounts_visit(compare_path, &search);
    return search.device;
}

/* What an ordinary user has for umount(2). */
static int unmount_by_helper(const char *path)
{
    const char *const argv[] = {"fusermount3", "-u", "-z", "-q", "--", path, NULL};
    char *const *arguments =
        (char *const *)(const void *)argv; /* which posix_spawn() leaves alone */
    int status;
    pid_t pid;

    if (posix_spawnp(&pid, argv[0], NULL, NULL, arguments, environ) != 0) {
        return -EPERM;
    }
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return -EPERM;
        }
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

int mounts_detach(const char *path)
{
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
        return 0;
    }
    return errno == EPERM ? unmount_by_helper(path) : -errno;
}
