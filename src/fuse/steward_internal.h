/* SPDX-License-Identifier: MIT */
/* What the two sides of fuse/steward.h say to each other: steward.c is the server's, steward_run.c
 * its own. */
#ifndef FUSE_STEWARD_INTERNAL_H
#define FUSE_STEWARD_INTERNAL_H

#include "util/box.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#define STEWARD_TEXT 8192 /* bytes: a path, or a line of the log, with its end */

enum steward_socket {
    STEWARD_MAIN,
    STEWARD_ATTRIBUTES, /* the disk's size and times */
    STEWARD_SYNCS,
    STEWARD_SOCKETS,
};

enum steward_work {
    STEWARD_IMAGE,
    STEWARD_MOUNT,
    STEWARD_DISK, /* answered with the thread's id */
    STEWARD_PID_FILE,
    STEWARD_REGISTRY, /* with the directory's descriptor */
    STEWARD_SEAL,     /* its second answer, where one is wanted, is a program for the box */
    STEWARD_SYNC,
    STEWARD_SYNC_ABOVE,
    STEWARD_SIZE,
    STEWARD_TIMES,
    STEWARD_ABORTED, /* answered with 1 or 0 */
    STEWARD_UNMOUNT,
    STEWARD_REMOVE_PID_FILE,
    STEWARD_REMOVE_REGISTRY,
    STEWARD_LOG, /* not answered; nor is ... */
    STEWARD_END, /* ... this: the server ends by itself, after which nothing is left to be done */
};

/* Answered with an int32_t: 0, or a negative errno, where nothing else is said. */
struct steward_message {
    enum steward_work work;
    int priority; /* of a line */
    pid_t server;
    bool filters, opens;    /* whether a program is wanted, and as in box_filter_end() */
    struct box_needs needs; /* `read` apart */
    bool unmounts;          /* of a mount: also where the server is killed */
    dev_t device;
    ino_t inode;
    struct timespec times[2];
    char text[STEWARD_TEXT]; /* sent as far as it goes, with its end */
};

/* The steward's process, with its ends of the sockets. */
void steward_run(const int sockets[STEWARD_SOCKETS], bool filters) __attribute__((noreturn));

#endif
