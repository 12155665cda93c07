/* SPDX-License-Identifier: MIT */
/*
 * evidence/: what the image holds beside its disks (admin/evidence.h), where that was gathered.
 *
 *     2^60             evidence/
 *     2^60 + 1         evidence/tables/
 *     2^60 + 2 + 2 * n NAME.raw, and behind it NAME.json, of file number n
 */
#include "config.h"

#include "fuse/tree_internal.h"

#include "util/json.h"

#include <errno.h>
#include <stdio.h>

#define INODE_TABLES (INODE_EVIDENCE_BEGIN + 1)
#define INODE_FILES  (INODE_EVIDENCE_BEGIN + 2)

#define KINDS (json_available() ? UINT64_C(2) : UINT64_C(1)) /* of each file */

static void become_file(struct node *node, enum evidence_file file, bool is_json)
{
    *node = (struct node){
        .kind = is_json ? NODE_EVIDENCE_JSON : NODE_EVIDENCE_RAW,
        .inode = INODE_FILES + 2 * (uint64_t)file + is_json,
        .evidence = file,
    };
}

bool evidence_node(const struct tree *tree, uint64_t inode, struct node *node)
{
    uint64_t number = inode - INODE_FILES;

    if (tree->evidence == NULL) {
        return false;
    }
    if (inode <= INODE_TABLES) {
        *node = (struct node){.kind = inode == INODE_TABLES ? NODE_EVIDENCE_TABLES : NODE_EVIDENCE,
                              .inode = inode};
        return true;
    }
    if (number / 2 >= EVIDENCE_FILES || number % 2 >= KINDS) {
        return false;
    }
    become_file(node, (enum evidence_file)(number / 2), number % 2 != 0);
    return true;
}

bool evidence_entry(const struct tree *tree, const struct node *directory, uint64_t position,
                    struct tree_name *name, struct node *node)
{
    bool is_top = directory->kind == NODE_EVIDENCE;
    unsigned first = is_top ? 0 : EVIDENCE_TABLES_BEGIN;
    unsigned end = is_top ? EVIDENCE_TABLES_BEGIN : EVIDENCE_FILES;
    uint64_t files = (end - first) * KINDS;

    if (is_top && position == files) {
        name->text = "tables";
        return evidence_node(tree, INODE_TABLES, node);
    }
    if (position >= files) {
        return false;
    }
    become_file(node, (enum evidence_file)(first + position / KINDS), position % KINDS != 0);
    snprintf(name->own, sizeof(name->own), "%s.%s", evidence_name(node->evidence),
             node->kind == NODE_EVIDENCE_JSON ? "json" : "raw");
    name->text = name->own;
    return true;
}

uint64_t evidence_inode_count(const struct tree *tree)
{
    return tree->evidence != NULL ? 2 + EVIDENCE_FILES * KINDS : 0;
}
