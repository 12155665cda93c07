/* SPDX-License-Identifier: MIT */
/*
 * Which names and inodes exist under the mount point, and their attributes:
 *
 *     1            the mount point: the raw disk itself, or a directory of
 *     2            disk.raw
 *     3            snapshots/               where the image has snapshots, or can be given some
 *     4            info.json                where this build has a JSON library; 2^61 + n when the
 *                                           snapshots have changed n times: the kernel, which may
 *                                           cache writes, takes a size only with a new inode
 *     5            stats.json               likewise
 *     6            salvage.json             of an image that is salvaged, in a build with JSON
 *     2^59 + ...   bitmaps/, and what is in it, where there is any; see tree_bitmaps.c
 *     2^60 + ...   evidence/, and what is in it, where that was asked for; see tree_evidence.c
 *     7            stats.prom
 *     2^62 + ...   partitions/, and what is in it, of the disk and of each snapshot;
 *                  tree_partitions.c has the rest
 *     16 + 4 * k       snapshots/NAME/            of the snapshot with key k
 *     16 + 4 * k + 1   snapshots/NAME/disk.raw
 *     16 + 4 * k + 2   snapshots/NAME/vmstate.raw where it has VM state
 *
 * Inode numbers are never given to anything else, so nothing is counted, looked up
 * or forgotten. What does not change after tree_create() is read without a lock. What is in
 * partitions/ is read when it is asked for, and changes with the disk (fuse/parts); which
 * snapshots there are changes where the disk can be written (fuse/shown). The text of info.json is
 * made when it is wanted, under a mutex that is held while it is made; for a disk that can be
 * written at once, and again after each change of the snapshots: it says what was true then. The
 * size of the disk is the image's, at any time.
 */
#ifndef FUSE_TREE_H
#define FUSE_TREE_H

#include "admin/evidence.h"
#include "disk/image.h"
#include "fuse/names.h"
#include "fuse/options.h"
#include "fuse/parts.h"
#include "fuse/shown.h"
#include "fuse/shown_bitmaps.h"
#include "fuse/source.h"
#include "store/store.h"

#include <pthread.h>
#include <stdatomic.h>
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
    NODE_SALVAGE,
    NODE_METRICS,
    NODE_SNAPSHOT,
    NODE_SNAPSHOT_DISK,
    NODE_SNAPSHOT_VMSTATE,
    NODE_BITMAPS, /* the directory */
    NODE_BITMAP,  /* likewise, of one of them; and what is in it */
    NODE_BITMAP_DISK,
    NODE_BITMAP_EXTENTS,
    NODE_EVIDENCE,        /* the directory */
    NODE_EVIDENCE_TABLES, /* likewise, in it */
    NODE_EVIDENCE_RAW,
    NODE_EVIDENCE_JSON,
    NODE_PARTITIONS, /* the directory */
    NODE_PARTITION,  /* N.raw */
    NODE_LINKS,      /* a directory of partitions/, by-...; and what is in it */
    NODE_LINK,
};

struct node {
    enum node_kind kind;
    uint64_t inode;
    uint64_t snapshot;           /* its key, of what belongs to a snapshot */
    uint64_t bitmap;             /* its key, of what belongs to a bitmap */
    enum evidence_file evidence; /* of its files */
    uint64_t disk;               /* of the four last kinds, and what follows: as parts.h counts */
    enum part_key key;           /* of links */
    struct part part;            /* the partition that a file shows, or a link leads to */
};

/* A name: static, or in `own`; and the position of the entry behind it. */
struct tree_name {
    const char *text;
    uint64_t next;
    char own[NAMES_MAX + 1];
};

#define TREE_TARGET_MAX 32 /* bytes of what a link says, with the NUL */

/* A text that stays as long as somebody reads it. */
struct tree_text {
    atomic_uint users;
    char *text;
};

struct tree {
    struct image *image;
    struct parts *parts;
    const struct evidence *evidence; /* or NULL */
    const char *salvage_json;        /* or NULL */
    bool root_is_directory;
    bool is_writable;    /* the disk is, and nothing else; snapshots can be made */
    struct shown *shown; /* the snapshots; none where the mount point is a file */
    struct shown_bitmaps *bitmaps;
    struct writer *writer; /* or NULL */
    uid_t uid;
    gid_t gid;
    mode_t file_mode; /* of the disk; all others less the permissions to write */
    mode_t directory_mode;
    struct timespec atime, mtime, ctime; /* when it was mounted */
    struct timespec unwritten; /* of a new overlay: its mtime, which says nothing of the disk */
    blksize_t block_size;
    /* Held while image->snapshots, or the directory of bitmaps, changes, and while info.json is
       made, or bits are copied. */
    pthread_mutex_t change_mutex;
    pthread_mutex_t info_mutex;   /* outside the former */
    struct tree_text *info;       /* NULL until it was asked for; guarded by info_mutex */
    atomic_bool info_is_old;      /* the snapshots have changed since */
    atomic_uint_fast64_t changes; /* of the snapshots */
};

/* What is in `source`, `writer` (or NULL) and `log` are borrowed. 0, or a negative errno with a
 * sentence. */
int tree_create(const struct source *source, const struct mount_options *options,
                bool root_is_directory, struct writer *writer, struct log *log, struct tree **tree,
                struct error *error);
/* `tree` may be NULL. */
void tree_destroy(struct tree *tree);

/* False when there is no such inode. */
bool tree_node(const struct tree *tree, uint64_t inode, struct node *node);

/* The directory of the snapshot with that key. */
bool tree_snapshot(const struct tree *tree, uint64_t key, struct node *node);

/* S_IFDIR, S_IFREG or S_IFLNK. */
mode_t tree_type(const struct node *node);

bool tree_is_directory(const struct node *node);

/*
 * The entry of this name. 0; -ENOENT when `directory` (which may be a file) has none; -EIO after
 * a log line, or -ENOMEM, when a table of partitions cannot be read.
 */
int tree_lookup(const struct tree *tree, const struct node *directory, const char *name,
                struct node *node);

/*
 * The entry at `position` of a directory, "." and ".." being at 0 and 1, the others at name->next
 * of the one before: as above. What comes and goes meanwhile moves nothing else.
 */
int tree_entry(const struct tree *tree, const struct node *directory, uint64_t position,
               struct tree_name *name, struct node *node);

/* What a link says, relative to the directory that it is in. */
void tree_link_target(const struct node *link, char target[TREE_TARGET_MAX]);

/* Whether the node is a part of the disk, or all of it, that can be written where anything can. */
bool tree_is_active(const struct node *node);

/* Whether what a name stands for, or what is in a directory, can change while it is mounted. */
bool tree_names_change(const struct tree *tree, const struct node *node);

/*
 * Bytes in a file: exact, and at most INT64_MAX. 0 for stats.* and extents.json, whose text is made
 * at open.
 */
uint64_t tree_size(struct tree *tree, const struct node *node);

/* 0 or a negative errno. */
int tree_attributes(struct tree *tree, const struct node *node, struct stat *attributes);

/* Whether snapshots can be made and removed: those of an image with an overlay are shown alone. */
bool tree_makes_snapshots(const struct tree *tree);

/* Whether what this node shows is made anew at each open, or may be. */
bool tree_is_made_at_open(const struct tree *tree, const struct node *node);

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

/* The text of info.json, for tree_info_leave(); NULL when memory ran out. */
struct tree_text *tree_info(struct tree *tree);
void tree_info_leave(struct tree_text *text);

/*
 * What is shown of the disk through a bitmap: that of the snapshot of the same name, where there is
 * one (true: its key), else the active one.
 */
bool tree_bitmap_snapshot(const struct tree *tree, const struct node *node, uint64_t *key);

/* shown_bitmaps_copy(). */
int tree_bitmap_copy(struct tree *tree, const struct node *node, struct changed **changed,
                     struct error *error);

/* Around a change of image->snapshots, or of the directory of bitmaps; what is shown of it is to be
 * updated in between. */
void tree_begin_change(struct tree *tree);
void tree_end_change(struct tree *tree);

#endif
