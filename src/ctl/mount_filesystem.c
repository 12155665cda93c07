/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/mount_filesystem.h"

#include "ctl/run.h"
#include "util/loop.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

/* What keeps a read-only mount from replaying a journal, which it could not write. */
static const char *without_replay(const char *type)
{
    static const struct {
        const char *type, *option;
    } options[] = {
        {"ext3", "noload"},
        {"ext4", "noload"},
        {"xfs", "norecovery"},
        {"btrfs", "rescue=nologreplay"},
    };

    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (strcmp(type, options[i].type) == 0) {
            return options[i].option;
        }
    }
    return NULL;
}

/* --- the kernel -------------------------------------------------------------------------- */

static char *kernel_options(const struct filesystem_mount *wanted, const char *type)
{
    const char *replay = wanted->read_only ? without_replay(type) : NULL;
    char *list;

    if (asprintf(&list, "%s%s%s%s%s", wanted->read_only ? "ro" : "rw", replay != NULL ? "," : "",
                 replay != NULL ? replay : "", wanted->options != NULL ? "," : "",
                 wanted->options != NULL ? wanted->options : "") < 0) {
        return NULL;
    }
    return list;
}

static int mount_device(const struct filesystem_mount *wanted, const char *type, char *device,
                        struct log *log, struct error *error)
{
    char *options = kernel_options(wanted, type);
    const char *const argv[] = {
        "mount", "-t", type, "-o", options, "--", device, wanted->directory, NULL,
    };
    int result;

    if (options == NULL) {
        return error_set(error, ENOMEM, "out of memory for the mount");
    }
    result = run_program(argv, NULL, log, error);
    free(options);
    return result;
}

static int mount_by_kernel(const struct filesystem_mount *wanted, const char *type, struct log *log,
                           struct error *error)
{
    const struct loop_settings settings = {
        .offset = wanted->place->offset,
        .size = wanted->place->size,
        .read_only = wanted->read_only,
        .autoclear = true,
        .direct_io = true, /* the file system has a page cache, and that is enough */
    };
    char device[LOOP_NAME_MAX];
    int descriptor = loop_attach(wanted->disk->file, &settings, device, error);
    int result;

    if (descriptor < 0) {
        return descriptor;
    }
    result = mount_device(wanted, type, device, log, error);
    close(descriptor); /* the mount keeps the device, or nobody does */
    return result;
}

/* --- FUSE programs ----------------------------------------------------------------------- */

struct fuse_program {
    const char *type, *program, *package;
    const char *flag;      /* before the file; or NULL */
    const char *options;   /* always; or NULL */
    const char *read_only; /* options for that */
    bool can_write;
    bool takes_fsname;  /* and shows it as what is mounted */
    bool takes_offset;  /* so that a partition can be told within the file of the disk */
    bool resolves;      /* opens the name that the file has, not the one that it is given */
    bool chatters;      /* says what nobody wants to know */
    const char *helper; /* it mounts devices alone, for root: the type by which mount(8) calls it */
    const char *hint;   /* where it failed without root; or NULL */
    const char *fakes_root; /* the option with which its user may do all in there; or NULL */
};

static const struct fuse_program programs[] = {
    {"ext2", "fuse2fs", "fuse2fs", .read_only = "ro", .can_write = true, .takes_fsname = true,
     .takes_offset = true, .fakes_root = "fakeroot"},
    {"ext3", "fuse2fs", "fuse2fs", .read_only = "ro,norecovery", .can_write = true,
     .takes_fsname = true, .takes_offset = true, .fakes_root = "fakeroot"},
    {"ext4", "fuse2fs", "fuse2fs", .read_only = "ro,norecovery", .can_write = true,
     .takes_fsname = true, .takes_offset = true, .fakes_root = "fakeroot"},
    {"ntfs", "ntfs-3g", "ntfs-3g", .read_only = "ro,norecover", .can_write = true, .resolves = true,
     .chatters = true,
     .hint = "if it runs with root's rights, it needs -o allow_other to get there, and that needs "
             "user_allow_other in /etc/fuse.conf"},
    {"vfat", "fusefat", "fusefat", .options = "rw+", .read_only = "ro", .can_write = true,
     .takes_offset = true, .chatters = true},
    {"exfat", "mount.exfat-fuse", "exfat-fuse", .helper = "exfat-fuse"},
    {"squashfs", "squashfuse", "squashfuse", .read_only = "ro", .takes_offset = true},
    {"erofs", "erofsfuse", "erofsfuse", .read_only = "ro"},
    /* It would keep a list of its mounts in the user's home. */
    {"iso9660", "fuseiso", "fuseiso", .flag = "-n", .read_only = "ro", .resolves = true,
     .chatters = true},
};

static const struct fuse_program *find_program(const char *type)
{
    for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
        if (strcmp(programs[i].type, type) == 0) {
            return &programs[i];
        }
    }
    return NULL;
}

/* Appends to a list that may be NULL; it is freed, and NULL again, when memory runs out. */
static void add_option(char **list, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_option(char **list, const char *format, ...)
{
    char *item = NULL, *longer = NULL;
    va_list arguments;

    va_start(arguments, format);
    if (*list == NULL || vasprintf(&item, format, arguments) < 0 ||
        asprintf(&longer, "%s%s%s", *list, **list != '\0' ? "," : "", item) < 0) {
        longer = NULL;
    }
    va_end(arguments);
    free(item);
    free(*list);
    *list = longer;
}

/* Comma-separated, possibly empty; NULL when memory ran out. */
static char *program_options(const struct filesystem_mount *wanted,
                             const struct fuse_program *program)
{
    const char *base = wanted->read_only ? program->read_only : program->options;
    char *list = strdup("");

    if (program->takes_fsname && strpbrk(wanted->image, ",\\") == NULL) {
        add_option(&list, "fsname=%s", wanted->image);
    }
    if (base != NULL) {
        add_option(&list, "%s", base);
    }
    if (wanted->place->offset != 0) {
        add_option(&list, "offset=%" PRIu64, wanted->place->offset);
    }
    if (wanted->options != NULL) {
        add_option(&list, "%s", wanted->options);
    }
    return list;
}

/* What it is to open; free() it. */
static char *name_for(const struct filesystem_mount *wanted, const struct fuse_program *program,
                      struct log *log, struct error *error)
{
    char *path;

    if (program->resolves) {
        return raw_disk_path(wanted->disk, log, error);
    }
    if (asprintf(&path, "/proc/self/fd/%d", wanted->disk->file) < 0) {
        error_set(error, ENOMEM, "out of memory for the mount");
        return NULL;
    }
    return path;
}

static int with_hint(const struct fuse_program *program, struct error *error)
{
    struct error said = *error;

    return error_set(error, said.code, "%s: %s; %s", program->program, said.text, program->hint);
}

static int run_fuse_program(const struct filesystem_mount *wanted,
                            const struct fuse_program *program, struct log *log,
                            struct error *error)
{
    char *path = name_for(wanted, program, log, error), *options = program_options(wanted, program);
    bool has_options = options != NULL && options[0] != '\0';
    const char *const words[] = {
        program->program,          program->flag, path, wanted->directory,
        has_options ? "-o" : NULL, options,
    };
    const char *argv[sizeof(words) / sizeof(words[0]) + 1] = {NULL};
    const int keep[] = {wanted->disk->file, -1};
    size_t count = 0;
    int result;

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (words[i] != NULL && words[i][0] != '\0') {
            argv[count++] = words[i];
        }
    }

    if (path == NULL) {
        result = -error->code;
    } else if (options == NULL) {
        result = error_set(error, ENOMEM, "out of memory for the mount");
    } else {
        result = run_program(argv, keep, program->chatters ? NULL : log, error);
    }
    free(path);
    free(options);
    if (result == -ENOENT) {
        return error_set(error, ENOENT,
                         "%s: to mount %s without root the program %s is needed; install it "
                         "(Debian: apt-get install %s)",
                         wanted->image, program->type, program->program, program->package);
    }
    return result == -EIO && program->hint != NULL && geteuid() != 0 ? with_hint(program, error)
                                                                     : result;
}

/* It asks owners and modes as the kernel does: those of a disk that another machine wrote. */
static void tell_who_may_write(const struct filesystem_mount *wanted,
                               const struct fuse_program *program, struct log *log)
{
    if (program->fakes_root != NULL && !wanted->read_only && access(wanted->directory, W_OK) != 0 &&
        errno == EACCES) {
        log_line(log, LOG_LEVEL_WARNING,
                 "%s: its top directory is another user's, and not yours to write; to write as "
                 "root of that file system unmount it, and mount it with --fs-options=%s",
                 wanted->directory, program->fakes_root);
    }
}

static int mount_by_program(const struct filesystem_mount *wanted, const char *type,
                            struct log *log, struct error *error)
{
    const struct fuse_program *program = find_program(type);
    struct filesystem_mount as_can_be = *wanted;
    int result;

    if (program == NULL) {
        return error_set(error, ENOTSUP,
                         "%s: there is no FUSE program for the file system %s; mount it as root, "
                         "where the kernel does",
                         wanted->image, type);
    }
    if (program->helper != NULL) {
        return error_set(error, ENOTSUP,
                         "%s: %s mounts nothing but block devices; mount it as root, where it gets "
                         "a loop device",
                         wanted->image, program->program);
    }
    if (wanted->place->partition != 0 && !program->takes_offset) {
        return error_set(error, ENOTSUP,
                         "%s: %s cannot be told where in the disk a partition begins; mount it as "
                         "root, where the kernel does",
                         wanted->image, program->program);
    }
    as_can_be.read_only |= !program->can_write;
    result = run_fuse_program(&as_can_be, program, log, error);
    if (result == 0) {
        tell_who_may_write(&as_can_be, program, log);
    }
    return result;
}

/* --- which of the two, and what is neither ------------------------------------------------- */

static int refuse(const struct filesystem_mount *wanted, struct error *error)
{
    const struct filesystem_found *found = wanted->place->found;
    char where[32] = "the disk";

    if (wanted->place->partition != 0) {
        snprintf(where, sizeof(where), "partition %u", wanted->place->partition);
    }
    switch (found->usage) {
    case FILESYSTEM_SWAP:
        return error_set(error, EINVAL, "%s: %s is swap space, no file system", wanted->image,
                         where);
    case FILESYSTEM_RAID:
        return error_set(
            error, EINVAL,
            "%s: %s is a part of something larger (%s); go on from qcow2ctl attach: %s",
            wanted->image, where, found->type,
            strcmp(found->type, "LVM2_member") == 0
                ? "vgchange -ay, lvs, then mount /dev/VOLUMEGROUP/VOLUME"
                : "mdadm --assemble --scan --readonly, then mount /dev/mdN");
    case FILESYSTEM_CRYPTO:
        return error_set(error, EINVAL,
                         "%s: %s is encrypted (%s); go on from qcow2ctl attach: cryptsetup open "
                         "DEVICE NAME, then mount /dev/mapper/NAME",
                         wanted->image, where, found->type);
    case FILESYSTEM_AMBIGUOUS:
        return error_set(error, EINVAL,
                         "%s: %s has the marks of several file systems; say which with --fs-type",
                         wanted->image, where);
    case FILESYSTEM_NONE:
    case FILESYSTEM_MOUNT:
        break;
    }
    return filesystem_available()
               ? error_set(error, EINVAL, "%s: %s has no file system that is known", wanted->image,
                           where)
               : error_set(error, ENOTSUP,
                           "%s: to recognise file systems this program needs libblkid, which it "
                           "was built without; say which it is with --fs-type",
                           wanted->image);
}

/* A container's root has neither loop devices nor the kernel's mounts of them. */
static bool is_root_of_the_host(void)
{
    unsigned inside = 1, outside = 1, count = 0;
    FILE *map = fopen("/proc/self/uid_map", "re");

    if (map == NULL) {
        return geteuid() == 0;
    }
    if (fscanf(map, "%u %u %u", &inside, &outside, &count) != 3) {
        count = 0;
    }
    fclose(map);
    return geteuid() == 0 && inside == 0 && outside == 0 && count == UINT32_MAX;
}

enum kernel_type {
    KERNEL_UNKNOWN, /* it may have a module */
    KERNEL_DEVICE,
    KERNEL_NO_DEVICE, /* tmpfs, proc and the like show what is on no disk */
};

static enum kernel_type kernel_type(const char *type)
{
    FILE *list = fopen("/proc/filesystems", "re");
    enum kernel_type found = KERNEL_UNKNOWN;
    char line[128];

    while (list != NULL && found == KERNEL_UNKNOWN && fgets(line, sizeof(line), list) != NULL) {
        char *name = strchr(line, '\t');

        line[strcspn(line, "\n")] = '\0';
        if (name != NULL && strcmp(name + 1, type) == 0) {
            found = name == line ? KERNEL_DEVICE : KERNEL_NO_DEVICE;
        }
    }
    if (list != NULL) {
        fclose(list);
    }
    return found;
}

/* mount(8) takes a list, and tries each. */
static int check_type(const struct filesystem_mount *wanted, struct error *error)
{
    char *types = wanted->type != NULL ? strdup(wanted->type) : NULL, *state = NULL;
    int result = 0;

    if (types == NULL) {
        return wanted->type == NULL ? 0 : error_set(error, ENOMEM, "out of memory for the mount");
    }
    for (char *type = strtok_r(types, ",", &state); type != NULL && result == 0;
         type = strtok_r(NULL, ",", &state)) {
        if (kernel_type(type) == KERNEL_NO_DEVICE) {
            result = error_set(error, EINVAL,
                               "%s: a file system of the type %s is on no disk, and would show "
                               "nothing of this one; leave --fs-type out, or name the type of "
                               "what is there",
                               wanted->image, type);
        }
    }
    free(types);
    return result;
}

/* A module that was loaded for the mount has told what it is only now. */
static int mount_and_check(const struct filesystem_mount *wanted, const char *type, struct log *log,
                           struct error *error)
{
    int result = mount_by_kernel(wanted, type, log, error);

    if (result == 0) {
        result = check_type(wanted, error);
        if (result != 0) {
            (void)umount2(wanted->directory, MNT_DETACH);
        }
    }
    return result;
}

int mount_filesystem(const struct filesystem_mount *wanted, struct log *log, struct error *error)
{
    const struct filesystem_found *found = wanted->place->found;
    const char *type = wanted->type != NULL ? wanted->type : found->type;
    int checked = check_type(wanted, error);

    if (checked != 0) {
        return checked;
    }
    if (wanted->type == NULL && found->usage != FILESYSTEM_MOUNT) {
        return refuse(wanted, error);
    }
    if (is_root_of_the_host() && access("/dev/loop-control", W_OK) == 0) {
        /* A kernel without that file system, and without a module for it, may have a program. */
        const struct fuse_program *other =
            kernel_type(type) != KERNEL_UNKNOWN ? NULL : find_program(type);
        bool has_other = other != NULL && run_find(other->program) == 0;
        int result = mount_and_check(wanted, type, has_other ? NULL : log, error);

        if (result != -EIO || !has_other || kernel_type(type) != KERNEL_UNKNOWN) {
            return result;
        }
        *error = (struct error){0};
        if (other->helper != NULL) {
            return mount_by_kernel(wanted, other->helper, log, error);
        }
    }
    return mount_by_program(wanted, type, log, error);
}
