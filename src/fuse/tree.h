/* SPDX-License-Identifier: MIT */
/*
 * Which names and inodes exist under the mount point, and their attributes:
 *
 *     1            the mount point: the raw disk itself, or a directory of
 *     2            disk.raw
 *     3            snapshots/               where the image has snapshots
 *     4            info.json                where this build has a JSON library
 *     5            stats.json               likewise
 *     2^62 + ...   partitions/, and what is in it, of the disk and of each snapshot;
 *                  tree_partitions.c has the rest
 *     16 + 4 * i       snapshots/NAME/            of snapshot number i
 *     16 + 4 * i + 1   snapshots/NAME/disk.raw
 *     16 + 4 * i + 2   snapshots/NAME/vmstate.raw where it has VM state
 *
 * Inode numbers follow from the image alone, so nothing is counted, looked up
 * or forgotten. The tree does not change after tree_create(), and is read
 * without a lock; only what is in partitions/ is read when it is asked for, and changes
 * with the disk (fuse/parts), and the text of info.json is made later, under a mutex that
 * is held while it is made. (For a disk that can be written it is made at once,
 * and says what was true then.) The size of the disk is the image's, at any time.
 */
#ifndef FUSE_TREE_H
#define FUSE_TREE_H

#include "disk/image.h"
#include "fuse/names.h"
#include "fuse/options.h"
#include "fuse/parts.h"
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
    NODE_PARTITIONS, /* the directory */
    NODE_PARTITION,  /* N.raw */
    NODE_LINKS,      /* a directory of partitions/, by-...; and what is in it */
    NODE_LINK,
};

struct node {
    enum node_kind kind;
    uint64_t inode;
    size_t snapshot;   /* its index, of what belongs to a snapshot */
    size_t disk;       /* of the four last kinds, and what follows: as parts.h counts */
    enum part_key key; /* of links */
    struct part part;  /* the partition that a file shows, or a link leads to */
};

/* A name: static, the tree's, or in `own`. */
struct tree_name {
    const char *text;
    char own[NAMES_MAX + 1];
};

#define TREE_TARGET_MAX 32 /* bytes of what a link says, with the NUL */

struct tree {
    struct image *image;
    struct parts *parts;
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
    struct timespec unwritten; /* of a new overlay: its mtime, which says nothing of the disk */
    blksize_t block_size;
    pthread_mutex_t info_mutex;
    char *info; /* text of info.json, NULL until it was asked for; guarded by info_mutex */
};

/* `image` and `log` are borrowed. 0, or a negative errno with a sentence. */
int tree_create(struct image *image, const struct mount_options *options, bool root_is_directory,
                bool is_writable, struct log *log, struct tree **tree, struct error *error);
/* `tree` may be NULL. */
void tree_destroy(struct tree *tree);

/* False when there is no such inode. */
bool tree_node(const struct tree *tree, uint64_t inode, struct node *node);

/* S_IFDIR, S_IFREG or S_IFLNK. */
mode_t tree_type(const struct node *node);

bool tree_is_directory(const struct node *node);

/*
 * The entry of this name. 0; -ENOENT when `directory` (which may be a file) has none; -EIO after
 * a log line, or -ENOMEM, when a table of partitions cannot be read.
 */
int tree_lookup(const struct tree *tree, const struct node *directory, const char *name,
                struct node *node);

/* Entry number `position` of a directory, "." and ".." being the first two: as above. */
int tree_entry(const struct tree *tree, const struct node *directory, uint64_t position,
               struct tree_name *name, struct node *node);

/* What a link says, relative to the directory that it is in. */
void tree_link_target(const struct node *link, char target[TREE_TARGET_MAX]);

/* Whether the node is a part of the disk, or all of it, that can be written where anything can. */
bool tree_is_active(const struct node *node);

/* Whether what a name stands for, or what is in a directory, can change while it is mounted. */
bool tree_names_change(const struct tree *tree, const struct node *node);

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

/* How many inodes there are, without those that depend on the tables of partitions. */
uint64_t tree_inode_count(const struct tree *tree);

/* The text of info.json, the tree's; NULL when memory ran out. */
const char *tree_info(struct tree *tree);

#endif
