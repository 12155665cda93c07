/* SPDX-License-Identifier: MIT */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/ops_internal.h"

#include "disk/view.h"
#include "fuse/later.h"
#include "fuse/names.h"
#include "fuse/own_mount.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BACKGROUND_REQUESTS 64
#define CONGESTED_REQUESTS  48
#define TIMEOUT_STATIC      86400.0 /* seconds */
#define TIMEOUT_WRITTEN     1.0     /* of the space that a disk occupies while it is written to */
#define BUFFER_ALIGNMENT    4096

/* --- the file system -------------------------------------------------------- */

struct buffer {
    size_t size;
    char *bytes;
};

static void free_buffer(void *value)
{
    struct buffer *buffer = value;

    if (buffer != NULL) {
        free(buffer->bytes);
        free(buffer);
    }
}

/* What the options mean for writing. */
static void set_writer(struct filesystem *filesystem, struct writer *writer,
                       const struct mount_options *options)
{
    struct writer_options wanted;

    mount_writer_options(options, &wanted);
    filesystem->writer = writer;
    filesystem->is_growable = wanted.growable;
    filesystem->may_shrink = options->shrink.value;
    filesystem->unmaps = wanted.discard;
    /* In its cache the kernel would move the end of the disk before we do. */
    filesystem->kernel_caches_writes = writer != NULL && !wanted.growable && !wanted.write_through;
}

int filesystem_create(const struct source *source, const struct mount_options *options,
                      bool root_is_directory, struct log *log, struct filesystem **filesystem,
                      struct error *error)
{
    struct filesystem *made = calloc(1, sizeof(*made));
    struct image *image = source->image;
    struct writer *writer = source->writer;
    int r;

    if (made == NULL || stats_init(&made->stats) != 0 ||
        pthread_key_create(&made->buffers, free_buffer) != 0) {
        if (made != NULL) {
            stats_release(&made->stats);
        }
        free(made);
        return error_set(error, ENOMEM, "out of memory for the file system");
    }
    made->image = image;
    made->log = log;
    made->shows_zeros = options->salvage != NULL && options->salvage[0] != '\0';
    set_writer(made, writer, options);
    long_requests_init(&made->long_requests, mount_threads(options, image));
    lost_init(&made->lost);
    r = tree_create(source, options, root_is_directory, writer, log, &made->tree, error);
    if (r == 0) {
        r = files_create(image, made->tree, &made->stats, log, &made->files, error);
    }
    if (r == 0 && writer != NULL &&
        (later_create(&made->later) != 0 || later_create(&made->old_end) != 0 ||
         later_create(&made->changes) != 0)) {
        r = error_set(error, ENOMEM, "out of memory for the mount");
    }
    if (r != 0) {
        filesystem_destroy(made);
        return r;
    }
    *filesystem = made;
    return 0;
}

void filesystem_destroy(struct filesystem *filesystem)
{
    if (filesystem == NULL) {
        return;
    }
    later_destroy(filesystem->changes);
    later_destroy(filesystem->later);
    later_destroy(filesystem->old_end);
    files_destroy(filesystem->files);
    tree_destroy(filesystem->tree);
    /* Other threads' buffers went with the threads. */
    free_buffer(pthread_getspecific(filesystem->buffers));
    long_requests_destroy(&filesystem->long_requests);
    pthread_key_delete(filesystem->buffers);
    lost_release(&filesystem->lost);
    stats_release(&filesystem->stats);
    free(filesystem);
}

char *ops_buffer(struct filesystem *filesystem, size_t size)
{
    struct buffer *buffer = pthread_getspecific(filesystem->buffers);
    void *bytes;

    if (buffer == NULL) {
        buffer = calloc(1, sizeof(*buffer));
        if (buffer == NULL || pthread_setspecific(filesystem->buffers, buffer) != 0) {
            free(buffer);
            return NULL;
        }
    }
    if (size > buffer->size) {
        if (posix_memalign(&bytes, BUFFER_ALIGNMENT, size) != 0) {
            return NULL;
        }
        free(buffer->bytes);
        *buffer = (struct buffer){size, bytes};
    }
    return buffer->bytes;
}

/* --- answers ---------------------------------------------------------------- */

struct filesystem *ops_begin(fuse_req_t request, enum request_kind kind)
{
    struct filesystem *filesystem = fuse_req_userdata(request);

    stats_add(&filesystem->stats.requests[kind], 1);
    return filesystem;
}

void ops_fail(fuse_req_t request, int r)
{
    struct filesystem *filesystem = fuse_req_userdata(request);

    if (r == -EIO || r == -ENOMEM || r == -ENOSPC) {
        stats_add(&filesystem->stats.errors, 1);
    }
    fuse_reply_err(request, -r);
}

bool ops_node(const struct filesystem *filesystem, uint64_t inode, struct node *node)
{
    return tree_node(filesystem->tree, inode, node) || files_node(filesystem->files, inode, node);
}

double ops_timeout(const struct filesystem *filesystem, const struct node *node)
{
    if (tree_is_made_at_open(filesystem->tree, node)) {
        return 0;
    }
    if ((node->kind == NODE_SNAPSHOTS || node->kind == NODE_BITMAPS || node->kind == NODE_ROOT) &&
        filesystem->writer != NULL) {
        return 0; /* how many there are shows in the number of its links */
    }
    return tree_changes(filesystem->tree, node) ? TIMEOUT_WRITTEN : TIMEOUT_STATIC;
}

static int make_entry(struct filesystem *filesystem, const struct node *node,
                      struct fuse_entry_param *entry)
{
    *entry = (struct fuse_entry_param){
        .ino = node->inode,
        .attr_timeout = ops_timeout(filesystem, node),
        .entry_timeout = tree_is_made_at_open(filesystem->tree, node) ||
                                 tree_names_change(filesystem->tree, node)
                             ? 0
                             : TIMEOUT_STATIC,
    };
    return tree_attributes(filesystem->tree, node, &entry->attr);
}

int ops_snapshot_entry(struct filesystem *filesystem, uint64_t key, struct fuse_entry_param *entry)
{
    struct node node;

    return tree_snapshot(filesystem->tree, key, &node) ? make_entry(filesystem, &node, entry)
                                                       : -ENOENT;
}

/* --- the connection --------------------------------------------------------- */

static void want(struct fuse_conn_info *connection, unsigned capabilities, bool wanted)
{
    if (wanted) {
        connection->want |= connection->capable & capabilities;
    } else {
        connection->want &= ~capabilities;
    }
}

/*
 * When the kernel caches writes, the size of a file is what it knows; a file
 * that it looks up brings its size along, but a mount point does not, and would
 * be empty for ever. So before its first request it is handed the last byte,
 * which makes the file reach that far. Returns whether that was possible.
 */
static bool tell_size_of_root(struct filesystem *filesystem)
{
    uint64_t size = min_u64(filesystem->image->virtual_size, INT64_MAX);
    struct fuse_bufvec last = FUSE_BUFVEC_INIT(1);
    struct view *view;
    char byte;
    int r;

    if (filesystem->tree->root_is_directory || size == 0) {
        return true;
    }
    if (view_open_active(filesystem->image, &view) != 0) {
        return false;
    }
    r = view_read(view, size - 1, &byte, 1);
    view_close(view);
    last.buf[0].mem = &byte;
    return r == 0 && fuse_lowlevel_notify_store(filesystem->fuse, FUSE_ROOT_ID, (off_t)(size - 1),
                                                &last, 0) == 0;
}

/* The times, too, are what the kernel knows; they are set as a program would, when it answers. */
static void get_ready(struct filesystem *filesystem)
{
    const struct tree *tree = filesystem->tree;
    const struct timespec times[2] = {tree->atime, tree->mtime};

    if (filesystem->kernel_caches_writes && !tree->root_is_directory) {
        own_mount_set_times(filesystem->own, times, filesystem->ready, filesystem->ready_context);
    } else {
        filesystem->ready(filesystem->ready_context);
    }
}

void op_init(void *user_data, struct fuse_conn_info *connection)
{
    struct filesystem *filesystem = user_data;

    connection->max_write = OPS_REQUEST_MAX;
    connection->max_read = OPS_REQUEST_MAX;
    connection->max_background = BACKGROUND_REQUESTS;
    connection->congestion_threshold = CONGESTED_REQUESTS;
    want(connection,
         FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
             FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO,
         true);
    /* Nobody else changes the data: what the kernel has cached stays true until unmount. */
    want(connection, FUSE_CAP_EXPLICIT_INVAL_DATA, true);
    want(connection, FUSE_CAP_AUTO_INVAL_DATA, false);
    /* See op_setattr(). */
    want(connection, FUSE_CAP_ATOMIC_O_TRUNC, false);
    filesystem->kernel_caches_writes = filesystem->kernel_caches_writes &&
                                       (connection->capable & FUSE_CAP_WRITEBACK_CACHE) != 0 &&
                                       tell_size_of_root(filesystem);
    want(connection, FUSE_CAP_WRITEBACK_CACHE, filesystem->kernel_caches_writes);
    /* Data comes from a buffer in memory, mostly; a pipe between would be one more copy. */
    want(connection, FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE, false);
    get_ready(filesystem);
}

void op_statfs(fuse_req_t request, fuse_ino_t inode)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_STATFS);
    struct statvfs status = {.f_namemax = NAMES_MAX};

    (void)inode;
    tree_space(filesystem->tree, &status);
    fuse_reply_statfs(request, &status);
}

/* --- names and attributes --------------------------------------------------- */

void op_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_LOOKUP);
    struct fuse_entry_param entry;
    struct node directory, node;
    int r;

    if (!tree_node(filesystem->tree, parent, &directory)) {
        return ops_fail(request, -ENOENT);
    }
    r = tree_lookup(filesystem->tree, &directory, name, &node);
    if (r == -ENOENT && !tree_names_change(filesystem->tree, &directory)) {
        /* Inode 0: there is none, and the kernel may remember that. */
        entry = (struct fuse_entry_param){.entry_timeout = TIMEOUT_STATIC};
        fuse_reply_entry(request, &entry);
        return;
    }
    if (r == 0) {
        r = make_entry(filesystem, &node, &entry);
    }
    if (r != 0) {
        return ops_fail(request, r);
    }
    fuse_reply_entry(request, &entry);
}

void op_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_GETATTR);
    struct node node;
    struct stat attributes;
    int r = -ENOENT;

    if (ops_node(filesystem, inode, &node)) {
        r = tree_attributes(filesystem->tree, &node, &attributes);
    }
    if (r == 0) {
        r = ops_check_past_end(request, info);
    }
    if (r != 0) {
        return ops_fail(request, r);
    }
    fuse_reply_attr(request, &attributes, ops_timeout(filesystem, &node));
}

/* --- directories ------------------------------------------------------------ */

void op_opendir(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_OPENDIR);
    struct node node;
    bool is_constant =
        tree_node(filesystem->tree, inode, &node) && !tree_names_change(filesystem->tree, &node);

    info->cache_readdir = is_constant;
    info->keep_cache = is_constant;
    fuse_reply_open(request, info);
}

/* How one entry is written into the buffer; returns the bytes that it needs. */
typedef size_t add_entry_fn(fuse_req_t request, const struct node *node, const char *name,
                            uint64_t next_position, char *buffer, size_t size);

static size_t add_plain(fuse_req_t request, const struct node *node, const char *name,
                        uint64_t next_position, char *buffer, size_t size)
{
    struct stat attributes = {
        .st_ino = node->inode,
        .st_mode = tree_type(node),
    };

    return fuse_add_direntry(request, buffer, size, name, &attributes, (off_t)next_position);
}

static size_t add_plus(fuse_req_t request, const struct node *node, const char *name,
                       uint64_t next_position, char *buffer, size_t size)
{
    struct filesystem *filesystem = fuse_req_userdata(request);
    struct fuse_entry_param entry;

    if (make_entry(filesystem, node, &entry) != 0) {
        /* The name alone; a lookup will say what is wrong. */
        entry = (struct fuse_entry_param){.attr.st_ino = node->inode};
        entry.attr.st_mode = tree_type(node);
    }
    return fuse_add_direntry_plus(request, buffer, size, name, &entry, (off_t)next_position);
}

static void list(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                 add_entry_fn *add_entry)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_READDIR);
    char *buffer = ops_buffer(filesystem, size);
    uint64_t position = (uint64_t)offset;
    struct node directory, node;
    struct tree_name name;
    size_t used = 0;
    int r;

    if (buffer == NULL) {
        return ops_fail(request, -ENOMEM);
    }
    if (!tree_node(filesystem->tree, inode, &directory)) {
        return ops_fail(request, -ENOENT);
    }
    while ((r = tree_entry(filesystem->tree, &directory, position, &name, &node)) == 0) {
        size_t needed = add_entry(request, &node, name.text, name.next, buffer + used, size - used);

        if (needed > size - used) {
            break;
        }
        used += needed;
        position = name.next;
    }
    if (used == 0 && r != 0 && r != -ENOENT) {
        return ops_fail(request, r);
    }
    fuse_reply_buf(request, buffer, used);
}

void op_readdir(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                struct fuse_file_info *info)
{
    (void)info;
    list(request, inode, size, offset, add_plain);
}

void op_readdirplus(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                    struct fuse_file_info *info)
{
    (void)info;
    list(request, inode, size, offset, add_plus);
}

/* --- files ------------------------------------------------------------------ */

void op_readlink(fuse_req_t request, fuse_ino_t inode)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_LOOKUP); /* of one more name */
    char target[TREE_TARGET_MAX];
    struct node node;

    if (!tree_node(filesystem->tree, inode, &node) || node.kind != NODE_LINK) {
        return ops_fail(request, -ENOENT);
    }
    tree_link_target(&node, target);
    fuse_reply_readlink(request, target);
}
