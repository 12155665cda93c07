/* SPDX-License-Identifier: MIT */
/* What is in the directories of the tree. */
#include "config.h"

#include "fuse/tree_internal.h"

#include <errno.h>
#include <string.h>

static const char disk_name[] = "disk.raw";
static const char vmstate_name[] = "vmstate.raw";
static const char partitions_name[] = "partitions";

/* Entries that a directory has at fixed places, when they exist. */
struct fixed_entry {
    const char *name;
    uint64_t inode;
};

static const struct fixed_entry root_entries[] = {
    {"bitmaps", INODE_BITMAPS_BEGIN},
    {disk_name, 2},
    {"evidence", INODE_EVIDENCE_BEGIN},
    {"info.json", 0},
    {partitions_name, 0}, /* 0: see below */
    {"salvage.json", 6},
    {"snapshots", 3},
    {"stats.json", 5},
    {"stats.prom", 7},
};
#define ROOT_ENTRIES (sizeof(root_entries) / sizeof(root_entries[0]))

static bool root_entry(const struct tree *tree, uint64_t number, struct tree_name *name,
                       struct node *node)
{
    for (size_t i = 0; i < ROOT_ENTRIES; i++) {
        uint64_t inode = root_entries[i].inode;

        if (inode == 0) {
            inode = root_entries[i].name == partitions_name ? partitions_inode(PARTS_ACTIVE)
                                                            : info_inode(tree);
        }
        if (tree_node(tree, inode, node) && number-- == 0) {
            name->text = root_entries[i].name;
            return true;
        }
    }
    return false;
}

static bool snapshot_entry(const struct tree *tree, uint64_t snapshot, uint64_t number,
                           struct tree_name *name, struct node *node)
{
    const struct fixed_entry entries[] = {
        {disk_name, snapshot_inode(snapshot, NODE_SNAPSHOT_DISK)},
        {partitions_name, partitions_inode(PARTS_SNAPSHOT(snapshot))},
        {vmstate_name, snapshot_inode(snapshot, NODE_SNAPSHOT_VMSTATE)},
    };

    if (number >= sizeof(entries) / sizeof(entries[0])) {
        return false;
    }
    name->text = entries[number].name;
    return tree_node(tree, entries[number].inode, node);
}

static uint64_t parent_inode(const struct node *directory)
{
    switch (directory->kind) {
    case NODE_SNAPSHOT:
        return 3;
    case NODE_PARTITIONS:
        return directory->disk == PARTS_ACTIVE ? TREE_ROOT
                                               : snapshot_inode(directory->snapshot, NODE_SNAPSHOT);
    case NODE_BITMAP:
        return INODE_BITMAPS_BEGIN;
    case NODE_EVIDENCE_TABLES:
        return INODE_EVIDENCE_BEGIN;
    case NODE_LINKS:
        return partitions_inode(directory->disk);
    default:
        return TREE_ROOT;
    }
}

static bool dot_entry(const struct tree *tree, const struct node *directory, uint64_t position,
                      struct tree_name *name, struct node *node)
{
    name->text = position == 0 ? "." : "..";
    return tree_node(tree, position == 0 ? directory->inode : parent_inode(directory), node);
}

/* Each is at the place of its key. */
static bool snapshots_entry(const struct tree *tree, uint64_t key, struct tree_name *name,
                            struct node *node)
{
    uint64_t found;

    do {
        if (!shown_next(tree->shown, key, &found, name->own)) {
            return false;
        }
        key = found + 1;
    } while (!tree_snapshot(tree, found, node)); /* gone again */
    name->text = name->own;
    name->next = 2 + key;
    return true;
}

int tree_entry(const struct tree *tree, const struct node *directory, uint64_t position,
               struct tree_name *name, struct node *node)
{
    bool found;

    if (!tree_is_directory(directory)) {
        return -ENOENT;
    }
    name->next = position + 1;
    if (is_below_partitions(directory) && position >= 2) {
        return partitions_entry(tree, directory, position - 2, name, node);
    }
    if (position < 2) {
        found = dot_entry(tree, directory, position, name, node);
    } else if (directory->kind == NODE_ROOT) {
        found = root_entry(tree, position - 2, name, node);
    } else if (is_evidence_directory(directory)) {
        found = evidence_entry(tree, directory, position - 2, name, node);
    } else if (is_bitmaps_directory(directory)) {
        found = bitmaps_entry(tree, directory, position - 2, name, node);
    } else if (directory->kind == NODE_SNAPSHOT) {
        found = snapshot_entry(tree, directory->snapshot, position - 2, name, node);
    } else {
        found = snapshots_entry(tree, position - 2, name, node);
    }
    return found ? 0 : -ENOENT;
}

int tree_lookup(const struct tree *tree, const struct node *directory, const char *name,
                struct node *node)
{
    struct tree_name entry;
    int r;

    if (tree_is_directory(directory) && is_below_partitions(directory)) {
        return partitions_lookup(tree, directory, name, node);
    }
    if (directory->kind == NODE_BITMAPS) {
        return bitmaps_find(tree, name, node) ? 0 : -ENOENT;
    }
    if (directory->kind == NODE_SNAPSHOTS) {
        uint64_t key;
        bool found = shown_find(tree->shown, name, &key) && tree_snapshot(tree, key, node);

        return found ? 0 : -ENOENT;
    }
    for (uint64_t i = 2; (r = tree_entry(tree, directory, i, &entry, node)) == 0; i = entry.next) {
        if (strcmp(entry.text, name) == 0) {
            break;
        }
    }
    return r;
}
