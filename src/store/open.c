/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/open_internal.h"

#include "store/holders.h"
#include "store/lock.h"
#include "store/rights.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

bool cache_is_direct(enum store_cache cache)
{
    return cache == STORE_CACHE_NONE || cache == STORE_CACHE_DIRECTSYNC;
}

/* Sets what the descriptor is to be from here on, in place of O_NONBLOCK. */
static int set_flags(const struct subject *subject, int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0) {
        return open_failed(subject, errno);
    }
    flags &= ~O_NONBLOCK;
    if (fcntl(fd, F_SETFL, flags | O_NOATIME) == 0) {
        flags |= O_NOATIME;
    } else if (fcntl(fd, F_SETFL, flags) != 0) { /* not the owner */
        return open_failed(subject, errno);
    }
    if (!subject->direct || fcntl(fd, F_SETFL, flags | O_DIRECT) == 0) {
        return 0;
    }
    if (errno != EINVAL) {
        return open_failed(subject, errno);
    }
    return error_set(subject->error, EINVAL,
                     "%s: the file system of this %s has no direct I/O (O_DIRECT), which "
                     "cache=none and cache=directsync need; use cache=writeback",
                     subject->path, subject->what);
}

bool host_file_changes_atime(int fd, const struct stat *status)
{
    struct statvfs host;
    int flags = fcntl(fd, F_GETFL);

    return S_ISREG(status->st_mode) && flags >= 0 && (flags & O_NOATIME) == 0 &&
           (fstatvfs(fd, &host) != 0 || (host.f_flag & (ST_NOATIME | ST_RDONLY)) == 0);
}

/* Such a device lets itself be opened for writing, and fails at the first write. */
static int check_writable(const struct subject *subject, int fd, const struct stat *status)
{
    int read_only = 0;

    if (subject->access != STORE_WRITE || !S_ISBLK(status->st_mode) ||
        ioctl(fd, BLKROGET, &read_only) != 0 || read_only == 0) {
        return 0;
    }
    return error_set(subject->error, EROFS,
                     "%s: this %s is a block device that is read-only (losetup -r, a write "
                     "blocker); open it read-only",
                     subject->path, subject->what);
}

/* Whether somebody else must be able to open it. */
static bool is_for_owners(const struct subject *subject)
{
    const struct store_file_options *options = subject->options;

    return options->as_owners && options->led_by != NULL && options->led_by->count > 0;
}

/* From a name to a descriptor, in whichever thread has the right to. */
struct opening {
    const struct subject *subject;
    const char *path;
    struct place_naming naming;
    struct place place; /* what the name leads to */
    int fd;             /* or a negative errno, where has_bytes() or nothing was found */
    uid_t owner;        /* in whose name that was, with options->as_owners */
};

static void find_and_open(void *context)
{
    struct opening *opening = context;
    const struct subject *subject = opening->subject;
    /* O_NONBLOCK: not even a block device is waited for. */
    int flags =
        (subject->access == STORE_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

    opening->fd = place_find(opening->path, &opening->naming, &opening->place);
    if (opening->fd == 0 && subject->options->beneath && !S_ISREG(opening->place.status.st_mode)) {
        opening->fd = -EXDEV;
    } else if (opening->fd == 0) {
        opening->fd = has_bytes(&opening->place) ? place_open(&opening->place, opening->path, flags)
                                                 : -EINVAL;
    }
}

static void ask_owner(struct opening *opening, uid_t owner)
{
    const struct subject *subject = opening->subject;
    mode_t needed = subject->access == STORE_WRITE ? S_IROTH | S_IWOTH : S_IROTH;

    opening->owner = owner;
    if (rights_assume(owner, find_and_open, opening) == 0) {
        return;
    }
    find_and_open(opening); /* and then see whether he could have */
    if (opening->fd >= 0 && !rights_by_mode(owner, opening->fd, needed)) {
        close(opening->fd);
        opening->fd = -EACCES;
    }
}

static bool is_same_file(int fd, int other)
{
    struct stat one, two;

    return fstat(fd, &one) == 0 && fstat(other, &two) == 0 && one.st_dev == two.st_dev &&
           one.st_ino == two.st_ino;
}

/* Whether another owner gets to the same file, too; if not, there is none. */
static void ask_also(struct opening *opening, uid_t owner)
{
    struct opening other = {
        .subject = opening->subject,
        .path = opening->path,
        .naming = opening->naming,
        .place = {.fd = -1},
        .fd = -EINVAL,
    };
    int result;

    ask_owner(&other, owner);
    result = other.fd < 0 ? other.fd : is_same_file(opening->fd, other.fd) ? 0 : -ESTALE;
    if (other.fd >= 0) {
        close(other.fd);
    }
    place_leave(&other.place);
    if (result < 0) {
        close(opening->fd);
        opening->fd = result;
        opening->owner = owner;
    }
}

static void ask_owners(struct opening *opening)
{
    const struct owners *owners = opening->subject->options->led_by;

    ask_owner(opening, owners->users[0]);
    for (unsigned i = 1; i < owners->count && opening->fd >= 0; i++) {
        ask_also(opening, owners->users[i]);
    }
}

/* The path from the root on, for the caller to free; NULL where that is not known. */
static char *absolute(const char *path)
{
    char *here, *whole = NULL;

    if (path[0] == '/') {
        return strdup(path);
    }
    here = getcwd(NULL, 0);
    if (here != NULL && asprintf(&whole, "%s/%s", here, path) < 0) {
        whole = NULL;
    }
    free(here);
    return whole;
}

/* With the rights of the owners that the options name, in all directories from the root on: that
 * this process works in one below is no right of theirs. */
static void open_as_owners(struct opening *opening)
{
    const struct subject *subject = opening->subject;
    char *path, *named_by;

    path = absolute(subject->path);
    named_by = absolute(subject->options->named_by);
    if (path != NULL && named_by != NULL) {
        opening->path = path;
        opening->naming.image = named_by;
        ask_owners(opening);
    } else {
        opening->fd = -EACCES; /* nobody knows where that is */
    }
    free(path);
    free(named_by);
}

/* The descriptor of an opening, or a negative errno with the sentence made. */
static int take(const struct subject *subject, const struct opening *opening)
{
    if (opening->place.magic) {
        return error_set(subject->error, ELOOP,
                         "%s: this %s is named through a link of /proc to an open file, which "
                         "means another file to each program; record its real name with qcow2ctl "
                         "amend",
                         subject->path, subject->what);
    }
    if (opening->place.fd >= 0 && !has_bytes(&opening->place)) {
        return open_refuse_type(subject, &opening->place);
    }
    if (opening->fd == -EACCES && is_for_owners(subject)) {
        return open_forbidden_to_owner(subject, opening->owner);
    }
    return opening->fd < 0 ? open_failed(subject, -opening->fd) : opening->fd;
}

/* A descriptor, or a negative errno with the sentence made. */
static int open_path(const struct subject *subject, struct stat *status)
{
    struct opening opening = {
        .subject = subject,
        .path = subject->path,
        .naming = {subject->options->named_by, subject->options->beneath},
        .place = {.fd = -1},
        .fd = -EINVAL,
    };
    int fd, rc;

    if (is_for_owners(subject)) {
        open_as_owners(&opening);
    } else {
        find_and_open(&opening);
    }
    fd = take(subject, &opening);
    place_leave(&opening.place);
    if (fd < 0) {
        return fd;
    }
    if (fstat(fd, status) != 0) {
        rc = open_failed(subject, errno);
    } else {
        rc = check_writable(subject, fd, status);
    }
    if (rc == 0) {
        rc = set_flags(subject, fd);
    }
    if (rc != 0) {
        close(fd);
        return rc;
    }
    return fd;
}

static int locked_by_others(const struct subject *subject, const struct lock_conflict *conflict,
                            const struct stat *status)
{
    char names[HOLDERS_TEXT_MAX], by[HOLDERS_TEXT_MAX + 4] = "";

    if (holders_find(status->st_dev, status->st_ino, names)[0] != '\0') {
        snprintf(by, sizeof(by), " (%s)", names);
    }
    if (conflict->exclusive) {
        return error_set(subject->error, EBUSY,
                         "%s: another program has locked this %s for itself%s; close it first",
                         subject->path, subject->what, by);
    }
    if ((conflict->forbidden & PERMISSION_CONSISTENT_READ) != 0) {
        return error_set(subject->error, EBUSY,
                         "%s: another program lets nobody read this %s for now%s; wait until it "
                         "has ended",
                         subject->path, subject->what, by);
    }
    if (conflict->used == 0) { /* it is only we who would be in the way */
        return error_set(subject->error, EBUSY,
                         "%s: another program uses this %s and relies on nobody writing it%s; "
                         "close it first",
                         subject->path, subject->what, by);
    }
    return error_set(subject->error, EBUSY,
                     "%s: another program has this %s open for writing%s; close it first%s",
                     subject->path, subject->what, by,
                     subject->access == STORE_READ_SHARED ? ""
                     : subject->access == STORE_READ
                         ? ", or read it as it is with -o force-share (qcow2ctl: -U)"
                         : " (qcow2fs -o force-share only looks at it as it is)");
}

static int lock_file(const struct subject *subject, int fd, const struct stat *status)
{
    const unsigned changes = PERMISSION_WRITE | PERMISSION_RESIZE;
    const struct lock_request requests[] = {
        [STORE_READ] = {PERMISSION_CONSISTENT_READ, changes},
        [STORE_READ_SHARED] = {PERMISSION_CONSISTENT_READ, 0},
        [STORE_WRITE] = {PERMISSION_CONSISTENT_READ | changes, changes},
    };
    struct lock_conflict conflict;
    int rc = lock_acquire(fd, &requests[subject->access], &conflict);

    if (rc == 0 || (rc == -ENOLCK && subject->access != STORE_WRITE)) {
        return 0;
    }
    if (rc == -EBUSY) {
        return locked_by_others(subject, &conflict, status);
    }
    if (rc == -ENOLCK) {
        return error_set(subject->error, ENOLCK,
                         "%s: the file system of this %s has no locks, so nothing would keep two "
                         "programs from writing it at once; move it to another file system, or "
                         "see to that yourself and allow it with -o locking=off (qcow2ctl: "
                         "--locking=off)",
                         subject->path, subject->what);
    }
    return error_set(subject->error, -rc, "%s: this %s cannot be locked: %s%s", subject->path,
                     subject->what, strerror(-rc), open_advice(-rc));
}

/*
 * A block device that is written is nobody else's: not mounted, nor a part of another device, and
 * no other program has claimed it so. The descriptor that has claimed it, in place of `fd`; or
 * `fd`, and *is_used where that could not be.
 */
static int claim_device(const struct subject *subject, int fd, bool *is_used)
{
    char self[32];
    int claimed;

    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    claimed = open(self, O_RDWR | O_EXCL | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    *is_used = claimed < 0 && errno == EBUSY;
    if (claimed < 0) {
        return fd;
    }
    close(fd);
    if (set_flags(subject, claimed) != 0) {
        close(claimed);
        return -EIO;
    }
    return claimed;
}

static int used_by_system(const struct subject *subject)
{
    return error_set(subject->error, EBUSY,
                     "%s: this %s is a block device that is mounted, or that another device or "
                     "program has for itself, and would be overwritten under it; see "
                     "lsblk(8), and unmount it first",
                     subject->path, subject->what);
}

/* What others do with it. 0, or a negative errno with the sentence made. */
static int take_for_itself(const struct subject *subject, int *fd, const struct stat *status)
{
    bool is_used = false;
    int rc;

    if (subject->options->no_locks) {
        return 0;
    }
    if (subject->access == STORE_WRITE && S_ISBLK(status->st_mode)) {
        *fd = claim_device(subject, *fd, &is_used);
        if (*fd < 0) {
            return *fd;
        }
    }
    rc = lock_file(subject, *fd, status);
    return rc == 0 && is_used ? used_by_system(subject) : rc;
}

/* Who has a say in what the file names. */
static int find_owners(const struct subject *subject, int fd, struct host_file *file)
{
    const struct owners *led_by = subject->options->led_by;

    file->owners = led_by != NULL ? *led_by : (struct owners){0};
    return owners_add(&file->owners, owners_of_file(fd, &file->status))
               ? 0
               : error_set(subject->error, EUSERS,
                           "%s: this %s is reached by way of images of %d other users, and no more "
                           "are supported; give the images of the chain to one user, or allow it "
                           "with -o trust-names (qcow2ctl: --trust-names)",
                           subject->path, subject->what, OWNERS_MAX);
}

int host_file_open_here(const char *path, const char *what,
                        const struct store_file_options *options, struct host_file *file,
                        struct error *error)
{
    const struct subject subject = {
        .path = path,
        .what = what,
        .access = options->access,
        .direct = cache_is_direct(options->cache),
        .options = options,
        .error = error,
    };
    int rc, fd = open_path(&subject, &file->status);

    if (fd < 0) {
        return fd;
    }
    rc = find_owners(&subject, fd, file);
    if (rc == 0) {
        rc = take_for_itself(&subject, &fd, &file->status);
    }
    if (rc != 0) {
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    return fd;
}
