/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/commit.h"

#include "admin/chain_compare.h"
#include "disk/chain.h"
#include "disk/snapshots.h"
#include "disk/view.h"
#include "disk/writer.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The base, as the chain has it: to be opened again, to be written. */
struct base_request {
    struct image_request image;
    struct chain_file file;
    struct store_info info; /* of the file that was found */
};

struct committing {
    const struct chain_commit_options *options;
    struct log *log;
    struct error *error;
    struct image *image; /* without the base and what is behind that */
    struct image *above; /* the last of those: the base's overlay */
    struct writer *writer;
    struct view *view;
    uint64_t cut; /* from here on, bytes, an image between has ended, and hides what the base has */
    struct image *base;
    struct writer *base_writer; /* NULL: it is raw */
    uint8_t *buffer;            /* CHAIN_WORK_STEP bytes */
    struct chain_commit_result *result;
};

/* --- Opening the two ------------------------------------------------------------------------ */

static int open_writer(struct image *image, bool same_disk, struct writer **writer,
                       struct error *error)
{
    int result = chain_work_attach_cache(image, error);

    return result == 0 ? chain_work_open_writer(image, same_disk, writer, error) : result;
}

/* Whether the file at `path` is the one that the image is in; a device is one by whichever node. */
static bool is_at(const struct image *image, const char *path)
{
    struct stat named, own;
    struct store_info info;

    if (stat(path, &named) != 0 || store_info(image->file, &info) < 0) {
        return false;
    }
    return (info.device == named.st_dev && info.inode == named.st_ino) ||
           (S_ISBLK(named.st_mode) && stat(image->path, &own) == 0 && S_ISBLK(own.st_mode) &&
            own.st_rdev == named.st_rdev);
}

static int find_base(struct committing *committing)
{
    const char *wanted = committing->options->base;
    struct image *image = committing->image, *above = image;

    if (image->backing == NULL) {
        return error_set(committing->error, EINVAL,
                         "%s: has no backing file, so there is nothing that it could be committed "
                         "to",
                         image->path);
    }
    while (wanted != NULL && above->backing != NULL && !is_at(above->backing, wanted)) {
        above = above->backing;
    }
    if (above->backing == NULL) {
        return error_set(committing->error, EINVAL,
                         "%s: is not behind %s, so that cannot be committed to it; qcow2ctl info "
                         "--backing-chain lists what is",
                         wanted, image->path);
    }
    committing->above = above;
    return 0;
}

/* What could begin with the header of another format afterwards, and lead to other files. */
static int check_recorded(const struct committing *committing)
{
    const struct image *above = committing->above;

    return above->header->backing_format == NULL && above->backing->format == IMAGE_RAW
               ? error_set(committing->error, EINVAL,
                           "%s: does not record the format of its backing file %s, which is raw "
                           "by what it looks like now; first qcow2ctl amend -o backing_fmt=raw",
                           above->path, above->backing->path)
               : 0;
}

static int check_image(const struct committing *committing)
{
    const struct image *image = committing->image;

    if (committing->above == image && !committing->options->keep &&
        image->header->external_data_file) {
        return error_set(committing->error, ENOTSUP,
                         "%s: has an external data file, and is not emptied; add -d to have it "
                         "keep what it has",
                         image->path);
    }
    return check_recorded(committing);
}

/*
 * Takes the base out of the image's chain, which reads of it, and must not: what is looked up from
 * now on is what those above have. Its lock there would keep us from writing, too.
 */
static int part_from_base(struct committing *committing, struct base_request *request)
{
    struct image *above = committing->above, *base = above->backing;
    int result = store_info(base->file, &request->info);

    request->image = (struct image_request){
        .path = committing->result->base = strdup(base->path),
        .what = "backing file",
        .format = base->format,
        .probed = above->header->backing_format == NULL,
        .access = STORE_WRITE,
    };
    request->file = (struct chain_file){
        .image = above->path,
        .of = above->file,
        .path = request->image.path,
        .what = "backing file",
        .active = above == committing->image,
    };
    if (result < 0 || request->image.path == NULL) {
        result = result < 0 ? result : -ENOMEM;
        return error_set(committing->error, -result, "%s: %s", base->path, strerror(-result));
    }
    committing->cut = UINT64_MAX;
    for (const struct image *each = committing->image; each != above; each = each->backing) {
        committing->cut = min_u64(committing->cut, each->backing->virtual_size);
    }
    image_part_from_backing(above);
    return 0;
}

/* Opening it read-only, the usual advice for what cannot be written, is none for who writes to it.
 */
static int advise(struct error *error)
{
    static const char usual[] = "open it read-only";
    const struct error said = *error;
    size_t length = strlen(said.text), cut = strlen(usual);

    if (length < cut || strcmp(said.text + length - cut, usual) != 0) {
        return -said.code;
    }
    return error_set(error, said.code, "%.*smake one image of both with qcow2ctl convert",
                     (int)(length - cut), said.text);
}

static int open_base(struct committing *committing, struct base_request *request)
{
    const struct image_options options = chain_work_opening(&committing->options->work);
    const struct store_file_options how = {
        .access = STORE_WRITE,
        .cache = options.cache,
        .no_locks = options.no_locks,
    };
    struct store_info info;
    int result = chain_open_file(&request->file, &how, options.names, &request->image.file,
                                 committing->error);

    if (result < 0) {
        return advise(committing->error);
    }
    result = store_info(request->image.file, &info);
    if (result < 0 || info.device != request->info.device || info.inode != request->info.inode) {
        store_close(request->image.file);
        return error_set(committing->error, EBUSY,
                         "%s: another file has this name now than a moment ago; nothing was "
                         "changed, try again",
                         request->image.path);
    }
    result = image_open_one(&request->image, &options, committing->log, &committing->base,
                            committing->error);
    if (result == 0 && request->image.format == IMAGE_QCOW2) {
        result = chain_open_backing(committing->base, &options, committing->log, committing->error);
        if (result == 0) {
            result =
                open_writer(committing->base, false, &committing->base_writer, committing->error);
        }
    }
    return result;
}

static int open_all(struct committing *committing, const char *path)
{
    const struct image_options options = chain_work_opening(&committing->options->work);
    struct base_request request = {0};
    int result = image_open(path, &options, committing->log, &committing->image, committing->error);

    if (result == 0) {
        result = find_base(committing);
    }
    if (result == 0) {
        result = check_image(committing);
    }
    if (result == 0) {
        result = part_from_base(committing, &request);
    }
    if (result == 0) {
        result = open_writer(committing->image, true, &committing->writer, committing->error);
    }
    if (result == 0) {
        result = view_open_active(committing->image, &committing->view);
        committing->buffer = malloc(CHAIN_WORK_STEP);
        if (result < 0 || committing->buffer == NULL) {
            return error_set(committing->error, ENOMEM, "%s: out of memory", path);
        }
    }
    return result == 0 ? open_base(committing, &request) : result;
}

/* --- Snapshots ------------------------------------------------------------------------------ */

/* chain_failed_fn */
static int compare_failed(struct chain_compare *compare, enum chain_side side, int result)
{
    const struct committing *committing = compare->context;
    const struct image *image = side == CHAIN_STATE ? compare->image
                                : side == CHAIN_OLD ? committing->base
                                                    : committing->image;

    if (result == -EINTR) {
        return error_set(committing->error, EINTR, "%s: interrupted; nothing was changed",
                         committing->image->path);
    }
    return error_set(committing->error, -result,
                     "%s: byte %" PRIu64 " of its disk cannot be read, which snapshot '%s' of %s "
                     "may show: %s; nothing was changed",
                     image->path, compare->offset, compare->snapshot->name, compare->image->path,
                     strerror(-result));
}

/* `image` is the one that is committed, or one between. */
static int check_snapshots_of(struct committing *committing, struct chain_compare *compare,
                              struct image *image)
{
    struct snapshot_table *table = NULL;
    int result;

    if (image == committing->image) {
        return chain_compare_snapshots(compare, image, image->snapshots);
    }
    result = snapshot_table_read(image->file, image->header, image->file_size, image->path, &table,
                                 committing->error);
    if (result == 0) {
        result = chain_compare_snapshots(compare, image, table);
        snapshot_table_free(table);
    }
    return result;
}

/* How far what the image has not is the base's, and written: one between that ends hides that. */
static uint64_t shown_until(const struct committing *committing, const struct image *image)
{
    uint64_t until = view_size(committing->view);

    for (; image != committing->above; image = image->backing) {
        until = min_u64(until, image->backing->virtual_size);
    }
    return until;
}

static int check_all_snapshots(struct committing *committing, struct chain_compare *compare)
{
    int result = chain_compare_open(compare);

    for (struct image *each = committing->image; each != NULL && result == 0;
         each = each->backing) {
        compare->limit = shown_until(committing, each);
        if (each->header->snapshot_count > 0) {
            result = check_snapshots_of(committing, compare, each);
        }
    }
    chain_compare_close(compare);
    return result;
}

/* That none shows something else once the base says what the image does. */
static int check_snapshots(struct committing *committing)
{
    struct chain_compare compare = {
        .work = &committing->options->work,
        .image = committing->image,
        .new = committing->view,
        .own_depth = UINT_MAX, /* the base is in none of their chains any more */
        .is_written = true,
        .cut = committing->cut,
        .unit = 1,
        .failed = compare_failed,
        .error = committing->error,
        .context = committing,
    };
    struct image *base = committing->base;
    int result = base->cache == NULL ? chain_work_attach_cache(base, committing->error) : 0;

    if (result == 0 && view_open_active(base, &compare.old) < 0) {
        result = error_set(committing->error, ENOMEM, "%s: out of memory", base->path);
    }
    if (result == 0) {
        result = check_all_snapshots(committing, &compare);
    }
    view_close(compare.old); /* before anything is written there */
    return result;
}

/* --- Writing to the base -------------------------------------------------------------------- */

static int base_failed(const struct committing *committing, int result, const char *what)
{
    if (result == -EINTR) {
        return error_set(committing->error, EINTR,
                         "%s: interrupted; the disk reads as before, and the command can be given "
                         "again",
                         committing->image->path);
    }
    return error_set(committing->error, -result,
                     "%s: %s: %s; the disk of %s reads as before, and the command can be given "
                     "again",
                     committing->base->path, what, strerror(-result), committing->image->path);
}

static int grow_raw(struct committing *committing, uint64_t size)
{
    struct image *base = committing->base;
    int result;

    if (base->is_device) {
        return error_set(committing->error, ENOSPC,
                         "%s: the device has %" PRIu64 " bytes, and the disk of %s %" PRIu64
                         ": make it larger first",
                         base->path, (uint64_t)base->virtual_size, committing->image->path, size);
    }
    result = store_resize(base->file, size);
    if (result == 0) {
        base->virtual_size = size;
    }
    return result < 0 ? base_failed(committing, result, "cannot be made larger") : 0;
}

static int grow_base(struct committing *committing)
{
    struct image *base = committing->base;
    uint64_t size = committing->image->virtual_size;
    int result;

    if (base->virtual_size >= size) {
        return 0;
    }
    if (committing->base_writer == NULL) {
        return grow_raw(committing, size);
    }
    result = writer_resize(committing->base_writer, size, committing->options->work.stop);
    if (result == -ENOTSUP) {
        return error_set(committing->error, ENOTSUP,
                         "%s: its disk is smaller than that of %s, and its snapshots do not record "
                         "how large it was; first qcow2ctl amend -o compat=1.1 there",
                         base->path, committing->image->path);
    }
    return result < 0 ? base_failed(committing, result, "cannot be made larger") : 0;
}

static int write_base(struct committing *committing, uint64_t offset, uint64_t length)
{
    int result =
        committing->base_writer != NULL
            ? writer_write(committing->base_writer, offset, committing->buffer, in_memory(length))
            : store_write(committing->base->file, offset, committing->buffer, in_memory(length));

    committing->result->copied += length;
    return result < 0 ? base_failed(committing, result, "cannot be written") : 0;
}

static int zero_base(struct committing *committing, uint64_t offset, uint64_t length)
{
    int result = committing->base_writer != NULL
                     ? writer_zero(committing->base_writer, offset, length, true,
                                   committing->options->work.stop)
                     : store_punch(committing->base->file, offset, length);

    return result < 0 ? base_failed(committing, result, "cannot be written") : 0;
}

static int read_failed(const struct committing *committing, uint64_t offset, int result)
{
    return error_set(committing->error, -result,
                     "%s: byte %" PRIu64 " of its disk cannot be read: %s; it was not emptied",
                     committing->image->path, offset, strerror(-result));
}

static int copy_data(struct committing *committing, uint64_t offset, uint64_t length)
{
    int result = 0;

    while (length > 0 && result == 0) {
        uint64_t part = min_u64(length, CHAIN_WORK_STEP);

        if (stop_requested(committing->options->work.stop)) {
            return base_failed(committing, -EINTR, "");
        }
        result = view_read(committing->view, offset, committing->buffer, in_memory(part));
        result = result < 0 ? read_failed(committing, offset, result)
                            : write_base(committing, offset, part);
        offset += part;
        length -= part;
    }
    return result;
}

/* What an image has there, or none of them has. */
static int copy_extent(struct committing *committing, uint64_t offset,
                       const struct view_extent *found)
{
    uint64_t end = offset + found->extent.length;

    switch (found->extent.kind) {
    case EXTENT_UNALLOCATED: /* the base says it, unless that is hidden */
        offset = max_u64(offset, committing->cut);
        return offset < end ? zero_base(committing, offset, end - offset) : 0;
    case EXTENT_ZERO:
        return zero_base(committing, offset, end - offset);
    default:
        return copy_data(committing, offset, end - offset);
    }
}

static int copy_all(struct committing *committing)
{
    uint64_t size = view_size(committing->view), offset = 0;
    int result = 0;

    while (offset < size && result == 0) {
        struct view_extent found;

        if (stop_requested(committing->options->work.stop)) {
            return base_failed(committing, -EINTR, "");
        }
        result = view_lookup(committing->view, offset, size - offset, &found);
        if (result < 0) {
            return read_failed(committing, offset, result);
        }
        result = copy_extent(committing, offset, &found);
        offset += found.extent.length;
        chain_work_progress(&committing->options->work, offset, size);
    }
    return result;
}

/* --- All of it ------------------------------------------------------------------------------ */

/* The base, stable and closed; whatever is done to the image afterwards, it is there. */
static int close_base(struct committing *committing, int result)
{
    int closed = 0;

    if (committing->base == NULL) {
        return result;
    }
    if (committing->base_writer != NULL) {
        closed = writer_close(committing->base_writer);
    } else if (result == 0) {
        closed = store_sync(committing->base->file);
    }
    if (result == 0 && closed < 0) {
        result = base_failed(committing, closed, "what was written could not be saved");
    }
    return result;
}

static int empty_image(struct committing *committing)
{
    int result;

    view_close(committing->view); /* of what is no more */
    committing->view = NULL;
    result = writer_empty(committing->writer, committing->error);
    committing->result->emptied = result == 0;
    return result;
}

static int close_image(struct committing *committing, int result)
{
    int closed = committing->writer != NULL ? writer_close(committing->writer) : 0;

    if (result == 0 && closed < 0) {
        return error_set(committing->error, -closed,
                         "%s: was committed, but could not be closed: %s; look at the image with "
                         "qcow2ctl check",
                         committing->image->path, strerror(-closed));
    }
    return result;
}

/* Where another image is between, it would show through. */
static bool is_to_be_emptied(const struct committing *committing)
{
    return !committing->options->keep && committing->above == committing->image;
}

int chain_commit(const char *path, const struct chain_commit_options *options, struct log *log,
                 struct chain_commit_result *result, struct error *error)
{
    struct committing committing = {
        .options = options, .log = log, .error = error, .result = result};
    int status;

    *result = (struct chain_commit_result){0};
    status = open_all(&committing, path);
    if (status == 0) {
        chain_work_begin(&options->work);
        status = options->change_snapshots ? 0 : check_snapshots(&committing);
    }
    if (status == 0) {
        status = grow_base(&committing);
    }
    if (status == 0) {
        status = copy_all(&committing);
    }
    status = close_base(&committing, status);
    if (status == 0 && is_to_be_emptied(&committing)) {
        status = empty_image(&committing);
    }
    view_close(committing.view);
    status = close_image(&committing, status);
    image_close(committing.image);
    image_close(committing.base); /* its lock was held until the image was in order */
    free(committing.buffer);
    if (status < 0) {
        free(result->base);
        result->base = NULL;
    }
    return status;
}
