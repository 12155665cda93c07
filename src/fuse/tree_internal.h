/* SPDX-License-Identifier: MIT */
/*
 * What the files of the tree share: tree.c, tree_names.c, tree_info.c, tree_bitmaps.c,
 * tree_evidence.c, and tree_partitions.c for all below partitions/.
 */
#ifndef FUSE_TREE_INTERNAL_H
#define FUSE_TREE_INTERNAL_H

#include "fuse/tree.h"

/* Of the directory of a snapshot, or of a file in it. */
uint64_t snapshot_inode(uint64_t snapshot, enum node_kind kind);

/* That of info.json: a number that changes, at this place or from that one on; as it is now. */
#define INODE_INFO       UINT64_C(4)
#define INODE_INFO_BEGIN (UINT64_C(1) << 61)
uint64_t info_inode(const struct tree *tree);

/* Bytes of its text; 0 when memory ran out. */
size_t tree_info_length(struct tree *tree);

/* bitmaps/, and what is in it: as those of evidence/. */
#define INODE_BITMAPS_BEGIN (UINT64_C(1) << 59)
uint64_t bitmap_inode(uint64_t key, enum node_kind kind);
bool bitmaps_node(const struct tree *tree, uint64_t inode, struct node *node);
bool bitmaps_entry(const struct tree *tree, const struct node *directory, uint64_t position,
                   struct tree_name *name, struct node *node);
bool bitmaps_find(const struct tree *tree, const char *name, struct node *node);
uint64_t bitmaps_inode_count(const struct tree *tree);

/* Bytes of what is shown of the disk through one. */
uint64_t bitmap_disk_size(const struct tree *tree, const struct node *node);

/* evidence/, and what is in it. */
#define INODE_EVIDENCE_BEGIN (UINT64_C(1) << 60)
bool evidence_node(const struct tree *tree, uint64_t inode, struct node *node);

/* Of these two directories; "." and ".." are not counted. */
bool evidence_entry(const struct tree *tree, const struct node *directory, uint64_t position,
                    struct tree_name *name, struct node *node);

uint64_t evidence_inode_count(const struct tree *tree);

static inline bool is_evidence_directory(const struct node *node)
{
    return node->kind == NODE_EVIDENCE || node->kind == NODE_EVIDENCE_TABLES;
}

static inline bool is_bitmaps_directory(const struct node *node)
{
    return node->kind == NODE_BITMAPS || node->kind == NODE_BITMAP;
}

static inline bool is_below_partitions(const struct node *node)
{
    return node->kind >= NODE_PARTITIONS;
}

/* From here on they are those of partitions/; tree_partitions.c says which. */
#define INODE_PARTITIONS_BEGIN (UINT64_C(1) << 62)

/* The directory partitions/ of a disk, counted as parts.h does. */
uint64_t partitions_inode(uint64_t disk);

/* As tree_node(), tree_entry() (without "." and "..") and tree_lookup(). */
bool partitions_node(const struct tree *tree, uint64_t inode, struct node *node);
int partitions_entry(const struct tree *tree, const struct node *directory, uint64_t position,
                     struct tree_name *name, struct node *node);
int partitions_lookup(const struct tree *tree, const struct node *directory, const char *name,
                      struct node *node);

#endif
