/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/raw_disk.h"

#include "ctl/run.h"
#include "util/fuse_device.h"
#include "util/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DISK_NAME "disk.raw"

/* --- a mount without a name ------------------------------------------------------------- */

struct connection {
    int fuse;  /* the server's end */
    int mount; /* the kernel's mount */
};

static int set(int context, const char *name, const char *value)
{
    return fsconfig(context, FSCONFIG_SET_STRING, name, value, 0);
}

static int configure(int context, int fuse, const char *image, bool read_only)
{
    char number[24], user[24], group[24];

    snprintf(number, sizeof(number), "%d", fuse);
    snprintf(user, sizeof(user), "%u", (unsigned)geteuid());
    snprintf(group, sizeof(group), "%u", (unsigned)getegid());
    if (set(context, "source", image) != 0 || set(context, "subtype", "qcow2fs") != 0 ||
        set(context, "fd", number) != 0 || set(context, "rootmode", "40000") != 0 ||
        set(context, "user_id", user) != 0 || set(context, "group_id", group) != 0 ||
        fsconfig(context, FSCONFIG_SET_FLAG, "default_permissions", NULL, 0) != 0) {
        return -errno;
    }
    if (read_only && fsconfig(context, FSCONFIG_SET_FLAG, "ro", NULL, 0) != 0) {
        return -errno;
    }
    return fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0 ? 0 : -errno;
}

/* 0; -EPERM and the like where this user or this kernel has no such mounts. */
static int connect_detached(const char *image, bool read_only, struct connection *connection)
{
    int context = fsopen("fuse", FSOPEN_CLOEXEC);
    int result;

    *connection = (struct connection){.fuse = -1, .mount = -1};
    if (context < 0) {
        return -errno;
    }
    connection->fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    result = connection->fuse < 0 ? -errno : configure(context, connection->fuse, image, read_only);
    if (result == 0) {
        connection->mount = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID);
        result = connection->mount < 0 ? -errno : 0;
    }
    close(context);
    if (result != 0 && connection->fuse >= 0) {
        close(connection->fuse);
        connection->fuse = -1;
    }
    return result;
}

/* Which device the mount's files are on, without asking the server, which does not run yet. */
static dev_t device_of(int mount)
{
    struct statx status;

    return statx(mount, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &status) == 0
               ? makedev(status.stx_dev_major, status.stx_dev_minor)
               : 0;
}

/* --- the server ----------------------------------------------------------------------------- */

/* The options for it; NULL when memory ran out. */
static char *join_options(const struct raw_disk_settings *settings, dev_t device)
{
    char *joined, number[64] = "";

    if (device != 0) {
        snprintf(number, sizeof(number), ",mounted-device=%u:%u", major(device), minor(device));
    }
    /* What the options say of nbdkit counts, too, and more. */
    if (asprintf(&joined, "errno-told,%s%s%s%s%s,shown-to-others",
                 settings->allows_nbdkit ? "nbdkit," : "",
                 settings->options != NULL ? settings->options : "",
                 settings->read_only ? ",ro" : "", settings->trusts_names ? ",trust-names" : "",
                 number) < 0) {
        return NULL;
    }
    return joined;
}

static int serve(const struct raw_disk_settings *settings, dev_t device, char *mount_point,
                 int fuse, struct log *log, struct error *error)
{
    char *options = join_options(settings, device);
    const char *const argv[] = {
        "qcow2fs", "-o", options, "--", settings->image, mount_point, NULL,
    };
    const int keep[] = {fuse, -1};
    int result;

    if (options == NULL) {
        return error_set(error, ENOMEM, "out of memory for the mount");
    }
    result = run_program(argv, keep, log, error);
    free(options);
    return result;
}

/* --- its files -------------------------------------------------------------------------------- */

static int open_file(const struct raw_disk_settings *settings, struct raw_disk *disk,
                     struct error *error)
{
    struct stat status;

    disk->writable = !settings->read_only;
    disk->file = disk->writable ? openat(disk->mount, DISK_NAME, O_RDWR | O_CLOEXEC) : -1;
    if (disk->file < 0) {
        disk->writable = false; /* which qcow2fs has told already, where nobody wished it */
        disk->file = openat(disk->mount, DISK_NAME, O_RDONLY | O_CLOEXEC);
    }
    if (disk->file < 0 || fstat(disk->file, &status) != 0) {
        return error_set(error, errno, "%s: its raw disk cannot be opened: %s", settings->image,
                         strerror(errno));
    }
    disk->size = (uint64_t)status.st_size;
    disk->device = status.st_dev;
    return 0;
}

static int open_detached(const struct raw_disk_settings *settings, struct connection *connection,
                         struct log *log, struct raw_disk *disk, struct error *error)
{
    char mount_point[32];
    int result;

    snprintf(mount_point, sizeof(mount_point), "/dev/fd/%d", connection->fuse);
    result =
        serve(settings, device_of(connection->mount), mount_point, connection->fuse, log, error);
    close(connection->fuse);
    disk->mount = connection->mount;
    return result == 0 ? open_file(settings, disk, error) : result;
}

/* --- with a name, until it is let go -------------------------------------------------------- */

static int open_named(const struct raw_disk_settings *settings, struct log *log,
                      struct raw_disk *disk, struct error *error)
{
    int result = passing_mount_begin(&disk->name, log, error);

    if (result == 0) {
        result = serve(settings, 0, disk->name.path, -1, log, error);
    }
    if (result != 0) {
        return result;
    }
    disk->mount = open(disk->name.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return disk->mount < 0 ? error_set(error, errno, "%s: cannot be opened: %s", disk->name.path,
                                       strerror(errno))
                           : open_file(settings, disk, error);
}

char *raw_disk_path(struct raw_disk *disk, struct log *log, struct error *error)
{
    char *path;

    if (disk->name.path == NULL) {
        if (passing_mount_begin(&disk->name, log, error) != 0) {
            return NULL;
        }
        if (move_mount(disk->mount, "", AT_FDCWD, disk->name.path, MOVE_MOUNT_F_EMPTY_PATH) != 0) {
            error_set(error, errno, "%s: the raw disk cannot be mounted there: %s", disk->name.path,
                      strerror(errno));
            return NULL;
        }
    }
    if (asprintf(&path, "%s/" DISK_NAME, disk->name.path) < 0) {
        error_set(error, ENOMEM, "out of memory for the mount");
        return NULL;
    }
    return path;
}

int raw_disk_open(const struct raw_disk_settings *settings, struct log *log, struct raw_disk *disk,
                  struct error *error)
{
    struct connection connection;
    int result;

    *disk = (struct raw_disk){.mount = -1, .file = -1, .log = log};
    result = fuse_device_check(error);
    if (result < 0) {
        return result;
    }
    result = connect_detached(settings->image, settings->read_only, &connection);
    result = result == 0 ? open_detached(settings, &connection, log, disk, error)
                         : open_named(settings, log, disk, error);
    if (result != 0) {
        raw_disk_end(disk);
    }
    return result;
}

void raw_disk_let_go(struct raw_disk *disk)
{
    passing_mount_end(&disk->name, disk->log);
    if (disk->file >= 0) {
        close(disk->file);
    }
    if (disk->mount >= 0) {
        close(disk->mount);
    }
    disk->file = -1;
    disk->mount = -1;
}

#define END_MILLISECONDS 60000 /* of one that has nothing to write; it may be busy all the same */

/* A descriptor of the daemon's file, in *found. */
struct search {
    dev_t device;
    int found;
};

static int compare_device(void *context, const struct registry_record *record, int descriptor)
{
    struct search *search = context;

    if (search->device == makedev((unsigned)record->major, (unsigned)record->minor)) {
        search->found = fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
        return 1;
    }
    return 0;
}

void raw_disk_end(struct raw_disk *disk)
{
    struct search search = {.device = disk->device, .found = -1};
    struct registry_record end;

    if (disk->device != 0) {
        (void)registry_visit(compare_device, &search);
    }
    raw_disk_let_go(disk);
    if (search.found >= 0) {
        if (registry_wait(search.found, END_MILLISECONDS, &end) == 0) {
            registry_release(&end);
        }
        close(search.found);
    }
}
