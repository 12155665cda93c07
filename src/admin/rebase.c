/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/rebase.h"

#include "admin/amend.h"
#include "admin/chain_compare.h"
#include "util/checked.h"
#include "util/zeros.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct rebasing {
    const struct chain_rebase_options *options;
    struct log *log;
    struct error *error;
    struct amend_change change; /* of the header, at the end */
    struct image *image;
    struct writer *writer;
    struct amend_behind behind;
    struct view *new; /* of what will be behind; NULL: nothing */
    struct chain_compare compare;
    struct chain_rebase_result *result;
};

/* --- What ends it early ------------------------------------------------------------------------
 */

static int stopped(const struct rebasing *rebasing)
{
    return error_set(rebasing->error, EINTR,
                     "%s: interrupted; it has its old backing file, its disk reads as before, and "
                     "the command can be given again",
                     rebasing->image->path);
}

/* chain_failed_fn */
static int read_failed(struct chain_compare *compare, enum chain_side side, int result)
{
    const struct rebasing *rebasing = compare->context;

    if (result == -EINTR) {
        return stopped(rebasing);
    }
    return error_set(rebasing->error, -result,
                     "%s: byte %" PRIu64 " of its disk cannot be read: %s; %s has its old backing "
                     "file, and its disk reads as before",
                     side == CHAIN_NEW ? rebasing->behind.backing->path : rebasing->image->path,
                     compare->offset, strerror(-result), rebasing->image->path);
}

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
    rebasing->compare = (struct chain_compare){
        .work = &rebasing->options->work,
        .image = rebasing->image,
        .new = rebasing->new,
        .limit = UINT64_MAX,
        .unit = UINT64_C(1) << rebasing->image->header->subcluster_bits,
        .failed = read_failed,
        .error = rebasing->error,
        .context = rebasing,
    };
    return chain_compare_open(&rebasing->compare);
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

/*
 * chain_differ_fn: the image gets what it shows: data, or zeros where a subcluster has nothing
 * else.
 */
static int keep_old(struct chain_compare *compare, uint64_t from, uint64_t to, const uint8_t *old)
{
    struct rebasing *rebasing = compare->context;
    uint64_t unit = compare->unit, done = 0, length = to - from;
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
    struct chain_compare *compare = &rebasing->compare;
    int result = 0;

    if (view_open_active(rebasing->image, &compare->state) < 0) {
        return error_set(rebasing->error, ENOMEM, "%s: out of memory", rebasing->image->path);
    }
    compare->snapshot = NULL;
    compare->differ = keep_old;
    result = chain_compare_state(compare);
    view_close(compare->state);
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

    if (stop_requested(rebasing->options->work.stop)) {
        return stopped(rebasing);
    }
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
        result = chain_compare_snapshots(&rebasing->compare, rebasing->image,
                                         rebasing->image->snapshots);
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
    chain_compare_close(&rebasing.compare);
    return status;
}
