/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/chain_compare.h"

#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    OLD,
    NEW,
};

int chain_compare_open(struct chain_compare *compare)
{
    for (unsigned side = OLD; side <= NEW; side++) {
        compare->buffers[side] = malloc(CHAIN_WORK_STEP);
        if (compare->buffers[side] == NULL) {
            return error_set(compare->error, ENOMEM, "%s: out of memory", compare->image->path);
        }
    }
    return 0;
}

void chain_compare_close(struct chain_compare *compare)
{
    free(compare->buffers[OLD]);
    free(compare->buffers[NEW]);
}

/*
 * What the view has at compare->offset, as far as was looked: a long range that it has not is not
 * walked again for each piece that another has there. What has been written since lies before it.
 */
static int look_at(struct chain_found *found, struct view *view, uint64_t offset, uint64_t end)
{
    int result;

    if (offset < found->until) {
        return 0;
    }
    result = view_lookup(view, offset, look_begin(&found->look, end - offset), &found->extent);
    if (result == 0) {
        look_end(&found->look, found->extent.extent.length);
        found->until = offset + found->extent.extent.length;
    }
    return result;
}

static void forget(struct chain_found *found)
{
    found->until = 0;
    look_init(&found->look);
}

/*
 * Whether what is behind is hidden at compare->offset, or stays what it is, and in *length for how
 * many bytes from there that is known.
 */
static int next_known(struct chain_compare *compare, uint64_t *length, bool *stays)
{
    uint64_t offset = compare->offset;
    int result = look_at(&compare->own, compare->state, offset, compare->size);

    if (result < 0) {
        return compare->failed(compare, CHAIN_STATE, result);
    }
    *length = compare->own.until - offset;
    *stays = compare->own.extent.image != NULL && compare->own.extent.depth <= compare->own_depth;
    if (*stays || !compare->is_written) {
        return 0;
    }
    result = look_at(&compare->written, compare->new, offset, compare->size);
    if (result < 0) {
        return compare->failed(compare, CHAIN_NEW, result);
    }
    *length = min_u64(*length, compare->written.until - offset);
    *stays = compare->written.extent.image == NULL && offset < compare->cut;
    if (*stays) {
        *length = min_u64(*length, compare->cut - offset);
    }
    return 0;
}

/*
 * How many bytes from compare->offset on are alike without a look at any of them, in *length; or,
 * *look, what is to be looked at.
 */
static int next_extent(struct chain_compare *compare, uint64_t *length, bool *look)
{
    uint64_t offset = compare->offset, shared;
    struct disk_walk *old = &compare->walks[OLD], *new = &compare->walks[NEW];
    bool stays = false;
    int result = next_known(compare, length, &stays);

    *look = false;
    if (result < 0 || stays) {
        return result;
    }
    for (unsigned side = OLD; side <= NEW; side++) {
        result = disk_walk_at(&compare->walks[side], offset, offset + *length);
        if (result < 0) {
            return compare->failed(compare, side == OLD ? CHAIN_OLD : CHAIN_NEW, result);
        }
        *length = min_u64(*length, compare->walks[side].until - offset);
    }
    if (!old->is_data && !new->is_data) {
        return 0;
    }
    shared = old->is_data && new->is_data ? view_shared(old->view, new->view, offset, *length) : 0;
    *look = shared == 0;
    *length = *look ? *length : shared;
    return 0;
}

static int read_both(struct chain_compare *compare, uint64_t from, uint64_t length)
{
    for (unsigned side = OLD; side <= NEW; side++) {
        struct view *view = compare->walks[side].view;
        int result = 0;

        if (view == NULL) {
            memset(compare->buffers[side], 0, in_memory(length));
        } else {
            result = view_read(view, from, compare->buffers[side], in_memory(length));
        }
        if (result < 0) {
            return compare->failed(compare, side == OLD ? CHAIN_OLD : CHAIN_NEW, result);
        }
    }
    return 0;
}

/* Whether the unit that begins there, in both buffers, is another. */
static bool differs(const struct chain_compare *compare, uint64_t at, uint64_t length)
{
    return memcmp(compare->buffers[OLD] + at, compare->buffers[NEW] + at,
                  min_size(compare->unit, length - at)) != 0;
}

/* Hands over the units that differ of the `bytes` from `from` on, as many at once as there are. */
static int hand_over(struct chain_compare *compare, uint64_t from, uint64_t bytes)
{
    uint64_t at = 0;
    int result = 0;

    if (memcmp(compare->buffers[OLD], compare->buffers[NEW], in_memory(bytes)) == 0) {
        return 0;
    }
    while (at < bytes && result == 0) {
        uint64_t begin = at;

        while (at < bytes && differs(compare, at, bytes)) {
            at += compare->unit;
        }
        if (at > begin) {
            result = compare->differ(compare, from + begin, from + min_u64(at, bytes),
                                     compare->buffers[OLD] + begin);
        }
        at += compare->unit;
    }
    return result;
}

/*
 * Reads the units that [compare->offset, + *length) lies in. As an image has subclusters as a whole
 * or not at all, none of them is its own. *length is then how far that went.
 */
static int compare_bytes(struct chain_compare *compare, uint64_t *length)
{
    uint64_t unit = compare->unit, offset = compare->offset;
    uint64_t from = round_down(offset, unit);
    uint64_t end = min_u64(round_down(offset, CHAIN_WORK_STEP) + CHAIN_WORK_STEP,
                           round_down(offset + *length - 1, unit) + unit);
    uint64_t bytes = min_u64(end, compare->size) - from;
    int result = read_both(compare, from, bytes);

    *length = from + bytes - offset;
    return result == 0 ? hand_over(compare, from, bytes) : result;
}

int chain_compare_state(struct chain_compare *compare)
{
    int result = 0;

    compare->size = min_u64(view_size(compare->state), compare->limit);
    compare->offset = 0;
    forget(&compare->own);
    forget(&compare->written);
    disk_walk_begin(&compare->walks[OLD], compare->old != NULL ? compare->old : compare->state);
    disk_walk_begin(&compare->walks[NEW], compare->new);
    while (compare->offset < compare->size && result == 0) {
        uint64_t length = 0;
        bool look = false;

        if (stop_requested(compare->work->stop)) {
            return compare->failed(compare, CHAIN_STATE, -EINTR);
        }
        result = next_extent(compare, &length, &look);
        if (result == 0 && look) {
            result = compare_bytes(compare, &length);
        }
        compare->offset += length;
        chain_work_progress(compare->work, compare->offset, compare->size);
    }
    return result;
}

/* --- Snapshots -------------------------------------------------------------------------------- */

/* chain_differ_fn */
static int refuse_difference(struct chain_compare *compare, uint64_t from, uint64_t to,
                             const uint8_t *old)
{
    (void)to;
    (void)old;
    return error_set(compare->error, EINVAL,
                     "%s: its snapshot '%s' would show something else from byte %" PRIu64
                     " on, since what it has not is shown by the backing file; add "
                     "--change-snapshots where nobody wants it as it is, or make an image of it "
                     "first with qcow2ctl convert -l",
                     compare->image->path, compare->snapshot->name, from);
}

int chain_compare_snapshots(struct chain_compare *compare, struct image *image,
                            const struct snapshot_table *snapshots)
{
    int result = 0;

    compare->image = image;
    compare->differ = refuse_difference;
    for (size_t i = 0; i < snapshots->count && result == 0; i++) {
        compare->snapshot = &snapshots->snapshots[i];
        result = view_open_saved(image, compare->snapshot, false, &compare->state, compare->error);
        if (result == 0) {
            result = chain_compare_state(compare);
        }
        view_close(compare->state);
    }
    return result;
}
