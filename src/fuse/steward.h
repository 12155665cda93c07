/* SPDX-License-Identifier: MIT */
/*
 * The steward: a small process apart, which keeps the privileges that the server gives up
 * (util/box.h) for the little that is to be done with them later, and does nothing else. It is made
 * before the first byte of an image is looked at; so it has none of its bytes, no keys, and no
 * descriptor but the sockets over which it is asked. Until steward_seal() it is told on what it
 * works; from then on it is only asked to do one of these things, on just that, whoever asks:
 *
 *   - what the kernel does with the raw disk of the mount for nobody but a program
 *     (fuse/own_disk.h), and what else of the kernel's stands on it (fuse/above_disk.h);
 *   - look whether the connection was aborted, and unmount;
 *   - take away the names of the daemon: its pid file, its files in the registry;
 *   - write a line to the journal, or to syslog.
 *
 * And it unmounts unasked, where it was told so, when the server is gone without having said that
 * it ends.
 *
 * It ends when the server does, however that ends, since the sockets do. It holds nothing that the
 * server's end is to let go of: neither /dev/fuse, whose mount a killed server would otherwise keep
 * waiting, nor locks, nor the pipes of who started us. No signal to end reaches it.
 *
 * Three sockets, each with a thread of the steward's: a question may wait for the mount, that is
 * for the server. So the disk's size and times, its fsync, and all else do not wait for each other.
 */
#ifndef FUSE_STEWARD_H
#define FUSE_STEWARD_H

#include "util/box.h"
#include "util/registry.h"

#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

struct steward;

/* No thread may run. `filters`: it is to help with the box. 0 or a negative errno. */
int steward_start(bool filters, struct steward **steward);

/*
 * --- On what it works: each 0, or a negative errno where it could not be told. What it says to
 * that is not waited for: a failure is steward_seal()'s.
 */

/* What the journal is told with each line; `path` is as absolute as it can be. */
int steward_tell_image(struct steward *steward, const char *path);

/*
 * `path` as it was given to mount(2); a device of 0 is unknown. With `unmounts` the mount does not
 * outlive the server, whatever ends that.
 */
int steward_tell_mount(struct steward *steward, const char *path, dev_t device, bool unmounts);

/* As in struct own_disk, with the mount's device, which comes before. */
int steward_tell_disk(struct steward *steward, const char *path, ino_t inode);

/* Absolute; it has the number of the process that calls. */
int steward_tell_pid_file(struct steward *steward, const char *path);

int steward_tell_registry(struct steward *steward, const struct registry_entry *entry);

/*
 * That is all: it listens to nothing of this any more. With `needs`, of a box that this process is
 * about to enter, it begins to put a filter together, which is to be taken next: nobody may ask
 * anything meanwhile.
 */
int steward_seal(struct steward *steward, const struct box_needs *needs);

/* As box_helper.take; `steward` is a struct steward. */
size_t steward_take_filter(void *steward, struct sock_filter *program);

/* --- What it is asked for: by any thread, until it is done. */

/* 0 or a negative errno, as own_disk.h has them; -ENXIO where there is no disk to write. */
int steward_sync_disk(struct steward *steward);
int steward_sync_above_disk(struct steward *steward); /* as above_disk.h has it */
int steward_restore_size(struct steward *steward);
int steward_set_times(struct steward *steward, const struct timespec times[2]);

/* The id of the thread that asks the mount for size and times; 0 before steward_seal(). */
pid_t steward_disk_thread(const struct steward *steward);

/* mount_point_was_aborted() of the mount. */
bool steward_sees_abort(struct steward *steward);

/* Nobody answers requests any more. 0 or a negative errno. */
int steward_unmount(struct steward *steward);

int steward_remove_pid_file(struct steward *steward);
int steward_remove_registry(struct steward *steward);

/*
 * To systemd's journal, with the image and the mount point as fields; where there is none, to
 * syslog. Waits for nothing. 0, or a negative errno where it is not there any more.
 */
int steward_log(struct steward *steward, int priority, const char *line);

/* Waits for its end, for a second at most. `steward` may be NULL. */
void steward_stop(struct steward *steward);

#endif
