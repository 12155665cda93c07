/* SPDX-License-Identifier: MIT */
/*
 * A file that appears under its name when it is complete, or not at all.
 *
 *     new_file_begin --- write to its store ---+--- new_file_finish    it is there
 *                                              '--- new_file_abandon   nothing is left
 *
 * It has no name meanwhile where the host knows such files (O_TMPFILE), so that
 * nothing is left of it after kill -9 either; elsewhere it has a name of its own
 * in the same directory, ".qcow2ctl-" and some letters.
 *
 * To replace a file, that is opened and locked as for writing, which refuses one
 * that is in use, and stays locked until the new one has taken its place, with
 * its mode and, where that is allowed, its owner. A block device is not replaced
 * but written in place: new_file_is_device().
 *
 * For one thread.
 */
#ifndef STORE_NEW_FILE_H
#define STORE_NEW_FILE_H

#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>

struct new_file;

/*
 * `what` is how sentences call it ("image"). -EEXIST where something has the
 * name and not `replace`; what store_file_open() says of a file that cannot be
 * replaced; the errors of open(2) in a directory; each with a sentence.
 */
int new_file_begin(const char *path, const char *what, bool replace, struct new_file **file,
                   struct error *error);

/* What is to be written; it belongs to the file. */
struct store *new_file_store(struct new_file *file);

/* What the host's file system is asked for, in QEMU's words; zeros: nothing. */
struct new_file_hints {
    bool nocow;                /* write in place, where it would copy (btrfs): no checksums then */
    uint32_t extent_size_hint; /* bytes: how much is to be allocated at once (xfs) */
};

/*
 * Asks for them; before anything is written. 0, also of a device, or a negative errno where the
 * file system does not know that (-EOPNOTSUPP) or does not want it; the file is as good without.
 */
int new_file_hint(struct new_file *file, const struct new_file_hints *hints);

/* Whether it is a block device, of a given size and full of other bytes. */
bool new_file_is_device(const struct new_file *file);

/*
 * Gives it its name; the caller has synced its store. The file is closed, also
 * after an error, which leaves what was there before. -EEXIST where something
 * has come to have the name meanwhile.
 */
int new_file_finish(struct new_file *file, struct error *error);

/* Closes and forgets it. `file` may be NULL. */
void new_file_abandon(struct new_file *file);

#endif
