/* SPDX-License-Identifier: MIT */
/*
 * What is asked of our own mount, through the kernel, as any other program would: for what the
 * kernel does for nobody but a program: hand over what it has cached (fsync), go back to the size
 * that the disk has (truncate), and know when a mount point was changed (utimensat). The steward
 * does it, a process that has no part in answering (fuse/steward.h).
 *
 * A thread asks it, since the requests which follow from it must be answered by others. Nobody who
 * answers requests ever waits for it.
 *
 * One leaf mutex.
 */
#ifndef FUSE_OWN_MOUNT_H
#define FUSE_OWN_MOUNT_H

#include "fuse/steward.h"

#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

struct own_mount;

/* `steward` is told of the disk before it is asked anything. 0 or -ENOMEM. */
int own_mount_create(struct steward *steward, struct own_mount **own);

/*
 * How the kernel is made to hand over what it holds of the disk where no path leads to it any more
 * (detached lazily, or covered by another mount): called by own_mount_sync()'s thread, and by
 * who calls own_mount_hand_over(). 0 or a negative errno.
 */
void own_mount_set_recall(struct own_mount *own, int (*recall)(void *context), void *context);

/* Starts the thread, after the last fork(). 0 or a negative errno. */
int own_mount_start(struct own_mount *own);

/*
 * Returns when what the kernel has cached of the disk is stable, what it holds in file systems and
 * devices above it included, or after so many seconds. 0, -ETIMEDOUT, or the negative errno of what
 * failed; to be called once, while requests are answered.
 */
int own_mount_sync(struct own_mount *own, unsigned seconds);

/*
 * What is cached of the disk alone, without an end, any number of times, by any thread that answers
 * no requests; also where own_mount_start() was not called.
 */
int own_mount_hand_over(struct own_mount *own);

/*
 * Makes the kernel take the disk's size from us again: it holds a larger one
 * when something was written past the end. Returns at once.
 */
void own_mount_restore_size(struct own_mount *own);

/*
 * Sets the times of the disk as the kernel knows them, to those of last access
 * and change; then calls `done`, in either case. Returns at once. To be called
 * once.
 */
void own_mount_set_times(struct own_mount *own, const struct timespec times[2],
                         void (*done)(void *context), void *context);

/* Whether it is the thread that asks for attributes; `own` may be NULL. */
bool own_mount_recognise(struct own_mount *own, pid_t asking);

/* After the unmount: ends the thread. `own` may be NULL. */
void own_mount_destroy(struct own_mount *own);

#endif
