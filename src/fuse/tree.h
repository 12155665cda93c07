/* SPDX-License-Identifier: MIT */
/*
 * Which names and inodes exist under the mount point, and their attributes:
 *
 *     1            the mount point: the raw disk itself, or a directory of
 *     2            disk.raw
 *     3            snapshots/               where the image has snapshots
 *     4            info.json                where this build has a JSON library
 *     5            stats.json               likewise
 *     16 + 4 * i       snapshots/NAME/            of snapshot number i
 *     16 + 4 * i + 1   snapshots/NAME/disk.raw
 *     16 + 4 * i + 2   snapshots/NAME/vmstate.raw where it has VM state
 *
 * Inode numbers follow from the image alone, so nothing is counted, looked up
 * or forgotten. The tree does not change after tree_create(), and is read
 * without a lock; only the text of info.json is made later, under a mutex that
 * is held while it is made. (For a disk that can be written it is made at once,
 * and says what was true then.) The size of the disk is the image's, at any time.
 */
#ifndef FUSE_TREE_H
#define FUSE_TREE_H

#include "disk/image.h"
#include "fuse/options.h"
#include "store/store.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define TREE_ROOT UINT64_C(1)
#define TREE_DISK UINT64_C(2) /* where the root is a directory */

enum node_kind {
    NODE_ROOT, /* the directory; where the mount point is a file it is NODE_DISK */
    NODE_DISK,
    NODE_SNAPSHOTS,
    NODE_INFO,
    NODE_STATS,
    NODE_SNAPSHOT,
    NODE_SNAPSHOT_DISK,
    NODE_SNAPSHOT_VMSTATE,
};

struct node {
    enum node_kind kind;
    uint64_t inode;
    size_t snapshot; /* its index, of the three last kinds */
};

struct tree {
    const struct image *image;
    bool root_is_directory;
    bool is_writable; /* the disk is, and nothing else */
    size_t snapshot_count;
    char **names;   /* of the snapshots, by index */
    size_t *sorted; /* their indexes, in the order of the names */
    uid_t uid;
    gid_t gid;
    mode_t file_mode; /* of the disk; all others less the permissions to write */
    mode_t directory_mode;
    struct timespec atime, mtime, ctime; /* when it was mounted */
    blksize_t block_size;
    pthread_mutex_t info_mutex;
    char *info; /* text of info.json, NULL until it was asked for; guarded by info_mutex */
};

/* `image` is borrowed. 0, or a negative errno with a sentence. */
int tree_create(const struct image *image, const struct mount_options *options,
                bool root_is_directory, bool is_writable, struct tree **tree, struct error *error);
/* `tree` may be NULL. */
void tree_destroy(struct tree *tree);

/* False when there is no such inode. */
bool tree_node(const struct tree *tree, uint64_t inode, struct node *node);

bool tree_is_directory(const struct node *node);

/* The entry of this name; false when `directory` (which may be a file) has none. */
bool tree_lookup(const struct tree *tree, const struct node *directory, const char *name,
                 struct node *node);

/*
 * Entry number `position` of a directory, "." and ".." being the first two;
 * false past the last. *name belongs to the tree.
 */
bool tree_entry(const struct tree *tree, const struct node *directory, uint64_t position,
                const char **name, struct node *node);

/* Bytes in a file: exact, and at most INT64_MAX. 0 for stats.json, whose text is made at open. */
uint64_t tree_size(struct tree *tree, const struct node *node);

/* 0 or a negative errno. */
int tree_attributes(struct tree *tree, const struct node *node, struct stat *attributes);

/* Whether the text of this node is made anew at each open. */
bool tree_is_made_at_open(const struct node *node);

/* Whether the attributes of this node can change while it is mounted. */
bool tree_changes(const struct tree *tree, const struct node *node);

/*
 * What statvfs() tells of space: what the disk occupies on the host, and what is left there, so
 * that who watches free space hears of it in time; no blocks where nobody knows. And how many
 * inodes there are. The rest stays.
 */
void tree_space(const struct tree *tree, struct statvfs *space);

/* How many inodes there are. */
uint64_t tree_inode_count(const struct tree *tree);

/* The text of info.json, the tree's; NULL when memory ran out. */
const char *tree_info(struct tree *tree);

#endif
