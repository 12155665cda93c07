/* SPDX-License-Identifier: MIT */
/*
 * The byte-range locks by which QEMU's file driver and this program keep out
 * of each other's way (the layout is drawn in store/file.h). They are open
 * file description locks: they belong to the open file, not to the process,
 * and end when the last descriptor of it is closed. Internal to the store.
 */
#ifndef STORE_LOCK_H
#define STORE_LOCK_H

#include <stdbool.h>

/* What can be done with an image; bit n is byte 100 + n, and 200 + n, of the file. */
enum permission {
    PERMISSION_CONSISTENT_READ = 1 << 0,
    PERMISSION_WRITE = 1 << 1,
    PERMISSION_WRITE_UNCHANGED = 1 << 2, /* writing what is there already */
    PERMISSION_RESIZE = 1 << 3,
};

/* Sets of permissions. */
struct lock_request {
    unsigned uses;    /* what the caller will do */
    unsigned forbids; /* what nobody else may do meanwhile */
};

/* Why a request was refused. */
struct lock_conflict {
    unsigned used;      /* what the caller forbids and others use */
    unsigned forbidden; /* what the caller uses and others forbid */
    bool exclusive;     /* another program holds an exclusive lock, as QEMU never does */
};

/*
 * Takes the locks of `request`, then looks whether others hold one that it
 * cannot live with: in this order, so that of two programs starting at once
 * at least one sees the other. `fd` is open for reading. All or nothing:
 *
 *     0         the locks are held
 *     -EBUSY    they are not, and *conflict says why
 *     -ENOLCK   the host cannot lock this file in this way
 *
 * or another negative errno of the host.
 */
int lock_acquire(int fd, const struct lock_request *request, struct lock_conflict *conflict);

#endif
