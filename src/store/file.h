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

#include <stdbool.h>
#include <sys/types.h>

enum store_access {
    STORE_READ,        /* others may read, nobody may write */
    STORE_READ_SHARED, /* others may even write (force-share) */
    STORE_WRITE,       /* others may do neither; they may read if they tolerate a writer */
};

/* How the host's page cache is used: the modes that QEMU calls cache=. */
enum store_cache {
    STORE_CACHE_WRITEBACK,    /* through it; a sync makes stable */
    STORE_CACHE_NONE,         /* past it (O_DIRECT); a sync makes stable */
    STORE_CACHE_WRITETHROUGH, /* as WRITEBACK here: the caller syncs after each write */
    STORE_CACHE_DIRECTSYNC,   /* as NONE here: the caller syncs after each write */
    STORE_CACHE_UNSAFE,       /* through it; a sync does nothing */
};

#define STORE_NBD_TIMEOUT_DEFAULT 60 /* seconds */

struct read_cache_options; /* store/read_cache.h */

struct store_file_options {
    enum store_access access;
    enum store_cache cache;
    unsigned nbd_timeout; /* seconds that an NBD server may take for a request; 0: the default */
    bool no_locks;        /* none is taken, nor looked for */
    /* Of what is on a server: where what is read is kept; NULL: nowhere. */
    const struct read_cache_options *read_cache;
    /*
     * For a name that an image brings along, the path of that image; NULL where the user gave the
     * name. Such a name leads through no link of /proc that stands for an open file.
     */
    const char *named_by;
    /* Where named_by is set: only a regular file in the directory of that image, or below. */
    bool beneath;
    /*
     * Where named_by is set: whose images led to the name; NULL: nobody's. With as_owners it is
     * opened with the rights of each of them, and with no others.
     */
    const struct owners *led_by;
    bool as_owners;
};

/*
 * Opens `path`, which every program does through this function, for every name;
 * the sentence in `error` begins with the path, and speaks of it as `what`
 * ("image", "backing file", "data file"). What it leads to is looked at before
 * anything is opened, and what was looked at is what is opened. Errors: those of
 * open(2); -EISDIR for a directory; -EINVAL for anything else that is neither a
 * regular file nor a block device, and for a regular file of one of the kernel's
 * own file systems, none of which is opened; -EROFS for writing to a block
 * device that is read-only; -EACCES where one of the owners of options may not do it,
 * or, where this process cannot ask the kernel in his name, where that is not certain;
 * -EUSERS where there are more of them than are supported; -EBUSY when another
 * program holds a lock in the way: the sentence says what it is doing, names
 * the processes that have the file open where /proc shows them, and names the
 * option force-share where that would help; -EINVAL, too, where the host has no
 * direct I/O for the file and options->cache needs it; -EXDEV for what is not
 * options->beneath.
 *
 * Reading changes nothing of the file; not its access time either, where the
 * host allows O_NOATIME: struct store_info says whether it did.
 */
int store_file_open(const char *path, const char *what, const struct store_file_options *options,
                    struct store **store, struct error *error);

#endif
