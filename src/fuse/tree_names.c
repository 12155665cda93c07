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
    {disk_name, 2},   {"info.json", 4},  {partitions_name, 0}, /* partitions_inode() */
    {"snapshots", 3}, {"stats.json", 5},
};
#define ROOT_ENTRIES (sizeof(root_entries) / sizeof(root_entries[0]))

static bool root_entry(const struct tree *tree, uint64_t number, struct tree_name *name,
                       struct node *node)
{
    for (size_t i = 0; i < ROOT_ENTRIES; i++) {
        uint64_t inode = root_entries[i].inode;

        if (inode == 0) {
            inode = partitions_inode(PARTS_ACTIVE);
        }
        if (tree_node(tree, inode, node) && number-- == 0) {
            name->text = root_entries[i].name;
            return true;
        }
    }
    return false;
}

static bool snapshot_entry(const struct tree *tree, size_t snapshot, uint64_t number,
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

static bool snapshots_entry(const struct tree *tree, uint64_t number, struct tree_name *name,
                            struct node *node)
{
    if (number >= tree->snapshot_count) {
        return false;
    }
    name->text = tree->names[number];
    return tree_node(tree, snapshot_inode(number, NODE_SNAPSHOT), node);
}

int tree_entry(const struct tree *tree, const struct node *directory, uint64_t position,
               struct tree_name *name, struct node *node)
{
    bool found;

    if (!tree_is_directory(directory)) {
        return -ENOENT;
    }
    if (is_below_partitions(directory) && position >= 2) {
        return partitions_entry(tree, directory, position - 2, name, node);
    }
    if (position < 2) {
        found = dot_entry(tree, directory, position, name, node);
    } else if (directory->kind == NODE_ROOT) {
        found = root_entry(tree, position - 2, name, node);
    } else if (directory->kind == NODE_SNAPSHOT) {
        found = snapshot_entry(tree, directory->snapshot, position - 2, name, node);
    } else {
        found = snapshots_entry(tree, position - 2, name, node);
    }
    return found ? 0 : -ENOENT;
}

/* Its index, or SIZE_MAX. */
static size_t find_snapshot(const struct tree *tree, const char *name)
{
    size_t low = 0;
    size_t high = tree->snapshot_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, tree->names[tree->sorted[middle]]);

        if (order == 0) {
            return tree->sorted[middle];
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return SIZE_MAX;
}

int tree_lookup(const struct tree *tree, const struct node *directory, const char *name,
                struct node *node)
{
    struct tree_name entry;
    int r;

    if (tree_is_directory(directory) && is_below_partitions(directory)) {
        return partitions_lookup(tree, directory, name, node);
    }
    if (directory->kind == NODE_SNAPSHOTS) {
        size_t snapshot = find_snapshot(tree, name);
        bool found =
            snapshot != SIZE_MAX && tree_node(tree, snapshot_inode(snapshot, NODE_SNAPSHOT), node);

        return found ? 0 : -ENOENT;
    }
    for (uint64_t i = 2; (r = tree_entry(tree, directory, i, &entry, node)) == 0; i++) {
        if (strcmp(entry.text, name) == 0) {
            break;
        }
    }
    return r;
}
