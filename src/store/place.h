/* SPDX-License-Identifier: MIT */
/*
 * What a name leads to, found out before it is opened: opening a device, a FIFO
 * or a file of the kernel's own may do something already (a watchdog is armed,
 * a tape rewound, a writer let go). The name is looked up once; what is judged
 * is what is opened afterwards, whoever renames things meanwhile.
 *
 * Owns one descriptor (O_PATH) each. Takes no locks. Internal to the store.
 */
#ifndef STORE_PLACE_H
#define STORE_PLACE_H

#include <stdbool.h>
#include <sys/stat.h>

/* Who has named a path. */
struct place_naming {
    const char *image; /* the path of the image that names it; NULL: the user */
    bool beneath;      /* it must lead to what is in the directory of the image, or below */
};

struct place {
    int fd; /* O_PATH; -1: nothing was found */
    struct stat status;
    const char *kernel; /* the kernel file system that this regular file is of, or NULL */
    bool magic;         /* not found: the name leads through a link of /proc to an open file */
};

/*
 * Looks `path` up and opens nothing. Where an image names it no link of /proc that stands for an
 * open file is followed (those of this process lead to what others may not reach by name), but in
 * the directory of the image, which the user has named. Where it must lie beneath that directory it
 * does at each step of the way: by no .. that leads out, and no link that does, nor one that is
 * absolute. An absolute path must begin with the directory, as the image is named or as it really
 * is. 0, or a negative errno of open(2): -EXDEV for what does not lie beneath.
 */
int place_find(const char *path, const struct place_naming *naming, struct place *place);

/*
 * Opens what was found, with these flags of open(2); the caller has judged it.
 * By its descriptor in /proc; where that is not mounted, by `path` again, which
 * must lead to the same file still: else -ESTALE. A descriptor, or a negative errno.
 */
int place_open(const struct place *place, const char *path, int flags);

void place_leave(struct place *place);

#endif
