/* SPDX-License-Identifier: MIT */
/*
 * A store that is a regular file or a block device of this host.
 *
 * Opening takes the byte-range locks of QEMU's file driver (open file
 * description locks; one byte a permission), so that QEMU and this program
 * keep out of each other's way:
 *
 *     byte 100 + n   held (shared) by whoever uses permission n
 *     byte 200 + n   held (shared) by whoever forbids permission n to others
 *     n: 0 consistent read, 1 write, 2 write unchanged, 3 resize
 *
 * A reader takes 100, 201, 203. A writer takes 100, 101, 103, 201, 203. Then
 * each looks whether somebody else uses what it forbids or forbids what it
 * uses. The locks live as long as the open file description: through fork(),
 * until the store is closed in every process.
 */
#ifndef STORE_FILE_H
#define STORE_FILE_H

#include "store/store.h"
#include "util/error.h"

enum store_access {
    STORE_READ,        /* others may read, nobody may write */
    STORE_READ_SHARED, /* others may even write (force-share) */
    STORE_WRITE,       /* others may do neither; they may read if they tolerate a writer */
};

/*
 * Opens `path`; the sentence in `error` begins with the path, and speaks of it
 * as `what` ("image", "backing file", "data file"). Errors: those of open(2);
 * -EISDIR for a directory; -EINVAL for anything else that is neither a regular
 * file nor a block device (a FIFO is never waited for); -EBUSY when another
 * program holds a lock in the way: the sentence says what it is doing, names
 * the processes that have the file open where /proc shows them, and names the
 * option force-share where that would help.
 *
 * Reading changes nothing of the file; not its access time either, where the
 * host allows O_NOATIME.
 */
int store_file_open(const char *path, const char *what, enum store_access access,
                    struct store **store, struct error *error);

#endif
