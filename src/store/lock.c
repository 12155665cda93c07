/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define USED_BASE        100
#define FORBIDDEN_BASE   200
#define PERMISSION_COUNT 4

static int lock_command(int fd, int command, struct flock *lock)
{
    while (fcntl(fd, command, lock) != 0) {
        switch (errno) {
        case EINTR:
            break;
        case EINVAL: /* a kernel, or a file system, that knows no such locks */
        case ENOSYS:
        case EOPNOTSUPP:
        case ENOLCK:
            return -ENOLCK;
        default:
            return -errno;
        }
    }
    return 0;
}

static struct flock one_byte(short type, off_t byte)
{
    /* l_pid stays 0, as open file description locks demand. */
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
}

/* Takes (F_RDLCK) or gives up (F_UNLCK) the byte of each permission of the set. */
static int set_bytes(int fd, short type, off_t base, unsigned permissions)
{
    for (int n = 0; n < PERMISSION_COUNT; n++) {
        struct flock lock = one_byte(type, base + n);
        int rc;

        if ((permissions & (1u << n)) == 0) {
            continue;
        }
        rc = lock_command(fd, F_OFD_SETLK, &lock);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

/* *held: the permissions of the set whose byte is locked by somebody else. */
static int find_held(int fd, off_t base, unsigned permissions, unsigned *held)
{
    *held = 0;
    for (int n = 0; n < PERMISSION_COUNT; n++) {
        /* A write lock would be in the way of any other: the probe sees shared ones too. */
        struct flock probe = one_byte(F_WRLCK, base + n);
        int rc;

        if ((permissions & (1u << n)) == 0) {
            continue;
        }
        rc = lock_command(fd, F_OFD_GETLK, &probe);
        if (rc != 0) {
            return rc;
        }
        if (probe.l_type != F_UNLCK) {
            *held |= 1u << n;
        }
    }
    return 0;
}

static int take(int fd, const struct lock_request *request, struct lock_conflict *conflict)
{
    int rc = set_bytes(fd, F_RDLCK, USED_BASE, request->uses);

    if (rc == 0) {
        rc = set_bytes(fd, F_RDLCK, FORBIDDEN_BASE, request->forbids);
    }
    if (rc == -EAGAIN || rc == -EACCES) {
        conflict->exclusive = true;
        return -EBUSY;
    }
    return rc;
}

static int look(int fd, const struct lock_request *request, struct lock_conflict *conflict)
{
    int rc = find_held(fd, FORBIDDEN_BASE, request->uses, &conflict->forbidden);

    if (rc == 0) {
        rc = find_held(fd, USED_BASE, request->forbids, &conflict->used);
    }
    if (rc == 0 && (conflict->forbidden | conflict->used) != 0) {
        return -EBUSY;
    }
    return rc;
}

int lock_acquire(int fd, const struct lock_request *request, struct lock_conflict *conflict)
{
    int rc;

    *conflict = (struct lock_conflict){0};
    rc = take(fd, request, conflict);
    if (rc == 0) {
        rc = look(fd, request, conflict);
    }
    if (rc != 0) {
        (void)set_bytes(fd, F_UNLCK, USED_BASE, request->uses);
        (void)set_bytes(fd, F_UNLCK, FORBIDDEN_BASE, request->forbids);
    }
    return rc;
}
