/* SPDX-License-Identifier: MIT */
/*
 * Which daemons run, so that qcow2ctl can list them, find the one behind a mount
 * and wait for its end: a file for each, named after its process, in a directory
 * that belongs to its user (util/registry_places). The daemon holds a lock (flock) on its file for
 * as long as it lives, whatever ends it: a file without one is what a killed daemon left, and who
 * meets it removes it. Before it ends by itself the daemon adds how it ended; who had the
 * file open then waits for the lock, and reads that.
 *
 * The file holds name=value pairs, each ended by a NUL. No file is believed that
 * does not belong to the user whose directory it is in, and of another user's only what the kernel
 * says as well (util/registry_belief). Nothing here is needed for
 * a mount to work: where the directory cannot be made, a daemon is merely not listed.
 */
#ifndef UTIL_REGISTRY_H
#define UTIL_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct statx;

struct registry_record {
    pid_t pid;
    uid_t user;            /* the file's owner; of what another one wrote only what the kernel bears
                              out is told (util/registry_belief) */
    int process;           /* a descriptor of that process (pidfd) while registry_visit() shows the
                              record, else -1; -1, too, where this namespace has none of that number */
    char *image;           /* an absolute path, as it was when it was mounted */
    char *mount_point;     /* an absolute path; empty for a mount that has no name */
    bool writable;         /* the disk is; ... */
    bool overlay;          /* ... but that is written to an overlay, and the image is not */
    bool is_image_doubted; /* another user says so, and nothing bears him out; or an older daemon
                              does, and has nothing of that name open any more */
    int64_t since;         /* seconds, CLOCK_REALTIME */
    uint64_t major;        /* of the file system's device, st_dev of its files; both 0: unknown */
    uint64_t minor;
    uint64_t image_major; /* of the device on which the image's file is, ... */
    uint64_t image_minor;
    uint64_t image_inode; /* ... and its inode there; 0: the image is that block device itself. All
                             0: unknown, or no file of this host */

    /* What the daemon added before it ended; a killed one adds nothing. */
    bool has_ended;
    int status;    /* its exit status */
    char *message; /* its last sentence, or empty */
};

/* --- the daemon's side --------------------------------------------------- */

struct registry_entry; /* its own file, locked */

/* Makes and locks the file of this process. NULL, with errno, where that cannot be; a mount needs
 * none. */
struct registry_entry *registry_enter(const struct registry_record *record);

/*
 * A listening socket (SOCK_SEQPACKET) beside the file, for util/control; the caller closes it, and
 * registry_remove() removes its name. -1 where there can be none, and where `entry` is NULL.
 */
int registry_listen(const struct registry_entry *entry);

/* The directory's descriptor, which stays the entry's, and the name in it: for registry_remove().
 */
int registry_directory(const struct registry_entry *entry);
const char *registry_name(const struct registry_entry *entry);

/* Adds how the daemon ended. */
void registry_end(const struct registry_entry *entry, int status, const char *message);

/* Removes the file and its socket: by whichever process may, while the lock is still held. */
void registry_remove(int directory, const char *name);

/* Gives it back, with the lock. */
void registry_leave(struct registry_entry *entry);

/* --- the others' side ------------------------------------------------------ */

/*
 * Calls `each` for every daemon that runs, of this user or, for root, of all; what
 * killed ones left is removed on the way. `descriptor` is the open file, `record`
 * is freed afterwards. Ends early, and returns that, when `each` returns what is not 0; with a
 * negative errno where it cannot look, as without descriptors: that is no "nobody".
 */
int registry_visit(int (*each)(void *context, const struct registry_record *record, int descriptor),
                   void *context);

/*
 * Waits until the daemon whose file is open at `descriptor` has ended, at most
 * `milliseconds` (negative: for ever), and fills `record`, to be released. 0;
 * -ETIMEDOUT; a negative errno.
 */
int registry_wait(int descriptor, int milliseconds, struct registry_record *record);

/*
 * Connects to the socket of the daemon whose file is open at `descriptor`: its own descriptor, or a
 * negative errno; -ENOENT and -ECONNREFUSED where nobody listens; -ETIMEDOUT where nobody has taken
 * those who came before for so many milliseconds, which is all that a daemon that is stopped does;
 * -1: that is waited for.
 */
int registry_connect(int descriptor, int milliseconds);

void registry_release(struct registry_record *record);

/* Whether the record says which file the image is. */
bool registry_knows_image(const struct registry_record *record);

/*
 * Whether the image of a record that knows it is the file with that status (STATX_TYPE and
 * STATX_INO): whatever that, or the image, is called by now.
 */
bool registry_is_image(const struct registry_record *record, const struct statx *status);

/* Has the record know that file, as `image_major` and the next have it. */
void registry_set_image(struct registry_record *record, const struct statx *status);

#endif
