/* SPDX-License-Identifier: MIT */
/*
 * bitmaps/: the disk as far as it has changed, by each persistent bitmap; where there is any.
 *
 *     2^59                 bitmaps/
 *     2^59 + 4 + 4 * k     bitmaps/NAME/             of the bitmap with key k
 *     2^59 + 4 + 4 * k + 1 bitmaps/NAME/disk.raw
 *     2^59 + 4 + 4 * k + 2 bitmaps/NAME/extents.json
 */
#include "config.h"

#include "fuse/tree_internal.h"

#include "util/checked.h"

#include <errno.h>

#define INODE_EACH      (INODE_BITMAPS_BEGIN + 4)
#define INODES_A_BITMAP UINT64_C(4)

uint64_t bitmap_inode(uint64_t key, enum node_kind kind)
{
    return INODE_EACH + key * INODES_A_BITMAP + (uint64_t)(kind - NODE_BITMAP);
}

bool bitmaps_node(const struct tree *tree, uint64_t inode, struct node *node)
{
    uint64_t number = inode - INODE_EACH;
    char name[NAMES_MAX + 1];

    *node = (struct node){.kind = NODE_BITMAPS, .inode = inode};
    if (!tree->root_is_directory || shown_bitmaps_count(tree->bitmaps) == 0) {
        return false;
    }
    if (inode < INODE_EACH) {
        return inode == INODE_BITMAPS_BEGIN;
    }
    if (number % INODES_A_BITMAP > NODE_BITMAP_EXTENTS - NODE_BITMAP) {
        return false;
    }
    node->kind = NODE_BITMAP + (enum node_kind)(number % INODES_A_BITMAP);
    node->bitmap = number / INODES_A_BITMAP;
    return shown_bitmaps_get(tree->bitmaps, node->bitmap, name);
}

/* Each is at the place of its key. */
static bool each_entry(const struct tree *tree, uint64_t key, struct tree_name *name,
                       struct node *node)
{
    uint64_t found;

    do {
        if (!shown_bitmaps_next(tree->bitmaps, key, &found, name->own)) {
            return false;
        }
        key = found + 1;
    } while (!bitmaps_node(tree, bitmap_inode(found, NODE_BITMAP), node)); /* gone again */
    name->text = name->own;
    name->next = 2 + key;
    return true;
}

bool bitmaps_entry(const struct tree *tree, const struct node *directory, uint64_t position,
                   struct tree_name *name, struct node *node)
{
    static const char *const names[] = {"disk.raw", "extents.json"};

    if (directory->kind == NODE_BITMAPS) {
        return each_entry(tree, position, name, node);
    }
    if (position >= 2) {
        return false;
    }
    name->text = names[position];
    return bitmaps_node(
        tree, bitmap_inode(directory->bitmap, NODE_BITMAP_DISK + (enum node_kind)position), node);
}

bool bitmaps_find(const struct tree *tree, const char *name, struct node *node)
{
    uint64_t key;

    return shown_bitmaps_find(tree->bitmaps, name, &key) &&
           bitmaps_node(tree, bitmap_inode(key, NODE_BITMAP), node);
}

uint64_t bitmaps_inode_count(const struct tree *tree)
{
    size_t count = tree->root_is_directory ? shown_bitmaps_count(tree->bitmaps) : 0;

    return count > 0 ? 1 + 3 * (uint64_t)count : 0;
}

bool tree_bitmap_snapshot(const struct tree *tree, const struct node *node, uint64_t *key)
{
    char name[NAMES_MAX + 1];

    return shown_bitmaps_get(tree->bitmaps, node->bitmap, name) &&
           shown_find(tree->shown, name, key);
}

uint64_t bitmap_disk_size(const struct tree *tree, const struct node *node)
{
    uint64_t size = tree->image->virtual_size, key;
    struct shown_facts facts;

    if (tree_bitmap_snapshot(tree, node, &key) && shown_get(tree->shown, key, &facts)) {
        size = facts.disk_size;
    }
    return min_u64(size, INT64_MAX);
}

int tree_bitmap_copy(struct tree *tree, const struct node *node, struct changed **changed,
                     struct error *error)
{
    int r;

    pthread_mutex_lock(&tree->change_mutex); /* the directory is not half changed now */
    r = shown_bitmaps_copy(tree->bitmaps, tree->writer, node->bitmap, changed, error);
    pthread_mutex_unlock(&tree->change_mutex);
    return r;
}
