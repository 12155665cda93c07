/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/snapshots.h"

#include "disk/snapshots.h"
#include "fuse/own_mount.h"

#include <errno.h>
#include <string.h>

/* So long a removal waits for who has closed its files just now: that arrives here afterwards. */
#define BUSY_MILLISECONDS 1000

/* The kernel holds changes of the disk only while it is open to write: see files.h. */
int snapshots_hand_over(struct filesystem *filesystem, const char *what, struct error *error)
{
    const char *path = filesystem->image->path;
    int r = 0;

    if (files_are_written(filesystem->files)) {
        r = own_mount_hand_over(filesystem->own);
    }
    if (r == 0) {
        r = lost_result(&filesystem->lost);
    }
    return r == 0 ? 0
                  : error_set(error, -r,
                              "%s: %s what was written: the kernel could not hand it over (%s)",
                              path, what, strerror(-r));
}

static int out_of_memory(const struct filesystem *filesystem, struct error *error)
{
    return error_set(error, ENOMEM, "%s: out of memory for its snapshots", filesystem->image->path);
}

/* Before a change: what is shown is what there is. */
static int begin(struct filesystem *filesystem, struct error *error)
{
    tree_begin_change(filesystem->tree);
    if (shown_settle(filesystem->tree->shown) != 0) {
        return out_of_memory(filesystem, error);
    }
    return 0;
}

/*
 * After it, however it ended: a removal that failed may have taken the snapshot out of the table
 * before. What could not be shown is shown with the next one.
 */
static int end(struct filesystem *filesystem, int result, struct error *error)
{
    int r = shown_update(filesystem->tree->shown);

    parts_forget_gone(filesystem->tree->parts);
    tree_end_change(filesystem->tree);
    return result == 0 && r != 0 ? out_of_memory(filesystem, error) : result;
}

int snapshots_make(struct filesystem *filesystem, const char *name, const struct stop *stop,
                   uint64_t *key, struct error *error)
{
    int r = snapshots_hand_over(filesystem, "no snapshot is made, since it would lack", error);

    if (r != 0) {
        return r;
    }
    if (stop_requested(stop)) {
        return error_set(error, EINTR, "%s: interrupted before a snapshot was made",
                         filesystem->image->path);
    }
    r = begin(filesystem, error);
    if (r == 0) {
        r = writer_snapshot_make(filesystem->writer, name, error);
    }
    r = end(filesystem, r, error);
    if (r == 0 && !shown_last(filesystem->tree->shown, key)) {
        r = -EIO;
    }
    return r;
}

static int explain_claim(const struct filesystem *filesystem, int result, struct error *error)
{
    const char *path = filesystem->image->path;

    if (result == -EBUSY) {
        return error_set(error, EBUSY,
                         "%s: files of that snapshot are open; close them, then remove it", path);
    }
    return result == -ENOENT ? error_set(error, ENOENT, "%s: has no such snapshot any more", path)
                             : result;
}

int snapshots_key(struct filesystem *filesystem, size_t index, uint64_t *key, struct error *error)
{
    struct shown *shown = filesystem->tree->shown;

    if (shown_settle(shown) != 0) {
        return out_of_memory(filesystem, error);
    }
    return shown_key(shown, index, key) ? 0 : explain_claim(filesystem, -ENOENT, error);
}

int snapshots_remove(struct filesystem *filesystem, uint64_t key, struct error *error)
{
    struct shown *shown = filesystem->tree->shown;
    size_t index;
    int r = begin(filesystem, error);

    if (r == 0) {
        r = explain_claim(filesystem, shown_claim(shown, key, BUSY_MILLISECONDS, &index), error);
        if (r == 0) {
            r = writer_snapshot_remove(filesystem->writer, index, error);
        }
    }
    r = end(filesystem, r, error);
    shown_unclaim(shown, key);
    return r;
}

int snapshots_rename(struct filesystem *filesystem, uint64_t key, const char *name,
                     struct error *error)
{
    size_t index;
    int r = begin(filesystem, error);

    if (r == 0 && !shown_index(filesystem->tree->shown, key, &index)) {
        r = explain_claim(filesystem, -ENOENT, error);
    }
    if (r == 0) {
        r = writer_snapshot_rename(filesystem->writer, index, name, error);
    }
    return end(filesystem, r, error);
}
