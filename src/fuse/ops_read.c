/* SPDX-License-Identifier: MIT */
/* The requests that read a file, and look for its holes. */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "disk/view.h"
#include "fuse/ops_internal.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define SECTOR ((size_t)512)

/* Zeros for each sector that cannot be read. */
static void read_what_can_be(const struct open_file *file, uint64_t guest_offset, char *buffer,
                             size_t length)
{
    for (size_t at = 0; at < length; at += SECTOR) {
        size_t part = (size_t)min_u64(SECTOR, length - at);

        if (view_read(file->view, guest_offset + at, buffer + at, part) != 0) {
            memset(buffer + at, 0, part);
        }
    }
}

/* Of a view. */
static int read_view(struct filesystem *filesystem, const struct open_file *file, uint64_t offset,
                     void *buffer, size_t length)
{
    int r = view_read(file->view, file->guest_offset + offset, buffer, length);

    if (r == -EIO && filesystem->shows_zeros) {
        read_what_can_be(file, file->guest_offset + offset, buffer, length);
        r = 0;
    }
    return r;
}

/* What has changed of the view, and zeros for all else. */
static int read_changed(struct filesystem *filesystem, const struct open_file *file,
                        uint64_t offset, char *buffer, size_t length)
{
    uint64_t at = offset, stop = offset + length, begin, end;
    int r = 0;

    memset(buffer, 0, length);
    while (r == 0 && changed_next(file->changed, at, stop, &begin, &end)) {
        r = read_view(filesystem, file, begin, buffer + (begin - offset), in_memory(end - begin));
        at = end;
    }
    return r;
}

/* Of what is no text. A failure is told in the log. */
static int read_bytes(struct filesystem *filesystem, const struct open_file *file, uint64_t offset,
                      void *buffer, size_t length)
{
    int r;

    if (file->evidence == NULL) {
        return file->changed != NULL ? read_changed(filesystem, file, offset, buffer, length)
                                     : read_view(filesystem, file, offset, buffer, length);
    }
    r = evidence_read(file->evidence, file->node.evidence, offset, buffer, length);
    if (r != 0) {
        log_limited(filesystem->log, LOG_LEVEL_ERROR,
                    "%s: evidence/, %s.raw: %zu bytes at offset 0x%" PRIx64
                    " of it cannot be read: %s",
                    filesystem->image->path, evidence_name(file->node.evidence), length, offset,
                    strerror(-r));
    }
    return r;
}

/*
 * All that was asked for, up to the end of the file, or an error: the kernel
 * would take less for the end of the file, and show zeros from there on.
 */
void op_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
             struct fuse_file_info *info)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_READ);
    const struct open_file *file = ops_file(info);
    uint64_t end = files_size(file);
    uint64_t start = min_u64((uint64_t)offset, end);
    size_t length = min_size(size, end - start);
    char *buffer;

    (void)inode;
    buffer = ops_buffer(filesystem, length);
    if (buffer == NULL && length > 0) {
        return ops_fail(request, -ENOMEM);
    }
    if (file->text != NULL) {
        /* A copy: once the kernel has the reply, a release may free the text at any time. */
        if (length > 0) {
            memcpy(buffer, file->text + start, length);
        }
        fuse_reply_buf(request, buffer, length);
        return;
    }
    if (length > 0 && read_bytes(filesystem, file, start, buffer, length) != 0) {
        return ops_fail(request, -EIO);
    }
    stats_add(&filesystem->stats.bytes_read, length);
    fuse_reply_buf(request, buffer, length);
}

/* A search is given this much time; then what it has not seen is taken for data. */
#define SEEK_MILLISECONDS         1000
#define SEEK_MILLISECONDS_WAITING 100 /* while others wait for its thread */

/* ... but it looks at this many more extents: a machine that stood still, or a signal to who asks,
   is no reason for a copy that is not sparse. */
#define SEEK_LOOKS 64

/*
 * A search that was stopped has an answer, too, which may be less than could be
 * said and is never wrong: "data" where it came to, so that who asks looks there
 * and asks again, and no hole before the end.
 */
static int search(struct long_request *asked, uint64_t end, bool want_data, uint64_t *found)
{
    struct filesystem *filesystem = fuse_req_userdata(asked->request);
    uint64_t base = asked->file->guest_offset;
    int r = -EINTR;

    stop_after(&asked->stop, long_requests_wait(&filesystem->long_requests)
                                 ? SEEK_MILLISECONDS_WAITING
                                 : SEEK_MILLISECONDS);
    *found = base + asked->offset;
    for (unsigned looks = 0; r == -EINTR && looks <= SEEK_LOOKS; looks++) {
        r = view_seek_within(asked->file->view, *found, base + end, want_data, &asked->stop, found);
    }
    if (r == -ENXIO && !want_data) {
        *found = base + asked->offset; /* the disk has become smaller: zeros from here on */
        r = 0;
    }
    if (r == -EINTR) {
        *found = want_data ? *found : base + end;
        r = 0;
    }
    if (r == 0) {
        *found = min_u64(*found - base, end);
    }
    return r;
}

/*
 * What has changed is data, whatever it is now: also zeros have to be copied. 0 or -ENXIO.
 */
static int search_changed(const struct open_file *file, uint64_t from, uint64_t end, bool want_data,
                          uint64_t *found)
{
    uint64_t begin, stop;
    bool any = changed_next(file->changed, from, end, &begin, &stop);

    if (want_data) {
        *found = any ? begin : end;
        return any ? 0 : -ENXIO;
    }
    *found = any && begin == from ? stop : from;
    return 0;
}

static void serve_lseek(struct long_request *asked)
{
    const struct open_file *file = asked->file;
    uint64_t found, end = files_size(file);
    bool want_data = asked->mode == SEEK_DATA;
    int r = 0;

    if (file->evidence != NULL) {
        found = evidence_seek(file->evidence, file->node.evidence, asked->offset, end, want_data);
        r = want_data && found == end ? -ENXIO : 0;
    } else if (file->changed != NULL) {
        r = search_changed(file, asked->offset, end, want_data, &found);
    } else {
        r = search(asked, end, want_data, &found);
    }
    long_request_end(asked);
    if (r != 0) {
        return ops_fail(asked->request, r);
    }
    fuse_reply_lseek(asked->request, (off_t)found);
}

/*
 * A text is data from its beginning to its end. So is a disk that somebody has
 * open to write: the kernel asks here without a look at what it has cached,
 * which may be anywhere.
 */
void op_lseek(fuse_req_t request, fuse_ino_t inode, off_t offset, int whence,
              struct fuse_file_info *info)
{
    struct filesystem *filesystem = ops_begin(request, REQUEST_LSEEK);
    const struct long_request asked = {
        .request = request,
        .serve = serve_lseek,
        .file = ops_file(info),
        .mode = whence,
        .offset = (uint64_t)offset, /* a negative one becomes one far past the end */
    };
    uint64_t end = files_size(asked.file);

    (void)inode;
    if (whence != SEEK_DATA && whence != SEEK_HOLE) {
        return ops_fail(request, -EINVAL);
    }
    if (asked.offset >= end) {
        return ops_fail(request, -ENXIO);
    }
    if (asked.file->text != NULL || (asked.file->is_disk && files_are_written(filesystem->files))) {
        fuse_reply_lseek(request, whence == SEEK_DATA ? offset : (off_t)end);
        return;
    }
    long_requests_take(&filesystem->long_requests, &asked);
}
