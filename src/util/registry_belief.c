/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/registry_belief.h"

#include "util/mounts.h"
#include "util/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* --- the process ------------------------------------------------------------------------ */

/* Until it is reaped nobody else gets its number: what was looked at under that was itself. */
static bool is_there(int process)
{
    return pidfd_send_signal(process, 0, NULL, 0) == 0 || errno == EPERM;
}

/* --- the mount -------------------------------------------------------------------------- */

static dev_t device_of(const struct registry_record *record)
{
    return makedev((unsigned)record->major, (unsigned)record->minor);
}

struct look {
    const struct registry_record *record;
    bool is_device_seen; /* somewhere; ... */
    bool is_device_own;  /* ... and it is of ours, and its owner's */
    dev_t at_point;      /* of what is mounted last at its mount point, ... */
    bool is_point_own;   /* ... likewise */
};

static int look_at(void *context, const struct mount_entry *entry)
{
    struct look *look = context;
    const struct registry_record *record = look->record;
    bool is_own = strcmp(entry->type, "fuse.qcow2fs") == 0 && entry->user == (int64_t)record->user;

    if (entry->device == device_of(record)) {
        look->is_device_seen = true;
        look->is_device_own = is_own;
    }
    if (strcmp(entry->path, record->mount_point) == 0) {
        look->at_point = entry->device;
        look->is_point_own = is_own;
    }
    return 0;
}

static bool is_of_record(void *context, unsigned number)
{
    return number == ((const struct registry_record *)context)->minor;
}

/*
 * Of a mount without a name, or of another mount namespace: a connection belongs to who made it,
 * and nobody else has a descriptor of it. fusectl is not mounted everywhere.
 */
static bool has_own_connection(struct registry_record *record)
{
    struct stat status;
    char path[64];

    if (record->major != 0) {
        return false;
    }
    snprintf(path, sizeof(path), "/sys/fs/fuse/connections/%" PRIu64, record->minor);
    return stat(path, &status) == 0 ? status.st_uid == record->user
                                    : process_visit_connections(record->pid, is_of_record, record);
}

static void judge_mount(struct registry_record *record)
{
    struct look look = {.record = record};
    dev_t device = device_of(record);

    if (mounts_visit(look_at, &look) < 0) {
        look = (struct look){.record = record};
    }
    if (device != 0 && !(look.is_device_seen ? look.is_device_own : has_own_connection(record))) {
        device = 0;
        record->major = 0;
        record->minor = 0;
    }
    if (!look.is_point_own || look.at_point != device) {
        record->mount_point[0] = '\0';
    }
}

/* --- the image -------------------------------------------------------------------------- */

struct opened {
    unsigned mount;
    bool is_written;
};

static bool read_opened(pid_t pid, const char *number, struct opened *opened)
{
    char path[96], line[128];
    unsigned flags = 0;
    bool has_mount = false;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%ld/fdinfo/%.32s", (long)pid, number);
    file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        has_mount = sscanf(line, "mnt_id: %u", &opened->mount) == 1 || has_mount;
        if (sscanf(line, "flags: %o", &flags) == 1) {
            opened->is_written = (flags & O_ACCMODE) == O_RDWR && (flags & O_PATH) == 0;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return has_mount;
}

static int is_mount(void *context, const struct mount_entry *entry)
{
    return entry->id == *(const unsigned *)context;
}

/* The name of a file of another mount namespace may be one that means another file here. */
static bool is_same_file(int descriptors, const char *number, const char *image)
{
    struct stat open_one, named;

    return fstatat(descriptors, number, &open_one, 0) == 0 && stat(image, &named) == 0 &&
           open_one.st_dev == named.st_dev && open_one.st_ino == named.st_ino;
}

/*
 * Whether a descriptor of the process is that of the image: of the file that the record says, or
 * else of that name. As it is the kernel that says what a file is called, no path is walked of
 * which a user's server could keep us waiting.
 */
static bool is_named(const struct registry_record *record, int descriptors, const char *number,
                     char *path, struct statx *status)
{
    ssize_t length = readlinkat(descriptors, number, path, PATH_MAX - 1);

    if (length <= 0 || statx(descriptors, number, AT_STATX_DONT_SYNC,
                             STATX_TYPE | STATX_INO | STATX_NLINK, status) != 0) {
        return false;
    }
    path[length] = '\0';
    return registry_knows_image(record) ? registry_is_image(record, status) && status->stx_nlink > 0
                                        : strcmp(path, record->image) == 0;
}

/* The record then has the name that the file has by now. */
static bool is_of_image(struct registry_record *record, int descriptors, const char *number)
{
    struct opened opened;
    struct statx status;
    char path[PATH_MAX], *name;

    if (!is_named(record, descriptors, number, path, &status) ||
        !read_opened(record->pid, number, &opened) ||
        (!opened.is_written && record->writable && !record->overlay) ||
        (mounts_visit(is_mount, &opened.mount) != 1 && !is_same_file(descriptors, number, path))) {
        return false;
    }
    name = strdup(path);
    if (name == NULL) {
        return false;
    }
    free(record->image);
    record->image = name;
    registry_set_image(record, &status);
    return true;
}

/* Where nobody may see what the process has open. */
static bool owns_image(const struct registry_record *record)
{
    struct statx status;

    return statx(AT_FDCWD, record->image, 0, STATX_TYPE | STATX_INO | STATX_UID, &status) == 0 &&
           status.stx_uid == record->user &&
           (!registry_knows_image(record) || registry_is_image(record, &status));
}

static bool has_image(struct registry_record *record)
{
    char path[48];
    struct dirent *item;
    bool found = false;
    DIR *stream;

    if (record->image[0] != '/') {
        return false; /* a server's: who would know */
    }
    snprintf(path, sizeof(path), "/proc/%ld/fd", (long)record->pid);
    stream = opendir(path);
    if (stream == NULL) {
        return owns_image(record);
    }
    while (!found && (item = readdir(stream)) != NULL) {
        found = item->d_name[0] != '.' && is_of_image(record, dirfd(stream), item->d_name);
    }
    closedir(stream);
    return found;
}

static void judge_image(struct registry_record *record)
{
    record->is_image_doubted = !has_image(record);
    if (record->is_image_doubted) {
        record->image_major = 0;
        record->image_minor = 0;
        record->image_inode = 0;
    }
}

/* --- all of it -------------------------------------------------------------------------- */

/*
 * Of an older daemon, which does not say itself which file that is: what has its name, and is open.
 * Where nothing is, it has another name by now, and what has its own may be anybody's.
 */
static void learn_image(struct registry_record *record)
{
    char directory[48], path[PATH_MAX];
    struct statx status;
    struct dirent *item;
    bool found = false;
    DIR *stream;

    if (record->process < 0) {
        return; /* of another PID namespace: what has that number here is another one */
    }
    snprintf(directory, sizeof(directory), "/proc/%ld/fd", (long)record->pid);
    stream = opendir(directory);
    if (stream == NULL) {
        return;
    }
    while (!found && (item = readdir(stream)) != NULL) {
        found =
            item->d_name[0] != '.' && is_named(record, dirfd(stream), item->d_name, path, &status);
    }
    closedir(stream);
    if (found) {
        registry_set_image(record, &status);
    }
    record->is_image_doubted = !found;
}

bool registry_believes(struct registry_record *record)
{
    uid_t user;

    if (record->user == geteuid()) {
        if (!registry_knows_image(record) && record->image[0] == '/') {
            learn_image(record);
        }
        return true;
    }
    if (record->process < 0 || !process_real_user(record->pid, &user) || user != record->user) {
        return false;
    }
    judge_mount(record);
    judge_image(record);
    return is_there(record->process) && (!record->is_image_doubted || device_of(record) != 0);
}
