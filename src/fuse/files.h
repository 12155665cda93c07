/* SPDX-License-Identifier: MIT */
/*
 * The files that are open under the mount point. Each is one open(2) of the
 * kernel's; those of one snapshot share a view, which is opened by the first
 * and closed by the last (reading a snapshot's L1 table is not done unasked).
 *
 * The kernel may hold changes of the disk only while it is open to write: it
 * hands them over when a file is closed.
 *
 * Lock order: a snapshot's mutex, under which its L1 table may be read, then
 * nothing. The list of open files has a leaf mutex. Opening one snapshot does
 * not wait for another, nor does anything wait for a read.
 */
#ifndef FUSE_FILES_H
#define FUSE_FILES_H

#include "disk/view.h"
#include "fuse/stats.h"
#include "fuse/tree.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct files;

/* Has a view or a text. But for the flag, constant while it is open. */
struct open_file {
    struct open_file *next, *previous;
    struct shared_view *shared; /* where the view is counted, or NULL */
    struct view *view;
    const char *text; /* NULL where there is a view */
    char *own_text;   /* the same, where it belongs to this open file alone */
    uint64_t size;    /* of the text */
    bool is_disk;     /* the active one */
    bool writes;      /* it was opened to write */
    pid_t opener;
    atomic_bool past_end; /* it may have written past the end of the disk, and does not know yet */
};

/* All is borrowed, and outlives the files. 0, or a negative errno with a sentence. */
int files_create(struct image *image, struct tree *tree, const struct stats *stats, struct log *log,
                 struct files **files, struct error *error);

/* Closes what is still open. `files` may be NULL. */
void files_destroy(struct files *files);

/* Bytes that can be read. */
uint64_t files_size(const struct open_file *file);

/* Who opens a file, and what for. */
struct open_request {
    pid_t opener;
    bool writes;
};

/*
 * Opens a file. 0; -EISDIR; -EIO, after a log line, when the snapshot's L1
 * table cannot be used; -ENOMEM.
 */
int files_open(struct files *files, const struct node *node, const struct open_request *request,
               struct open_file **file);
void files_close(struct files *files, struct open_file *file);

/* Whether anybody has the disk open to write, so that the kernel may hold what we have not seen. */
bool files_are_written(struct files *files);

/* Something was written past the end of the disk: sets the flag of all who may have done it. */
void files_tell_past_end(struct files *files);

#endif
