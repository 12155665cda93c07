/* SPDX-License-Identifier: MIT */
/*
 * partitions/: N.raw for each partition, and directories of links to them.
 *
 *      bits 0 to 16    the number of the partition; 0: the directory
 *          17 to 19    0: partitions/, and N.raw; 1 + key: the links by that key
 *          20 to 60    of the active disk: N.raw: the serial number of the partition;
 *                      of that of a snapshot: its key
 *                61    which of them
 *                62    set
 */
#include "config.h"

#include "fuse/tree_internal.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_BITS 17
#define GROUP_BITS  3
#define SERIAL_BITS 41

#define GROUP_SHIFT    NUMBER_BITS
#define SERIAL_SHIFT   (GROUP_SHIFT + GROUP_BITS)
#define SNAPSHOT_SHIFT (SERIAL_SHIFT + SERIAL_BITS)

_Static_assert(PARTS_NUMBER_MAX < 1U << NUMBER_BITS, "numbers of partitions");
_Static_assert(PART_KEYS < 1U << GROUP_BITS, "groups of links");
_Static_assert(SNAPSHOT_SHIFT + 1 == 62, "all bits");

static const char *const key_names[] = {
    [PART_BY_LABEL] = "by-label",       [PART_BY_PARTLABEL] = "by-partlabel",
    [PART_BY_PARTUUID] = "by-partuuid", [PART_BY_TYPE] = "by-type",
    [PART_BY_UUID] = "by-uuid",
};

static uint64_t make_inode(uint64_t disk, unsigned group, uint64_t serial, unsigned number)
{
    uint64_t which = disk == PARTS_ACTIVE ? 0 : UINT64_C(1) << SNAPSHOT_SHIFT;

    serial = disk == PARTS_ACTIVE ? serial : disk - 1;
    serial &= (UINT64_C(1) << SERIAL_BITS) - 1;
    return INODE_PARTITIONS_BEGIN | which | serial << SERIAL_SHIFT |
           (uint64_t)group << GROUP_SHIFT | number;
}

static uint64_t field(uint64_t inode, unsigned shift, unsigned bits)
{
    return inode >> shift & ((UINT64_C(1) << bits) - 1);
}

uint64_t partitions_inode(uint64_t disk)
{
    return make_inode(disk, 0, 0, 0);
}

static void become_part(struct node *node, uint64_t disk, const struct part *part)
{
    *node = (struct node){
        .kind = NODE_PARTITION,
        .inode = make_inode(disk, 0, part->serial, part->number),
        .snapshot = disk - 1,
        .disk = disk,
        .part = *part,
    };
}

static void become_link(struct node *node, uint64_t disk, enum part_key key,
                        const struct part *part)
{
    *node = (struct node){
        .kind = NODE_LINK,
        .inode = make_inode(disk, 1 + (unsigned)key, 0, part->number),
        .snapshot = disk - 1,
        .disk = disk,
        .key = key,
        .part = *part,
    };
}

static void become_directory(struct node *node, uint64_t disk, unsigned group)
{
    *node = (struct node){
        .kind = group == 0 ? NODE_PARTITIONS : NODE_LINKS,
        .inode = make_inode(disk, group, 0, 0),
        .snapshot = disk - 1,
        .disk = disk,
        .key = group == 0 ? 0 : (enum part_key)(group - 1),
    };
}

/* --- by inode --------------------------------------------------------------- */

bool partitions_node(const struct tree *tree, uint64_t inode, struct node *node)
{
    unsigned number = (unsigned)field(inode, 0, NUMBER_BITS);
    unsigned group = (unsigned)field(inode, GROUP_SHIFT, GROUP_BITS);
    bool is_snapshot = field(inode, SNAPSHOT_SHIFT, 1) != 0;
    uint64_t key = field(inode, SERIAL_SHIFT, SERIAL_BITS);
    uint64_t disk = is_snapshot ? PARTS_SNAPSHOT(key) : PARTS_ACTIVE;
    struct shown_facts facts;
    struct part part;

    if (!tree->root_is_directory || group > PART_KEYS ||
        (is_snapshot && !shown_get(tree->shown, key, &facts))) {
        return false;
    }
    if (number == 0) {
        become_directory(node, disk, group);
    } else if (parts_find(tree->parts, disk, number, &part) != 0) {
        return false;
    } else if (group == 0) {
        become_part(node, disk, &part);
    } else {
        become_link(node, disk, (enum part_key)(group - 1), &part);
    }
    return node->inode == inode;
}

/* --- by name, and by position ----------------------------------------------- */

static void set_part_name(struct tree_name *name, const struct part *part)
{
    snprintf(name->own, sizeof(name->own), "%u.raw", part->number);
    name->text = name->own;
}

/* The number in "N.raw"; 0 where the name is another, or is not how that number is written. */
static unsigned parse_part_name(const char *name)
{
    struct tree_name written;
    unsigned long number = isdigit((unsigned char)name[0]) ? strtoul(name, NULL, 10) : 0;
    struct part part = {.number = (unsigned)number};

    if (number == 0 || number > PARTS_NUMBER_MAX) {
        return 0;
    }
    set_part_name(&written, &part);
    return strcmp(name, written.text) == 0 ? (unsigned)number : 0;
}

int partitions_entry(const struct tree *tree, const struct node *directory, uint64_t position,
                     struct tree_name *name, struct node *node)
{
    uint64_t disk = directory->disk;
    struct part part;
    int r;

    if (directory->kind == NODE_LINKS) {
        r = parts_name_at(tree->parts, disk, directory->key, position, name->own, &part);
        if (r == 0) {
            name->text = name->own;
            become_link(node, disk, directory->key, &part);
        }
        return r;
    }
    if (position < PART_KEYS) {
        name->text = key_names[position];
        become_directory(node, disk, 1 + (unsigned)position);
        return 0;
    }
    r = parts_at(tree->parts, disk, position - PART_KEYS, &part);
    if (r == 0) {
        set_part_name(name, &part);
        become_part(node, disk, &part);
    }
    return r;
}

int partitions_lookup(const struct tree *tree, const struct node *directory, const char *name,
                      struct node *node)
{
    uint64_t disk = directory->disk;
    unsigned number;
    struct part part;
    int r;

    if (directory->kind == NODE_LINKS) {
        r = parts_find_name(tree->parts, disk, directory->key, name, &part);
        if (r == 0) {
            become_link(node, disk, directory->key, &part);
        }
        return r;
    }
    for (unsigned key = 0; key < PART_KEYS; key++) {
        if (strcmp(name, key_names[key]) == 0) {
            become_directory(node, disk, 1 + key);
            return 0;
        }
    }
    number = parse_part_name(name);
    r = number != 0 ? parts_find(tree->parts, disk, number, &part) : -ENOENT;
    if (r == 0) {
        become_part(node, disk, &part);
    }
    return r;
}

void tree_link_target(const struct node *link, char target[TREE_TARGET_MAX])
{
    snprintf(target, TREE_TARGET_MAX, "../%u.raw", link->part.number);
}
