/* SPDX-License-Identifier: MIT */
/*
 * The raw disk of an image as an open file, for commands that put something on
 * top of it: a qcow2fs of its own, on a mount that has no name. It lives as long
 * as somebody has its disk open; nothing is left for anybody to unmount, also
 * when this process is killed at any moment.
 *
 * Where the kernel lets us, the mount is never attached anywhere (fsmount(2));
 * an ordinary user's is made by fusermount3 in a directory of mode 0700, and detached
 * when it is let go.
 *
 * What is put on top is for others, too: the kernel shows a file system to whom its own modes let
 * in, whoever may open the raw disk. So what the image names is opened with its owner's rights.
 */
#ifndef CTL_RAW_DISK_H
#define CTL_RAW_DISK_H

#include "ctl/passing_mount.h"
#include "util/error.h"
#include "util/log.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct raw_disk_settings {
    const char *image;
    const char *options; /* of qcow2fs, as behind -o; NULL: none */
    bool read_only;
    bool trusts_names;  /* or so the options say */
    bool allows_nbdkit; /* likewise */
};

struct raw_disk {
    int mount;                 /* its root directory; raw_disk_let_go() closes it */
    int file;                  /* disk.raw; likewise */
    bool writable;             /* as it was opened in the end */
    uint64_t size;             /* bytes */
    dev_t device;              /* st_dev of its files */
    struct passing_mount name; /* where it has one */
    struct log *log;
};

/* 0, or a negative errno with a sentence, qcow2fs's own where it has said one. */
int raw_disk_open(const struct raw_disk_settings *settings, struct log *log, struct raw_disk *disk,
                  struct error *error);

/*
 * The path of its file until it is let go, for who opens what a name resolves to, not what it was
 * given; free() it. NULL with a sentence.
 */
char *raw_disk_path(struct raw_disk *disk, struct log *log, struct error *error);

/* Closes the descriptors: what is on top of the disk keeps it alive, or nothing does. */
void raw_disk_let_go(struct raw_disk *disk);

/* The same where nothing came to be on top of it: returns when its qcow2fs has ended, too. */
void raw_disk_end(struct raw_disk *disk);

#endif
