/* SPDX-License-Identifier: MIT */
/*
 * The files that are open under the mount point. Each is one open(2) of the
 * kernel's; those of one snapshot share a view (fuse/shown).
 *
 * The kernel may hold changes of the disk only while it is open to write: it
 * hands them over when a file is closed.
 *
 * The active disk has several files: disk.raw, and those of its partitions, of each of
 * which the kernel keeps copies of its own. Two rules keep them from contradicting each other:
 *
 *   - The kernel holds no change of a partition back (it is open to write with direct I/O), and
 *     disk.raw is not open to write while a partition is: neither is written over with what was
 *     there before the other was written.
 *   - What is written through one file is dropped from the kernel's copies of all others that are
 *     open before the answer (fuse/copies); where a file is opened that may have been closed
 *     meanwhile, the kernel keeps nothing of it.
 *
 * The list of open files has a leaf mutex. Nothing waits for a read.
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

/* Has a view, with or without what has changed of it, a text, or evidence. But for the flag,
 * constant while it is open. */
struct open_file {
    struct open_file *next, *previous;
    struct shown_snapshot *shown; /* whose view it is, or NULL */
    struct view *view;
    struct changed *changed;         /* all else of the view is shown as zeros; or NULL */
    const struct evidence *evidence; /* or NULL; which file of it, the node says */
    const char *text;                /* or NULL */
    char *own_text;                  /* the same, where it belongs to this open file alone; ... */
    struct tree_text *info;          /* ... or that of info.json */
    struct node node;
    uint64_t guest_offset; /* where it begins in the view: 0 but of a partition */
    uint64_t size;         /* bytes; of the whole active disk it is that of the view */
    bool is_disk;          /* the active one, as a whole */
    bool is_active;        /* that, or one of its partitions */
    bool writes;           /* it was opened to write */
    bool is_direct;        /* the kernel caches nothing of it */
    bool keeps_cache;      /* what the kernel has cached of it before is true */
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

/*
 * Bytes of the file that are on the disk: less than its size where that was made smaller since, and
 * it is one of a partition. What is behind reads as zeros, and cannot be written.
 */
uint64_t files_end(const struct open_file *file);

/* Who opens a file, and what for. */
struct open_request {
    pid_t opener;
    bool writes;
};

/*
 * Opens a file. 0; -EISDIR; -ENOENT where its snapshot was removed; -EIO, after a log line, when
 * the snapshot's L1 table cannot be used; -ENOMEM; -EBUSY where it is to be written and disk.raw,
 * or a partition, whichever it is not, is open to write.
 */
int files_open(struct files *files, const struct node *node, const struct open_request *request,
               struct open_file **file);
void files_close(struct files *files, struct open_file *file);

/* The same of a file that the kernel was not told of: it has not dropped what it should have. */
void files_close_unseen(struct files *files, struct open_file *file);

/* Whether anybody has the disk open to write, so that the kernel may hold what we have not seen. */
bool files_are_written(struct files *files);

/* The node of a file that is open, also where nothing leads there any more. */
bool files_node(struct files *files, uint64_t inode, struct node *node);

/* What was changed of the active disk: [from, to), bytes of the disk. */
struct files_change {
    uint64_t from, to;
    bool through_disk; /* through disk.raw, whose own copy the kernel has changed, or dropped */
};

/* Whether the kernel may have copies of what is changed, elsewhere; ... */
bool files_have_copies(const struct files *files, const struct files_change *change);

/* ... and one of them: inode, and bytes of the file. */
struct files_copy {
    uint64_t inode;
    uint64_t offset, length;
};

/* That with the lowest inode number above `after`; false: no more. */
bool files_next_copy(struct files *files, const struct files_change *change, uint64_t after,
                     struct files_copy *copy);

/* Something was written past the end of the disk: sets the flag of all who may have done it. */
void files_tell_past_end(struct files *files);

#endif
