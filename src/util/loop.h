/* SPDX-License-Identifier: MIT */
/*
 * Loop devices (loop(4)): attaching an open file, and which there are. Each has
 * LO_FLAGS_AUTOCLEAR: it is freed with the last of who uses it, a mount or a
 * descriptor, so nobody has to.
 */
#ifndef UTIL_LOOP_H
#define UTIL_LOOP_H

#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define LOOP_NAME_MAX 32

struct loop_settings {
    uint64_t offset, size; /* bytes of the file; size 0: to its end */
    unsigned sector_size;  /* bytes; 0: the kernel's choice */
    bool read_only;
    bool direct_io;  /* where the kernel can do it */
    bool partitions; /* the kernel looks for them, and makes their nodes */
    bool autoclear;
};

/*
 * A free device with the open `file` attached; its path in `name`. A descriptor
 * for the caller to close (with autoclear the device goes with it, unless it is
 * mounted), or a negative errno with a sentence.
 */
int loop_attach(int file, const struct loop_settings *settings, char name[LOOP_NAME_MAX],
                struct error *error);

/* A partition of the open device, start and size in bytes. 0 or a negative errno. */
int loop_add_partition(int device, unsigned number, uint64_t start, uint64_t size);

/* What is known of one that has a file. */
struct loop_status {
    char name[LOOP_NAME_MAX]; /* /dev/loopN */
    bool answers;             /* who serves its file does; else no more is known */
    bool is_dead;             /* nobody serves its file any more; likewise */
    dev_t file_device;        /* of the file that is attached */
    ino_t file_inode;
    uint64_t offset, size; /* bytes; size 0: to its end */
    bool read_only;
    bool autoclear;
    bool partitions;
};

/* Calls `each` for all of them; ends early with what is not 0, or -ENOMEM. Devices that may not be
 * opened are passed over. Takes two seconds at most where some do not answer, and 20 ms for each.
 */
int loop_visit(int (*each)(void *context, const struct loop_status *status), void *context);

/* Whether `device` is that loop device, or a partition of it. */
bool loop_has_device(const struct loop_status *loop, dev_t device);

/* Frees the device: at once, or, where it is in use, with the last user. 0 or a negative errno. */
int loop_detach(const char *name);

#endif
