/* SPDX-License-Identifier: MIT */
/* What is done ahead of the readers of a view: clusters decompressed, L2 slices fetched. */
#include "config.h"

#include "disk/compressed.h"
#include "disk/inflight.h"
#include "disk/resolved.h"
#include "disk/view_internal.h"
#include "util/checked.h"
#include "util/process.h"

#include <limits.h>

#define PREFETCH_STEP_MIN   (UINT64_C(64) << 10) /* less is not worth another thread */
#define PREFETCH_WINDOW_MAX (UINT64_C(2) << 20)
#define PREFETCH_SHARE      8 /* the part of the budget for data that one reading may use */
#define SLICES_WINDOW       (UINT64_C(4) << 20) /* bytes of the disk, or all that a slice maps */

/* --- Compressed clusters -----------------------------------------------------------------------
 */

/* prefetch_fn: has the compressed clusters of the range decompressed. What fails is not kept. */
static void fetch_clusters(void *context, uint64_t guest_offset, uint64_t length)
{
    struct view *view = context;
    struct inflight *inflight = view->image->inflight;
    uint64_t size = view_size(view);
    uint64_t end = min_u64(size, guest_offset + length);
    unsigned generation = inflight != NULL ? inflight_enter(inflight) : 0; /* R4 */

    while (guest_offset < end) {
        struct mapping_fault fault;
        struct view_extent found;

        if (view_lookup_in_chain(view, mapping_lookup, view->image->behind, guest_offset,
                                 end - guest_offset, &found, &fault) < 0) {
            break;
        }
        if (found.extent.kind == EXTENT_COMPRESSED && compressed_fetch(&found) < 0) {
            break;
        }
        guest_offset += found.extent.length;
    }
    if (inflight != NULL) {
        inflight_leave(inflight, generation);
    }
}

/* view->prefetch stays NULL where there is no processor or no memory for it. */
static int open_clusters(struct view *view)
{
    const struct image *image = view->image;
    struct prefetch_options options = {
        .job = fetch_clusters,
        .context = view,
        .threads = process_processors(),
    };

    if (image->cache == NULL || options.threads < 2) {
        return 0;
    }
    options.step = PREFETCH_STEP_MIN;
    for (; image != NULL; image = image->backing) {
        if (image->header != NULL) {
            options.step = max_u64(options.step, image->header->cluster_size);
        }
    }
    options.window = min_u64(view->image->cache->sizes.data_budget / PREFETCH_SHARE,
                             max_u64(PREFETCH_WINDOW_MAX, 2 * options.step));
    if (options.window < options.step) {
        return 0;
    }
    return prefetch_create(&options, &view->prefetch);
}

/* --- L2 slices ----------------------------------------------------------------------------------
 */

/*
 * prefetch_fn: the slice that maps the offset, of the active image or of who has it behind that. A
 * reader who comes to it would wait for a server, and nothing would be asked of it meanwhile.
 */
static void fetch_slice(void *context, uint64_t offset, uint64_t length)
{
    struct view *view = context;
    struct inflight *inflight = view->image->inflight;
    struct mapping_fault fault;
    struct view_extent found;
    unsigned generation;

    (void)length;
    if (offset < view->base || offset - view->base >= view_size(view)) {
        return;
    }
    generation = inflight != NULL ? inflight_enter(inflight) : 0; /* R4 */
    (void)view_lookup_in_chain(view, mapping_lookup, view->image->behind, offset - view->base, 1,
                               &found, &fault); /* who reads it is told */
    if (inflight != NULL) {
        inflight_leave(inflight, generation);
    }
}

/* Bytes of the disk that a slice of an image maps, of the entries that are cached. */
static uint64_t bytes_of_slice(const struct image *image, uint64_t entry_size)
{
    const struct header *header = image->header;

    return min_u64(entry_size, header->cluster_size) / header->l2_entry_bytes *
           header->cluster_size;
}

/* The fewest that a slice of an image on a server maps; UINT64_MAX where none is on one. */
static uint64_t slices_step(const struct image *first)
{
    uint64_t entry_size = first->cache->sizes.l2_entry_size, step = UINT64_MAX;

    for (const struct image *image = first; image != NULL; image = image->backing) {
        if (image->header != NULL && image->preferred != 0) {
            step = min_u64(step, bytes_of_slice(image, entry_size));
        }
        if (first->behind != NULL) {
            entry_size = min_u64(entry_size, RESOLVED_L2_ENTRY_MAX);
        }
    }
    return step;
}

/* view->slices stays NULL where one slice maps the disk, or nothing is on a server. */
static int open_slices(struct view *view)
{
    struct prefetch_options options = {
        .job = fetch_slice,
        .context = view,
        .long_read = PREFETCH_STEP_MIN,
        .threads = UINT_MAX, /* they wait for the server, not for a processor */
    };
    uint64_t size = view->is_active ? view_size(view) : UINT64_MAX; /* of others nobody knows yet */

    if (view->image->cache == NULL) {
        return 0;
    }
    options.step = slices_step(view->image);
    options.window = max_u64(SLICES_WINDOW, options.step);
    return options.step >= size ? 0 : prefetch_create(&options, &view->slices);
}

/* --- Both ---------------------------------------------------------------------------------------
 */

int view_open_ahead(struct view *view)
{
    int result = open_clusters(view);

    return result == 0 ? open_slices(view) : result;
}

void view_end_prefetch(struct view *view)
{
    prefetch_destroy(view->prefetch);
    prefetch_destroy(view->slices);
    view->prefetch = NULL;
    view->slices = NULL;
}
