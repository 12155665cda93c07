/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/rebase.h"

#include "admin/amend.h"
#include "disk/look.h"
#include "disk/walk.h"
#include "util/checked.h"
#include "util/zeros.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What the image shows, and what it would show of the new file where it has nothing itself. */
enum side {
    OLD,
    NEW,
};

struct rebasing {
    const struct chain_rebase_options *options;
    struct log *log;
    struct error *error;
    struct amend_change change; /* of the header, at the end */
    struct image *image;
    struct writer *writer;
    struct amend_behind behind;
    struct view *new;    /* of what will be behind; NULL: nothing */
    uint8_t *buffers[2]; /* CHAIN_WORK_STEP bytes each */
    uint64_t unit;       /* bytes of a subcluster of the image */
    struct chain_rebase_result *result;
};

/* A state of the image, its disk or a snapshot, on its way along both. */
struct comparing {
    struct rebasing *rebasing;
    struct view *view;
    const struct snapshot *snapshot; /* NULL: the disk */
    struct disk_walk walks[2];
    uint64_t offset; /* bytes of the disk: it is as far as this */
    struct look look;
    uint64_t alike_until; /* up to there the disk shows the image's own, or not, as is_own says */
    bool is_own;
};

/* Subclusters that the two show otherwise: [from, to), of which `old` are the bytes of the first.
 */
typedef int differ_fn(struct comparing *comparing, uint64_t from, uint64_t to, const uint8_t *old);

/* --- Opening ---------------------------------------------------------------------------------- */

static struct amend_opening opening_of(const struct rebasing *rebasing)
{
    return (struct amend_opening){
        .unchecked = rebasing->options->unsafe,
        .names = rebasing->options->work.names,
        .no_locks = rebasing->options->work.no_locks,
        /* Names alone: nothing of a disk is read. */
        .keys = rebasing->options->unsafe ? NULL : rebasing->options->work.keys,
    };
}

static int open_new(struct rebasing *rebasing)
{
    const struct amend_opening opening = opening_of(rebasing);
    struct image *backing;
    int result = amend_open_behind(rebasing->image, &rebasing->change, &opening, rebasing->log,
                                   &rebasing->behind, rebasing->error);

    backing = rebasing->behind.backing;
    if (result < 0 || backing == NULL) {
        return result;
    }
    result = chain_work_attach_cache(backing, rebasing->error);
    if (result == 0 && view_open_active(backing, &rebasing->new) < 0) {
        result = error_set(rebasing->error, ENOMEM, "%s: out of memory", backing->path);
    }
    return result;
}

static int open_all(struct rebasing *rebasing, const char *path)
{
    const struct image_options options = chain_work_opening(&rebasing->options->work);
    int result = image_open(path, &options, rebasing->log, &rebasing->image, rebasing->error);

    if (result == 0) {
        result = chain_work_attach_cache(rebasing->image, rebasing->error);
    }
    if (result == 0) {
        result = amend_check(rebasing->image, &rebasing->change, rebasing->error);
    }
    if (result == 0) {
        result = open_new(rebasing);
    }
    if (result == 0) {
        result = chain_work_open_writer(rebasing->image, true, &rebasing->writer, rebasing->error);
    }
    if (result < 0) {
        return result;
    }
    rebasing->unit = UINT64_C(1) << rebasing->image->header->subcluster_bits;
    for (unsigned side = OLD; side <= NEW; side++) {
        rebasing->buffers[side] = malloc(CHAIN_WORK_STEP);
        if (rebasing->buffers[side] == NULL) {
            return error_set(rebasing->error, ENOMEM, "%s: out of memory", path);
        }
    }
    return 0;
}

/* --- Where the two differ --------------------------------------------------------------------- */

static int stopped(const struct rebasing *rebasing)
{
    return error_set(rebasing->error, EINTR,
                     "%s: interrupted; it has its old backing file, its disk reads as before, and "
                     "the command can be given again",
                     rebasing->image->path);
}

static int read_failed(const struct comparing *comparing, enum side side, int result)
{
    const struct rebasing *rebasing = comparing->rebasing;

    return error_set(rebasing->error, -result,
                     "%s: byte %" PRIu64 " of its disk cannot be read: %s; %s has its old backing "
                     "file, and its disk reads as before",
                     side == OLD ? rebasing->image->path : rebasing->behind.backing->path,
                     comparing->offset, strerror(-result), rebasing->image->path);
}

/*
 * Whether the image shows what is its own there, and how far that goes, as far as was looked: a
 * long range that it has not is not walked again for each piece that what is behind it has there.
 */
static int look_whose(struct comparing *comparing)
{
    uint64_t offset = comparing->offset;
    struct view_extent found;
    int result;

    if (offset < comparing->alike_until) {
        return 0; /* what has been written since lies before it */
    }
    result = view_lookup(comparing->view, offset,
                         look_begin(&comparing->look, comparing->walks[OLD].size - offset), &found);
    if (result == 0) {
        look_end(&comparing->look, found.extent.length);
        comparing->alike_until = offset + found.extent.length;
        comparing->is_own = found.image == comparing->rebasing->image;
    }
    return result;
}

/*
 * How many bytes from comparing->offset on are alike without a look at any of them, in *length; or,
 * *look, what is to be looked at.
 */
static int next_extent(struct comparing *comparing, uint64_t *length, bool *look)
{
    uint64_t offset = comparing->offset;
    struct disk_walk *old = &comparing->walks[OLD], *new = &comparing->walks[NEW];
    uint64_t shared;
    int result = look_whose(comparing);

    if (result < 0) {
        return read_failed(comparing, OLD, result);
    }
    *length = comparing->alike_until - offset;
    *look = false;
    if (comparing->is_own) {
        return 0; /* whatever is behind it */
    }
    for (unsigned side = OLD; side <= NEW; side++) {
        result = disk_walk_at(&comparing->walks[side], offset, offset + *length);
        if (result < 0) {
            return read_failed(comparing, side, result);
        }
        *length = min_u64(*length, comparing->walks[side].until - offset);
    }
    if (!old->is_data && !new->is_data) {
        return 0;
    }
    shared = old->is_data && new->is_data ? view_shared(old->view, new->view, offset, *length) : 0;
    *look = shared == 0;
    *length = *look ? *length : shared;
    return 0;
}

static int read_both(struct comparing *comparing, uint64_t from, uint64_t length)
{
    struct rebasing *rebasing = comparing->rebasing;
    int result = view_read(comparing->view, from, rebasing->buffers[OLD], in_memory(length));

    if (result < 0) {
        return read_failed(comparing, OLD, result);
    }
    if (rebasing->new == NULL) {
        memset(rebasing->buffers[NEW], 0, in_memory(length));
        return 0;
    }
    result = view_read(rebasing->new, from, rebasing->buffers[NEW], in_memory(length));
    return result < 0 ? read_failed(comparing, NEW, result) : 0;
}

/* Whether the subcluster that begins there, in both buffers, is another. */
static bool differs(const struct rebasing *rebasing, uint64_t at, uint64_t length)
{
    return memcmp(rebasing->buffers[OLD] + at, rebasing->buffers[NEW] + at,
                  min_size(rebasing->unit, length - at)) != 0;
}

/*
 * Reads the subclusters that [comparing->offset, + *length) lies in, and hands over those that
 * differ, as many at once as there are. As an image has subclusters as a whole or not at all, none
 * of them is its own. *length is then how far that went.
 */
static int compare_bytes(struct comparing *comparing, uint64_t *length, differ_fn *differ)
{
    const struct rebasing *rebasing = comparing->rebasing;
    uint64_t unit = rebasing->unit, offset = comparing->offset, at = 0;
    uint64_t from = round_down(offset, unit);
    uint64_t end = min_u64(round_down(offset, CHAIN_WORK_STEP) + CHAIN_WORK_STEP,
                           round_down(offset + *length - 1, unit) + unit);
    uint64_t bytes = min_u64(end, comparing->walks[OLD].size) - from;
    int result = read_both(comparing, from, bytes);

    *length = from + bytes - offset;
    while (at < bytes && result == 0) {
        uint64_t begin = at;

        while (at < bytes && differs(rebasing, at, bytes)) {
            at += unit;
        }
        if (at > begin) {
            result = differ(comparing, from + begin, from + min_u64(at, bytes),
                            rebasing->buffers[OLD] + begin);
        }
        at += unit;
    }
    return result;
}

static int compare_all(struct comparing *comparing, differ_fn *differ)
{
    const struct rebasing *rebasing = comparing->rebasing;
    uint64_t size = view_size(comparing->view);
    int result = 0;

    comparing->offset = comparing->alike_until = 0;
    look_init(&comparing->look);
    disk_walk_begin(&comparing->walks[OLD], comparing->view);
    disk_walk_begin(&comparing->walks[NEW], rebasing->new);
    while (comparing->offset < size && result == 0) {
        uint64_t length = 0;
        bool look = false;

        if (stop_requested(rebasing->options->work.stop)) {
            return stopped(rebasing);
        }
        result = next_extent(comparing, &length, &look);
        if (result == 0 && look) {
            result = compare_bytes(comparing, &length, differ);
        }
        comparing->offset += length;
        chain_work_progress(&rebasing->options->work, comparing->offset, size);
    }
    return result;
}

/* --- Snapshots -------------------------------------------------------------------------------- */

static int refuse_difference(struct comparing *comparing, uint64_t from, uint64_t to,
                             const uint8_t *old)
{
    const struct rebasing *rebasing = comparing->rebasing;

    (void)to;
    (void)old;
    return error_set(rebasing->error, EINVAL,
                     "%s: its snapshot '%s' would show something else from byte %" PRIu64
                     " on, since what it has not is shown by the backing file; add "
                     "--change-snapshots where nobody wants it as it is, or make an image of it "
                     "first with qcow2ctl convert -l",
                     rebasing->image->path, comparing->snapshot->name, from);
}

static int check_snapshots(struct rebasing *rebasing)
{
    const struct snapshot_table *snapshots = rebasing->image->snapshots;
    int result = 0;

    for (size_t i = 0; i < snapshots->count && result == 0; i++) {
        struct comparing comparing = {
            .rebasing = rebasing,
            .snapshot = &snapshots->snapshots[i],
        };

        result = view_open_snapshot(rebasing->image, i, &comparing.view, rebasing->error);
        if (result == 0) {
            result = compare_all(&comparing, refuse_difference);
        }
        view_close(comparing.view);
    }
    return result;
}

/* --- The disk --------------------------------------------------------------------------------- */

static int write_failed(const struct rebasing *rebasing, int result)
{
    return result == -EINTR
               ? stopped(rebasing)
               : error_set(rebasing->error, -result,
                           "%s: cannot be written: %s; it has its old backing file, its disk reads "
                           "as before, and the command can be given again",
                           rebasing->image->path, strerror(-result));
}

/* differ_fn: the image gets what it shows: data, or zeros where a subcluster has nothing else. */
static int keep_old(struct comparing *comparing, uint64_t from, uint64_t to, const uint8_t *old)
{
    struct rebasing *rebasing = comparing->rebasing;
    uint64_t unit = rebasing->unit, done = 0, length = to - from;
    int result = 0;

    while (done < length && result == 0) {
        bool zeros = is_all_zeros(old + done, min_size(unit, length - done));
        uint64_t end = done + unit, part;

        while (end < length && is_all_zeros(old + end, min_size(unit, length - end)) == zeros) {
            end += unit;
        }
        part = min_u64(end, length) - done;
        if (zeros) {
            result =
                writer_own_zeros(rebasing->writer, from + done, part, rebasing->options->work.stop);
            rebasing->result->zeroed += part;
        } else {
            result = writer_write(rebasing->writer, from + done, old + done, in_memory(part));
            rebasing->result->copied += part;
        }
        done += part;
    }
    return result < 0 ? write_failed(rebasing, result) : 0;
}

static int keep_disk(struct rebasing *rebasing)
{
    struct comparing comparing = {.rebasing = rebasing};
    int result = 0;

    if (view_open_active(rebasing->image, &comparing.view) < 0) {
        return error_set(rebasing->error, ENOMEM, "%s: out of memory", rebasing->image->path);
    }
    result = compare_all(&comparing, keep_old);
    view_close(comparing.view);
    return result;
}

/* --- All of it -------------------------------------------------------------------------------- */

/* What was written is stable, and counted, before the header is changed. */
static int close_writer(struct rebasing *rebasing, int result)
{
    int closed = rebasing->writer != NULL ? writer_close(rebasing->writer) : 0;

    return result == 0 && closed < 0 ? write_failed(rebasing, closed) : result;
}

static int name_new(struct rebasing *rebasing)
{
    const struct amend_options options = {0};

    return amend_apply(rebasing->image, &rebasing->change, &options, rebasing->error);
}

static int rebase_names(struct rebasing *rebasing, const char *path)
{
    const struct amend_opening opening = opening_of(rebasing);
    int result = amend_open(path, &rebasing->change, &opening, rebasing->log, &rebasing->image,
                            rebasing->error);

    if (result == 0) {
        chain_work_begin(&rebasing->options->work);
        result = amend_check(rebasing->image, &rebasing->change, rebasing->error);
    }
    if (result == 0) {
        amend_tell_of_bitmaps(rebasing->image, &rebasing->change);
    }
    return result == 0 ? name_new(rebasing) : result;
}

static int rebase_data(struct rebasing *rebasing, const char *path)
{
    int result = open_all(rebasing, path);

    if (result == 0) {
        chain_work_begin(&rebasing->options->work);
    }
    if (result == 0 && !rebasing->options->change_snapshots) {
        result = check_snapshots(rebasing);
    }
    if (result == 0) {
        result = keep_disk(rebasing);
    }
    result = close_writer(rebasing, result);
    return result == 0 ? name_new(rebasing) : result;
}

int chain_rebase(const char *path, const struct chain_rebase_options *options, struct log *log,
                 struct chain_rebase_result *result, struct error *error)
{
    struct rebasing rebasing = {
        .options = options,
        .log = log,
        .error = error,
        .change = {.backing_file = options->backing_file,
                   .backing_format = options->backing_format},
        .result = result,
    };
    int status;

    *result = (struct chain_rebase_result){0};
    status = options->unsafe ? rebase_names(&rebasing, path) : rebase_data(&rebasing, path);
    view_close(rebasing.new);
    image_close(rebasing.behind.backing);
    image_close(rebasing.image);
    free(rebasing.buffers[OLD]);
    free(rebasing.buffers[NEW]);
    return status;
}
