/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

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

static int visit(const char *path, int (*each)(void *context, const struct mount_entry *entry),
                 void *context)
{
    FILE *file = fopen(path, "re");
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

int mounts_visit(int (*each)(void *context, const struct mount_entry *entry), void *context)
{
    return visit("/proc/self/mountinfo", each, context);
}

int mounts_visit_of(pid_t pid, int (*each)(void *context, const struct mount_entry *entry),
                    void *context)
{
    char path[48];

    snprintf(path, sizeof(path), "/proc/%ld/mountinfo", (long)pid);
    return visit(path, each, context);
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

/* --- one that was seen
 * ------------------------------------------------------------------------------------ */

struct look {
    struct mount_known *known; /* is set ... */
    const struct mount_known *wanted;
    char *path; /* ... or this is, and the next: of what is there */
    unsigned id;
    bool is_certain;
};

static int know(void *context, const struct mount_entry *entry)
{
    struct mount_known *known = ((struct look *)context)->known;

    if (strcmp(entry->path, known->path) != 0) {
        return 0;
    }
    free(known->source);
    known->source = NULL;
    known->id = entry->device == known->device ? entry->id : 0;
    if (known->id != 0) {
        known->source = strdup(entry->source);
    }
    return known->id != 0 && known->source == NULL ? -ENOMEM : 0;
}

int mounts_know(const char *path, dev_t device, struct mount_known *known)
{
    struct look look = {.known = known};

    *known = (struct mount_known){.path = strdup(path), .device = device};
    if (known->path == NULL) {
        return -ENOMEM;
    }
    return device != 0 && mounts_visit(know, &look) == -ENOMEM ? -ENOMEM : 0;
}

void mounts_forget(struct mount_known *known)
{
    free(known->path);
    free(known->source);
    *known = (struct mount_known){.id = 0};
}

static int find(void *context, const struct mount_entry *entry)
{
    struct look *look = context;
    const struct mount_known *wanted = look->wanted;
    bool is_there = strcmp(entry->path, wanted->path) == 0;
    bool is_ours = entry->device == wanted->device;

    look->is_certain = is_ours && wanted->id != 0 && entry->id == wanted->id &&
                       strcmp(entry->source, wanted->source) == 0;
    if (!look->is_certain && !is_there) {
        return 0;
    }
    free(look->path);
    look->path = is_ours ? strdup(entry->path) : NULL;
    look->id = entry->id;
    if (is_ours && look->path == NULL) {
        return -ENOMEM;
    }
    return look->is_certain;
}

int mounts_find(const struct mount_known *known, char **path, unsigned *id)
{
    struct look look = {.wanted = known};
    int r = known->device != 0 ? mounts_visit(find, &look) : -ENXIO;

    if (r < 0 || look.path == NULL) {
        free(look.path);
        return r < 0 ? r : -ENXIO;
    }
    *path = look.path;
    *id = look.id;
    return 0;
}

/* --- unmounting
 * ------------------------------------------------------------------------------------------- */

/* 0 where what `name` is in the directory belongs to that mount. The server is not asked. */
static int check_mount(int directory, const char *name, unsigned id)
{
    struct statx status;

    if (statx(directory, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, 0,
              &status) != 0) {
        return -errno;
    }
    return (status.stx_mask & STATX_MNT_ID) == 0 || status.stx_mnt_id == id ? 0 : -ESTALE;
}

/*
 * The directory in which the last name of the path is, held open (O_PATH), if that name belongs to
 * the mount. A negative errno; -ESTALE: to another one.
 */
static int hold_directory(const char *path, const char *name, unsigned id)
{
    char *above = strndup(path, (size_t)(name - path));
    int directory, r;

    if (above == NULL) {
        return -ENOMEM;
    }
    directory = open(above, O_PATH | O_DIRECTORY | O_CLOEXEC);
    r = directory < 0 ? -errno : check_mount(directory, name, id);
    free(above);
    if (directory >= 0 && r != 0) {
        close(directory);
    }
    return r != 0 ? r : directory;
}

/*
 * Whose a directory above is may put a link in its place since the path was looked at, which would
 * lead to anything: so the last one is held, and what is in it is looked at again. The rest of it,
 * a name in a directory that is held, nobody moves who may not unmount it.
 */
int mounts_unmount_exactly(const char *path, unsigned id, int flags)
{
    const char *slash = strrchr(path, '/');
    char *place;
    int directory, r;

    if (id == 0 || slash == NULL || slash[1] == '\0') {
        return umount2(path, flags) == 0 ? 0 : -errno;
    }
    directory = hold_directory(path, slash + 1, id);
    if (directory < 0) {
        return directory;
    }
    if (asprintf(&place, "/proc/self/fd/%d%s", directory, slash) < 0) {
        close(directory);
        return -ENOMEM;
    }
    r = umount2(place, flags) == 0 ? 0 : -errno;
    close(directory);
    free(place);
    return r;
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

int mounts_detach_exactly(const char *path, unsigned id)
{
    int r = mounts_unmount_exactly(path, id, MNT_DETACH | UMOUNT_NOFOLLOW);

    return r == -EPERM ? unmount_by_helper(path) : r;
}

int mounts_detach(const char *path)
{
    return mounts_detach_exactly(path, 0);
}
