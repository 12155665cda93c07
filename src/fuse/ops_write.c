/* SPDX-License-Identifier: MIT */
/* The requests that change the disk. */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/ops_internal.h"

#include "fuse/copies.h"
#include "fuse/old_end.h"
#include "fuse/own_mount.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/falloc.h>

/* That of this request; the kernel lets none through to a file that is not open to write. */
static int check_writable(const struct filesystem *filesystem, const struct open_file *file)
{
    if (filesystem->writer == NULL) {
        return -EROFS;
    }
    return file->is_active && file->writes ? 0 : -EBADF;
}

static void finish(fuse_req_t request, int r)
{
    if (r != 0) {
        return ops_fail(request, r);
    }
    fuse_reply_err(request, 0);
}

/* The same, after a change of the disk, which may have failed in part. */
static void finish_change(fuse_req_t request, const struct files_change *change, int r)
{
    struct filesystem *filesystem = fuse_req_userdata(request);

    if (copies_are_changed(filesystem, change)) {
        const struct copies_answer answer = {
            .request = request, .kind = COPIES_ANSWER_RESULT, .result = r};

        return copies_drop(filesystem, change, &answer);
    }
    finish(request, r);
}

static void finish_write(fuse_req_t request, const struct files_change *change)
{
    struct filesystem *filesystem = fuse_req_userdata(request);
    size_t length = (size_t)(change->to - change->from);

    if (copies_are_changed(filesystem, change)) {
        const struct copies_answer answer = {
            .request = request, .kind = COPIES_ANSWER_WRITE, .written = length};

        return copies_drop(filesystem, change, &answer);
    }
    fuse_reply_write(request, length);
}

/* --- past the end ----------------------------------------------------------- */

/*
 * While the kernel caches writes it takes in any number of them past the end of
 * the disk, and makes the file longer as it knows it. What follows when such a
 * write arrives here and is refused: the next fsync or close fails. Besides,
 * whoever goes on writing gets ENOSPC from write(2), as on a device (or
 * dd if=/dev/zero would never end), and the kernel is made to see the real size.
 */
static void refuse_past_end(fuse_req_t request, const struct files_change *change)
{
    struct filesystem *filesystem = fuse_req_userdata(request);

    if (filesystem->kernel_caches_writes && change->through_disk) {
        files_tell_past_end(filesystem->files);
        own_mount_restore_size(filesystem->own);
    }
    finish_change(request, change, -ENOSPC);
}

int ops_check_past_end(fuse_req_t request, const struct fuse_file_info *info)
{
    struct open_file *file = info != NULL ? ops_file(info) : NULL;

    /* Not for a loop device, which somebody else has opened for the kernel. */
    if (file == NULL || fuse_req_ctx(request)->pid != file->opener) {
        return 0;
    }
    return atomic_exchange(&file->past_end, false) ? -ENOSPC : 0;
}

/* --- writing ---------------------------------------------------------------- */

bool ops_is_interrupted(const void *request)
{
    /* It looks at a flag; that it asks for a request that can change is an oversight. */
    return fuse_req_interrupted((fuse_req_t)(uintptr_t)request) != 0;
}

/*
 * Before a write at `start` makes the disk longer. What begins in the page where the disk ends may
 * have it locked: the kernel has not read it then, and nobody has stored anything there.
 */
static int clear_old_end(struct filesystem *filesystem, uint64_t inode, uint64_t old_end,
                         uint64_t start)
{
    if (old_end_shares_page(old_end, start)) {
        int r = old_end_clear(filesystem, inode, old_end, start, OLD_END_PATIENCE_WRITE);

        return r == -EINTR ? 0 : r;
    }
    return old_end_clear(filesystem, inode, old_end, start, OLD_END_PATIENCE);
}

/*
 * Makes the disk long enough for what is written from `start` to `end`. That can take long, where
 * the backing image has much there: it ends with its request, or with the daemon.
 */
static int grow_for(fuse_req_t request, uint64_t inode, uint64_t start, uint64_t end)
{
    struct filesystem *filesystem = fuse_req_userdata(request);
    uint64_t old_end = filesystem->image->virtual_size;
    int r = clear_old_end(filesystem, inode, old_end, start);
    struct stop stop;

    if (r == 0) {
        stop_init(&stop, &filesystem->long_requests.ending);
        stop_ask(&stop, ops_is_interrupted, request);
        r = writer_grow(filesystem->writer, end, &stop);
    }
    if (r != 0) {
        old_end_keep(filesystem, old_end, start);
    }
    return r;
}

static void is_there_now(struct filesystem *filesystem, uint64_t offset, uint64_t length)
{
    if (lost_result(&filesystem->lost) != 0) {
        lost_remove(&filesystem->lost, offset, offset + length);
    }
}

/* A partition has the size that its table says. */
static bool may_grow(const struct filesystem *filesystem, const struct open_file *file)
{
    return filesystem->is_growable && file->is_disk;
}

void op_write(fuse_req_t request, fuse_ino_t inode, const char *data, size_t size, off_t offset,
              struct fuse_file_info *info)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_WRITE);
    const struct open_file *file = ops_file(info);
    uint64_t start = file->guest_offset + (uint64_t)offset;
    struct files_change change = {.from = start, .through_disk = file->is_disk};
    size_t length = size;
    int r = check_writable(filesystem, file);

    if (r != 0) {
        return ops_fail(request, r);
    }
    if (!may_grow(filesystem, file)) {
        uint64_t end = files_end(file);

        length = (size_t)min_u64(size, end - min_u64((uint64_t)offset, end));
    }
    change.to = start + length;
    if (may_grow(filesystem, file) && change.to > files_end(file)) {
        r = grow_for(request, inode, start, change.to);
    }
    if (r == 0 && length > 0) {
        r = writer_write(filesystem->writer, start, data, length);
    }
    if (r != 0) {
        if (info->writepage) {
            lost_add(&filesystem->lost, start, start + length,
                     r); /* it was acknowledged long ago */
        }
        return finish_change(request, &change, r);
    }
    is_there_now(filesystem, start, length);
    stats_add(&filesystem->stats.bytes_written, length);
    /* A program can be told that less was written; of what was cached, nobody would hear it. */
    if (length < size && (length == 0 || info->writepage)) {
        return refuse_past_end(request, &change);
    }
    finish_write(request, &change);
}

/* --- allocating and discarding ---------------------------------------------- */

#define KNOWN_MODES (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)

/* What was asked for, by its inode: writer_grow() or writer_resize() to `size`. */
static int change_size(struct filesystem *filesystem, const struct long_request *asked,
                       uint64_t size,
                       int (*set)(struct writer *writer, uint64_t size, const struct stop *stop))
{
    uint64_t now = filesystem->image->virtual_size;
    int r = old_end_clear(filesystem, asked->inode, now, size, OLD_END_PATIENCE);

    if (r == 0) {
        r = set(filesystem->writer, size, &asked->stop);
    }
    if (r != 0) {
        old_end_keep(filesystem, now, size);
    }
    return r;
}

/*
 * Makes room for what reaches past the end, or cuts it off: *length is what
 * lies within the disk then.
 */
static int fit_range(struct filesystem *filesystem, const struct long_request *asked,
                     uint64_t *length)
{
    uint64_t size = files_end(asked->file), end;
    bool keeps_size = (asked->mode & FALLOC_FL_KEEP_SIZE) != 0;

    if (!checked_add(asked->offset, *length, &end) || end > INT64_MAX) {
        return -EFBIG;
    }
    if (end <= size) {
        return 0;
    }
    if (!keeps_size) {
        return may_grow(filesystem, asked->file) ? change_size(filesystem, asked, end, writer_grow)
                                                 : -ENOSPC;
    }
    if ((asked->mode & ~FALLOC_FL_KEEP_SIZE) == 0 && !may_grow(filesystem, asked->file)) {
        return -ENOSPC; /* what was asked for is a place that there will never be */
    }
    *length = size - min_u64(asked->offset, size);
    return 0;
}

static int zero(struct filesystem *filesystem, struct long_request *asked, uint64_t length)
{
    bool unmap = (asked->mode & FALLOC_FL_PUNCH_HOLE) != 0 && filesystem->unmaps;
    uint64_t guest_offset = asked->file->guest_offset + asked->offset;
    int r = writer_zero(filesystem->writer, guest_offset, length, unmap, &asked->stop);

    if (r == 0) {
        is_there_now(filesystem, guest_offset, length);
    } else if (!filesystem->long_requests.alone) {
        /*
         * Some of it may be zeros now, and the kernel forgets what it has cached
         * there only after a success. It may have to write first, to another thread.
         */
        (void)fuse_lowlevel_notify_inval_inode(filesystem->fuse, asked->inode, (off_t)asked->offset,
                                               (off_t)length);
    }
    return r;
}

static int allocate(struct filesystem *filesystem, struct long_request *asked)
{
    uint64_t length = asked->length;
    int mode = asked->mode;
    int r = check_writable(filesystem, asked->file);

    if (r == 0 && (mode & ~KNOWN_MODES) != 0) {
        r = -EOPNOTSUPP;
    }
    if (r == 0) {
        r = fit_range(filesystem, asked, &length);
    }
    if (r != 0 || length == 0) {
        return r;
    }
    switch (mode & ~FALLOC_FL_KEEP_SIZE) {
    case 0:
        return writer_preallocate(filesystem->writer, asked->file->guest_offset + asked->offset,
                                  length, &asked->stop);
    case FALLOC_FL_PUNCH_HOLE:
    case FALLOC_FL_ZERO_RANGE:
        return zero(filesystem, asked, length);
    default:
        return -EOPNOTSUPP;
    }
}

static void serve_fallocate(struct long_request *asked)
{
    struct filesystem *filesystem = fuse_req_userdata(asked->request);
    const struct open_file *file = asked->file;
    int r = allocate(filesystem, asked);
    uint64_t from = file->guest_offset + asked->offset;
    const struct files_change change = {
        .from = from,
        .to = from + min_u64(asked->length, UINT64_MAX - from),
        .through_disk = file->is_disk,
    };

    long_request_end(asked);
    if (check_writable(filesystem, file) != 0) {
        return finish(asked->request, r);
    }
    finish_change(asked->request, &change, r);
}

void op_fallocate(fuse_req_t request, fuse_ino_t inode, int mode, off_t offset, off_t length,
                  struct fuse_file_info *info)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_FALLOCATE);
    const struct long_request asked = {
        .request = request,
        .serve = serve_fallocate,
        .file = ops_file(info),
        .inode = inode,
        .mode = mode,
        .offset = (uint64_t)offset,
        .length = (uint64_t)length,
    };

    long_requests_take(&filesystem->long_requests, &asked);
}

/* --- making stable ---------------------------------------------------------- */

/* R7: what was lost is not there, whatever this flush does. */
static int flush_disk(struct filesystem *filesystem)
{
    int r = writer_flush(filesystem->writer);

    return r != 0 ? r : lost_result(&filesystem->lost);
}

void op_fsync(fuse_req_t request, fuse_ino_t inode, int data_only, struct fuse_file_info *info)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_FSYNC);
    bool is_active = ops_file(info)->is_active && filesystem->writer != NULL;

    (void)inode;
    (void)data_only;
    finish(request, is_active ? flush_disk(filesystem) : 0);
}

/* A file was closed: the last chance to tell a program that does not sync that a write failed. */
void op_flush(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_FLUSH);
    const struct open_file *file = ops_file(info);
    bool may_have_written = check_writable(filesystem, file) == 0;

    (void)inode;
    finish(request, may_have_written ? flush_disk(filesystem) : 0);
}

/* --- attributes ------------------------------------------------------------- */

/*
 * open(2) with O_TRUNC, as a shell's > does it, must not take the disk away: it
 * changes nothing. The kernel sends it as a new size of 0, without a file, and
 * takes the size, as it is, from the answer; own_mount.h relies on that, too. (If
 * it sent O_TRUNC with the open, FUSE_CAP_ATOMIC_O_TRUNC, it would drop what it
 * has cached and hold the file for empty, whatever the answer.)
 */
static bool is_truncating_open(const struct stat *attributes, const struct fuse_file_info *info)
{
    return info == NULL && attributes->st_size == 0;
}

/*
 * A program that writes a file anew cuts it off where it will begin, or has
 * ended; of a disk it would take the rest away, and most who run it (dd seek=)
 * do not know that it asks for that. So it is done for those alone who said so.
 */
static int check_shrinking(struct filesystem *filesystem, uint64_t size)
{
    uint64_t now = filesystem->image->virtual_size;

    if (filesystem->may_shrink || writer_size_for(filesystem->writer, size) >= now) {
        return 0;
    }
    log_limited(filesystem->log, LOG_LEVEL_WARNING,
                "%s: a program wanted to cut the disk from %" PRIu64 " to %" PRIu64
                " bytes, and got EPERM, since what is behind would be lost; use dd with "
                "conv=notrunc, or mount with -o shrink to allow it",
                filesystem->image->path, now, size);
    return -EPERM;
}

static int set_size(struct filesystem *filesystem, const struct long_request *asked)
{
    uint64_t size = (uint64_t)asked->attributes.st_size;
    int r = check_shrinking(filesystem, size);

    return r == 0 ? change_size(filesystem, asked, size, writer_resize) : r;
}

/* A partition has the size that its table says: to set that again changes nothing. */
static int set_partition_size(const struct stat *now, const struct stat *wanted)
{
    return wanted->st_size == now->st_size ? 0 : -EPERM;
}

/* Owner and permissions are those of the mount. */
static int check_unchanged(const struct stat *now, const struct stat *wanted, int to_set)
{
    bool differ = ((to_set & FUSE_SET_ATTR_MODE) != 0 &&
                   (wanted->st_mode & 07777) != (now->st_mode & 07777)) ||
                  ((to_set & FUSE_SET_ATTR_UID) != 0 && wanted->st_uid != now->st_uid) ||
                  ((to_set & FUSE_SET_ATTR_GID) != 0 && wanted->st_gid != now->st_gid);

    return differ ? -EPERM : 0;
}

static int set_attributes(struct filesystem *filesystem, const struct node *node,
                          const struct long_request *asked, struct stat *now)
{
    int r = tree_attributes(filesystem->tree, node, now);

    if (r == 0) {
        r = tree_is_active(node) ? check_unchanged(now, &asked->attributes, asked->mode) : -EPERM;
    }
    if (r != 0 || (asked->mode & FUSE_SET_ATTR_SIZE) == 0) {
        return r;
    }
    if (node->kind == NODE_PARTITION) {
        return set_partition_size(now, &asked->attributes);
    }
    r = set_size(filesystem, asked);
    return r == 0 ? tree_attributes(filesystem->tree, node, now) : r;
}

static void serve_setattr(struct long_request *asked)
{
    struct filesystem *filesystem = fuse_req_userdata(asked->request);
    struct files_change change = {.through_disk = true}; /* what is cut off */
    struct copies_answer answer = {.request = asked->request, .kind = COPIES_ANSWER_ATTRIBUTES};
    struct node node;
    uint64_t before = filesystem->image->virtual_size;
    int r = ops_node(filesystem, asked->inode, &node) ? 0 : -ENOENT;

    if (r == 0) {
        r = set_attributes(filesystem, &node, asked, &answer.attributes);
    }
    long_request_end(asked);
    if (r != 0) {
        return ops_fail(asked->request, r);
    }
    /* See refuse_past_end(): the kernel shall ask again before it takes in the next write. */
    if (!own_mount_recognise(filesystem->own, fuse_req_ctx(asked->request)->pid)) {
        answer.timeout = ops_timeout(filesystem, &node);
    }
    change.from = min_u64(before, filesystem->image->virtual_size);
    change.to = before;
    if (change.from < change.to && copies_are_changed(filesystem, &change)) {
        return copies_drop(filesystem, &change, &answer);
    }
    fuse_reply_attr(asked->request, &answer.attributes, answer.timeout);
}

/* Times are accepted, so that cp -p and touch succeed; the kernel keeps them for a while. */
void op_setattr(fuse_req_t request, fuse_ino_t inode, struct stat *attributes, int to_set,
                struct fuse_file_info *info)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_SETATTR);
    const struct long_request asked = {
        .request = request,
        .serve = serve_setattr,
        .inode = inode,
        .mode = is_truncating_open(attributes, info) ? to_set & ~FUSE_SET_ATTR_SIZE : to_set,
        .attributes = *attributes,
    };

    if (filesystem->writer == NULL) {
        return ops_fail(request, -EROFS);
    }
    if ((asked.mode & FUSE_SET_ATTR_SIZE) != 0) {
        return long_requests_take(&filesystem->long_requests, &asked);
    }
    long_requests_serve(&filesystem->long_requests, &asked);
}
