/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/files.h"

#include "util/checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A snapshot's disk or VM state. */
struct shared_view {
    pthread_mutex_t mutex; /* guards the two below */
    struct view *view;     /* NULL while nobody has it open */
    unsigned users;
};

#define VIEWS_A_SNAPSHOT 2

struct files {
    struct image *image;
    struct tree *tree;
    const struct stats *stats;
    struct log *log;
    struct view *active;
    size_t shared_count;
    struct shared_view *shared;
    pthread_mutex_t mutex; /* guards the two below */
    struct open_file *first;
    unsigned writers; /* that have the disk open */
};

int files_create(struct image *image, struct tree *tree, const struct stats *stats, struct log *log,
                 struct files **files, struct error *error)
{
    struct files *made = calloc(1, sizeof(*made));
    size_t count = tree->snapshot_count * VIEWS_A_SNAPSHOT;
    int r = -ENOMEM;

    if (made != NULL) {
        *made = (struct files){.image = image, .tree = tree, .stats = stats, .log = log};
        made->shared = calloc(count + 1, sizeof(*made->shared));
    }
    if (made != NULL && made->shared != NULL) {
        r = view_open_active(image, &made->active);
    }
    if (r != 0) {
        if (made != NULL) {
            free(made->shared);
        }
        free(made);
        return error_set(error, -r, "%s: the disk cannot be opened: %s", image->path, strerror(-r));
    }
    pthread_mutex_init(&made->mutex, NULL);
    for (size_t i = 0; i < count; i++) {
        pthread_mutex_init(&made->shared[i].mutex, NULL);
    }
    made->shared_count = count;
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
    for (size_t i = 0; i < files->shared_count; i++) {
        pthread_mutex_destroy(&files->shared[i].mutex);
    }
    pthread_mutex_destroy(&files->mutex);
    view_close(files->active);
    free(files->shared);
    free(files);
}

/* --- shared views ----------------------------------------------------------- */

/* Under the mutex of `shared`. */
static int open_shared(struct files *files, const struct node *node, struct shared_view *shared)
{
    struct error error = {0};
    int r;

    if (node->kind == NODE_SNAPSHOT_DISK) {
        r = view_open_snapshot(files->image, node->snapshot, &shared->view, &error);
    } else {
        r = view_open_vmstate(files->image, node->snapshot, &shared->view, &error);
    }
    if (r != 0) {
        log_limited(files->log, LOG_LEVEL_ERROR, "%s", error.code != 0 ? error.text : strerror(-r));
        shared->view = NULL;
        return r == -ENOMEM ? r : -EIO;
    }
    return 0;
}

static int use_shared(struct files *files, const struct node *node, struct open_file *file)
{
    size_t number = node->snapshot * VIEWS_A_SNAPSHOT + (node->kind == NODE_SNAPSHOT_VMSTATE);
    struct shared_view *shared = &files->shared[number];
    int r = 0;

    pthread_mutex_lock(&shared->mutex);
    if (shared->view == NULL) {
        r = open_shared(files, node, shared);
    }
    if (r == 0) {
        shared->users++;
        file->shared = shared;
        file->view = shared->view;
    }
    pthread_mutex_unlock(&shared->mutex);
    return r;
}

static void leave_shared(struct shared_view *shared)
{
    struct view *unused = NULL;

    pthread_mutex_lock(&shared->mutex);
    if (--shared->users == 0) {
        unused = shared->view;
        shared->view = NULL;
    }
    pthread_mutex_unlock(&shared->mutex);
    view_close(unused);
}

/* --- open files ------------------------------------------------------------- */

static int use_text(struct files *files, const struct node *node, struct open_file *file)
{
    if (node->kind == NODE_STATS) {
        file->own_text = stats_json(files->stats, files->image->cache);
        file->text = file->own_text;
    } else {
        file->text = tree_info(files->tree);
    }
    return file->text != NULL ? 0 : -ENOMEM;
}

static int fill(struct files *files, const struct node *node, struct open_file *file)
{
    int r;

    switch (node->kind) {
    case NODE_DISK:
        file->view = files->active;
        file->is_disk = true;
        return 0;
    case NODE_SNAPSHOT_DISK:
    case NODE_SNAPSHOT_VMSTATE:
        return use_shared(files, node, file);
    case NODE_INFO:
    case NODE_STATS:
        r = use_text(files, node, file);
        file->size = r == 0 ? strlen(file->text) : 0;
        return r;
    case NODE_ROOT:
    case NODE_SNAPSHOTS:
    case NODE_SNAPSHOT:
        break;
    }
    return -EISDIR;
}

static bool counts_as_writer(const struct open_file *file)
{
    return file->is_disk && file->writes;
}

static void enlist(struct files *files, struct open_file *file)
{
    pthread_mutex_lock(&files->mutex);
    file->next = files->first;
    if (file->next != NULL) {
        file->next->previous = file;
    }
    files->first = file;
    files->writers += counts_as_writer(file);
    pthread_mutex_unlock(&files->mutex);
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
    files->writers -= counts_as_writer(file);
    pthread_mutex_unlock(&files->mutex);
}

int files_open(struct files *files, const struct node *node, const struct open_request *request,
               struct open_file **file)
{
    struct open_file *made = calloc(1, sizeof(*made));
    int r = made != NULL ? fill(files, node, made) : -ENOMEM;

    if (r != 0) {
        free(made);
        return r;
    }
    made->opener = request->opener;
    made->writes = request->writes;
    atomic_init(&made->past_end, false);
    enlist(files, made);
    *file = made;
    return 0;
}

void files_close(struct files *files, struct open_file *file)
{
    delist(files, file);
    if (file->shared != NULL) {
        leave_shared(file->shared);
    }
    free(file->own_text);
    free(file);
}

uint64_t files_size(const struct open_file *file)
{
    return file->view != NULL ? min_u64(view_size(file->view), INT64_MAX) : file->size;
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
