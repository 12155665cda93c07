/* SPDX-License-Identifier: MIT */
/*
 * Tells who started the daemon that its raw file answers, in the ways of those who watch services:
 * a file with the number of the process (pid-file=), a descriptor (--ready-fd), and the socket of a
 * service manager ($NOTIFY_SOCKET, sd_notify(3)'s protocol: datagrams of NAME=value lines).
 */
#ifndef FUSE_ANNOUNCE_H
#define FUSE_ANNOUNCE_H

#include "fuse/steward.h"
#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct announce {
    char *pid_file;          /* absolute, or NULL */
    struct steward *steward; /* takes it away */
    bool is_written;
    int descriptor; /* gets a newline, and is closed; or -1 */
    int manager;    /* the socket of the service manager, or -1 */
};

/*
 * To be called before the working directory changes. `pid_file` may be NULL; `descriptor` is -1 or
 * one that is open, and is owned from here on. A service manager is only told of a process in the
 * foreground: that one it has started itself, whereas the variable is inherited by whatever its
 * services start. announce_end() it, also after an error. 0 or -ENOMEM.
 */
int announce_begin(struct announce *announce, const char *pid_file, int descriptor,
                   bool foreground);

/* By the process that serves: its file, which takes the place of another, and which the steward
 * takes away at the end. 0, or a negative errno with a sentence. */
int announce_pid(struct announce *announce, struct steward *steward, struct error *error);

/* Removes the file, if it names that process and not one that has mounted since. */
void announce_remove(const char *pid_file, pid_t pid);

/* The raw file answers. From any thread, once; `announce` may be NULL. */
void announce_ready(struct announce *announce);

/* No request is answered any more; what is left is to make the image final. */
void announce_stopping(const struct announce *announce);

/* The end: has the file taken away, if it is still this process's. */
void announce_end(struct announce *announce);

#endif
