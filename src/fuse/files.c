/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/files.h"

#include "util/checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct files {
    struct image *image;
    struct tree *tree;
    const struct stats *stats;
    struct log *log;
    struct view *active;
    pthread_mutex_t mutex; /* guards what is below; the atomic counts are read without it */
    struct open_file *first;
    unsigned writers;         /* that have disk.raw open */
    unsigned part_writers;    /* ... a partition */
    bool was_written_by_part; /* the kernel's copy of disk.raw may be out of date */
    atomic_uint disks;        /* open files: disk.raw */
    atomic_uint cached_parts; /* partitions of the active disk that the kernel caches */
};

int files_create(struct image *image, struct tree *tree, const struct stats *stats, struct log *log,
                 struct files **files, struct error *error)
{
    struct files *made = calloc(1, sizeof(*made));
    int r = -ENOMEM;

    if (made != NULL) {
        *made = (struct files){.image = image, .tree = tree, .stats = stats, .log = log};
        r = view_open_active(image, &made->active);
    }
    if (r != 0) {
        free(made);
        return error_set(error, -r, "%s: the disk cannot be opened: %s", image->path, strerror(-r));
    }
    atomic_init(&made->disks, 0);
    atomic_init(&made->cached_parts, 0);
    pthread_mutex_init(&made->mutex, NULL);
    *files = made;
    return 0;
}

void files_destroy(struct files *files)
{
    if (files == NULL) {
        return;
    }
    /* The kernel does not release what is open when the mount goes away. */
    while (files->first != NULL) {
        files_close(files, files->first);
    }
    pthread_mutex_destroy(&files->mutex);
    view_close(files->active);
    free(files);
}

/* --- open files ------------------------------------------------------------- */

static enum shown_view which_view(const struct node *node)
{
    return node->kind == NODE_SNAPSHOT_VMSTATE ? SHOWN_VM_STATE : SHOWN_DISK;
}

static int use_snapshot(struct files *files, const struct node *node, struct open_file *file)
{
    struct error error = {0};
    int r = shown_use(files->tree->shown, node->snapshot, which_view(node), &file->shown,
                      &file->view, &error);

    if (r != 0 && r != -ENOENT) {
        log_limited(files->log, LOG_LEVEL_ERROR, "%s", error.code != 0 ? error.text : strerror(-r));
    }
    return r == 0 || r == -ENOENT || r == -ENOMEM ? r : -EIO;
}

static int use_text(struct files *files, const struct node *node, struct open_file *file)
{
    if (node->kind == NODE_STATS || node->kind == NODE_METRICS) {
        file->own_text = node->kind == NODE_STATS ? stats_json(files->stats, files->image)
                                                  : stats_metrics(files->stats, files->image);
        file->text = file->own_text;
    } else if (node->kind == NODE_EVIDENCE_JSON) {
        file->own_text = evidence_json(files->tree->evidence, node->evidence);
        file->text = file->own_text;
    } else {
        file->info = tree_info(files->tree);
        file->text = file->info != NULL ? file->info->text : NULL;
    }
    return file->text != NULL ? 0 : -ENOMEM;
}

/* The bits as they are now; an inconsistent bitmap is -EIO. */
static int use_bitmap(struct files *files, const struct node *node, struct open_file *file)
{
    struct tree *tree = files->tree;
    struct node snapshot = {.kind = NODE_SNAPSHOT_DISK};
    struct error error = {0};
    int r = tree_bitmap_copy(tree, node, &file->changed, &error);

    if (r != 0) {
        log_limited(files->log, LOG_LEVEL_ERROR, "%s", error.text);
        return r;
    }
    if (tree_bitmap_snapshot(tree, node, &snapshot.snapshot)) {
        r = use_snapshot(files, &snapshot, file);
    } else {
        file->view = files->active;
    }
    file->size = r == 0 ? min_u64(view_size(file->view), INT64_MAX) : 0;
    if (r == 0 && node->kind == NODE_BITMAP_EXTENTS) {
        file->own_text = shown_bitmaps_extents(tree->bitmaps, file->changed, file->size);
        file->text = file->own_text;
        file->size = file->text != NULL ? strlen(file->text) : 0;
        r = file->text != NULL ? 0 : -ENOMEM;
    }
    return r;
}

static int fill(struct files *files, const struct node *node, struct open_file *file)
{
    int r;

    switch (node->kind) {
    case NODE_DISK:
        file->view = files->active;
        file->is_disk = file->is_active = true;
        return 0;
    case NODE_PARTITION:
        file->guest_offset = node->part.start;
        file->size = min_u64(node->part.size, INT64_MAX);
        if (node->disk != PARTS_ACTIVE) {
            return use_snapshot(files, node, file);
        }
        file->view = files->active;
        file->is_active = true;
        return 0;
    case NODE_SNAPSHOT_DISK:
    case NODE_SNAPSHOT_VMSTATE:
        r = use_snapshot(files, node, file);
        file->size = r == 0 ? min_u64(view_size(file->view), INT64_MAX) : 0;
        return r;
    case NODE_BITMAP_DISK:
    case NODE_BITMAP_EXTENTS:
        return use_bitmap(files, node, file);
    case NODE_EVIDENCE_RAW:
        file->evidence = files->tree->evidence;
        file->size = evidence_size(file->evidence, node->evidence);
        return 0;
    case NODE_SALVAGE:
        file->text = files->tree->salvage_json;
        file->size = strlen(file->text);
        return 0;
    case NODE_EVIDENCE_JSON:
    case NODE_INFO:
    case NODE_STATS:
    case NODE_METRICS:
        r = use_text(files, node, file);
        file->size = r == 0 ? strlen(file->text) : 0;
        return r;
    case NODE_ROOT:
    case NODE_SNAPSHOTS:
    case NODE_SNAPSHOT:
    case NODE_BITMAPS:
    case NODE_BITMAP:
    case NODE_EVIDENCE:
    case NODE_EVIDENCE_TABLES:
    case NODE_PARTITIONS:
    case NODE_LINKS:
    case NODE_LINK:
        break;
    }
    return -EISDIR;
}

static bool counts_as_writer(const struct open_file *file)
{
    return file->is_disk && file->writes;
}

static bool is_part(const struct open_file *file)
{
    return file->is_active && !file->is_disk;
}

/* By `by`, 1 or -1. Under the mutex. */
static void count(struct files *files, const struct open_file *file, int by)
{
    files->writers += (unsigned)by * counts_as_writer(file);
    files->part_writers += (unsigned)by * (is_part(file) && file->writes);
    atomic_fetch_add(&files->disks, (unsigned)by * file->is_disk);
    atomic_fetch_add(&files->cached_parts, (unsigned)by * (is_part(file) && !file->is_direct));
}

/*
 * Whether the kernel keeps what it has of the file from the last time. Nothing of a partition,
 * since nobody counts what was written elsewhere while it was closed. Under the mutex, after
 * count().
 */
static bool keeps_cache(struct files *files, const struct open_file *file)
{
    bool keeps = true;

    if (is_part(file)) {
        return !files->tree->is_writable;
    }
    if (file->is_disk) {
        keeps = !files->was_written_by_part;
        files->was_written_by_part = files->part_writers > 0;
    }
    return keeps;
}

/* Whether the disk is open to write as what the file is not: whole, or in part. Under the mutex. */
static bool is_busy(const struct files *files, const struct open_file *file)
{
    if (!file->writes || !file->is_active) {
        return false;
    }
    return (file->is_disk ? files->part_writers : files->writers) > 0;
}

/* Under the mutex. */
static void enlist(struct files *files, struct open_file *file)
{
    file->next = files->first;
    if (file->next != NULL) {
        file->next->previous = file;
    }
    files->first = file;
    count(files, file, 1);
    if (is_part(file) && file->writes) {
        files->was_written_by_part = true;
    }
    file->keeps_cache = keeps_cache(files, file);
}

static void delist(struct files *files, struct open_file *file)
{
    pthread_mutex_lock(&files->mutex);
    if (file->next != NULL) {
        file->next->previous = file->previous;
    }
    if (file->previous != NULL) {
        file->previous->next = file->next;
    } else {
        files->first = file->next;
    }
    count(files, file, -1);
    pthread_mutex_unlock(&files->mutex);
}

/* What is not in the list, or not any more. */
static void release(struct files *files, struct open_file *file)
{
    if (file->view != NULL && file->shown != NULL) {
        shown_leave(files->tree->shown, file->shown, which_view(&file->node));
    }
    if (file->changed != NULL) {
        shown_bitmaps_let_go(files->tree->bitmaps, file->changed);
    }
    tree_info_leave(file->info);
    free(file->own_text);
    free(file);
}

int files_open(struct files *files, const struct node *node, const struct open_request *request,
               struct open_file **file)
{
    struct open_file *made = calloc(1, sizeof(*made));
    int r = made != NULL ? fill(files, node, made) : -ENOMEM;

    if (made != NULL) {
        made->node = *node;
    }
    if (r != 0) {
        if (made != NULL) {
            release(files, made);
        }
        return r;
    }
    made->opener = request->opener;
    made->writes = request->writes;
    made->is_direct = tree_is_made_at_open(files->tree, node) || (is_part(made) && made->writes);
    atomic_init(&made->past_end, false);
    pthread_mutex_lock(&files->mutex);
    if (is_busy(files, made)) {
        r = -EBUSY;
    } else {
        enlist(files, made);
    }
    pthread_mutex_unlock(&files->mutex);
    if (r != 0) {
        release(files, made);
        return r;
    }
    *file = made;
    return 0;
}

void files_close(struct files *files, struct open_file *file)
{
    delist(files, file);
    release(files, file);
}

void files_close_unseen(struct files *files, struct open_file *file)
{
    if (file->is_disk && !file->keeps_cache) {
        pthread_mutex_lock(&files->mutex);
        files->was_written_by_part = true;
        pthread_mutex_unlock(&files->mutex);
    }
    files_close(files, file);
}

uint64_t files_size(const struct open_file *file)
{
    return file->is_disk ? min_u64(view_size(file->view), INT64_MAX) : file->size;
}

uint64_t files_end(const struct open_file *file)
{
    uint64_t disk = view_size(file->view);

    return min_u64(files_size(file), disk - min_u64(file->guest_offset, disk));
}

bool files_node(struct files *files, uint64_t inode, struct node *node)
{
    bool found = false;

    pthread_mutex_lock(&files->mutex);
    for (struct open_file *file = files->first; file != NULL && !found; file = file->next) {
        if (file->node.inode == inode) {
            *node = file->node;
            found = true;
        }
    }
    pthread_mutex_unlock(&files->mutex);
    return found;
}

/* --- the kernel's copies ---------------------------------------------------- */

bool files_have_copies(const struct files *files, const struct files_change *change)
{
    return atomic_load(&files->cached_parts) > 0 ||
           (!change->through_disk && atomic_load(&files->disks) > 0);
}

/* Whether the kernel may have the change's old bytes as a part of this file; and where. */
static bool may_be_copied(const struct open_file *file, const struct files_change *change,
                          struct files_copy *copy)
{
    uint64_t begin = file->guest_offset, end = UINT64_MAX;

    if (!file->is_active || file->is_direct || (file->is_disk && change->through_disk)) {
        return false;
    }
    if (!file->is_disk && file->size < UINT64_MAX - begin) {
        end = begin + file->size;
    }
    begin = max_u64(begin, change->from);
    end = min_u64(end, change->to);
    *copy = (struct files_copy){
        .inode = file->node.inode,
        .offset = begin - file->guest_offset,
        .length = end - min_u64(begin, end),
    };
    return begin < end;
}

bool files_next_copy(struct files *files, const struct files_change *change, uint64_t after,
                     struct files_copy *copy)
{
    struct files_copy each;
    bool found = false;

    pthread_mutex_lock(&files->mutex);
    for (struct open_file *file = files->first; file != NULL; file = file->next) {
        if (file->node.inode > after && may_be_copied(file, change, &each) &&
            (!found || each.inode < copy->inode)) {
            *copy = each;
            found = true;
        }
    }
    pthread_mutex_unlock(&files->mutex);
    return found;
}

bool files_are_written(struct files *files)
{
    bool are_written;

    pthread_mutex_lock(&files->mutex);
    are_written = files->writers > 0;
    pthread_mutex_unlock(&files->mutex);
    return are_written;
}

void files_tell_past_end(struct files *files)
{
    pthread_mutex_lock(&files->mutex);
    for (struct open_file *file = files->first; file != NULL; file = file->next) {
        if (counts_as_writer(file)) {
            atomic_store(&file->past_end, true);
        }
    }
    pthread_mutex_unlock(&files->mutex);
}
