/* SPDX-License-Identifier: MIT */
/* The text of info.json, and changes of the snapshots, which it follows. */
#include "config.h"

#include "admin/info.h"
#include "fuse/tree_internal.h"
#include "util/checked.h"
#include "util/memory.h"

#include <stdlib.h>
#include <string.h>

uint64_t info_inode(const struct tree *tree)
{
    uint64_t changes = atomic_load(&tree->changes);

    return changes == 0 ? INODE_INFO : INODE_INFO_BEGIN + changes;
}

static struct tree_text *make_text(const struct image *image)
{
    struct tree_text *made = calloc(1, sizeof(*made));
    uint64_t cluster = image->header != NULL ? image->header->cluster_size : 0;

    if (made != NULL) {
        atomic_init(&made->users, 1);
        made->text = image_info_json(image);
    }
    if (made == NULL || made->text == NULL) {
        free(made);
        return NULL;
    }
    /*
     * What it was made of took several times as much; of 65536 snapshots more than 100 MiB. The
     * first cluster was read for it, too.
     */
    memory_trim(strlen(made->text) + in_memory(cluster));
    return made;
}

/* Made anew where it is not there, or what it says of the snapshots is not true any more. */
static void update_info(struct tree *tree)
{
    struct tree_text *made;

    if (tree->info != NULL && !atomic_load(&tree->info_is_old)) {
        return;
    }
    pthread_mutex_lock(&tree->change_mutex); /* no table is half changed now */
    atomic_store(&tree->info_is_old, false);
    made = make_text(tree->image);
    pthread_mutex_unlock(&tree->change_mutex);
    if (made == NULL) {
        atomic_store(&tree->info_is_old, true); /* better an old one than none */
        return;
    }
    tree_info_leave(tree->info);
    tree->info = made;
}

struct tree_text *tree_info(struct tree *tree)
{
    struct tree_text *text;

    pthread_mutex_lock(&tree->info_mutex);
    update_info(tree);
    text = tree->info;
    if (text != NULL) {
        atomic_fetch_add(&text->users, 1);
    }
    pthread_mutex_unlock(&tree->info_mutex);
    return text;
}

void tree_info_leave(struct tree_text *text)
{
    if (text != NULL && atomic_fetch_sub(&text->users, 1) == 1) {
        free(text->text);
        free(text);
    }
}

size_t tree_info_length(struct tree *tree)
{
    struct tree_text *text = tree_info(tree);
    size_t length = text != NULL ? strlen(text->text) : 0;

    tree_info_leave(text);
    return length;
}

void tree_begin_change(struct tree *tree)
{
    pthread_mutex_lock(&tree->change_mutex);
}

void tree_end_change(struct tree *tree)
{
    atomic_store(&tree->info_is_old, true);
    atomic_fetch_add(&tree->changes, 1); /* not before: who sees this finds the text old */
    pthread_mutex_unlock(&tree->change_mutex);
}
