/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "image/view.h"

#include "image/inflight.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct view {
    struct image *image;
    struct mapping *mapping; /* the active one, borrowed, or a snapshot's, owned */
    bool owns_mapping;
    bool has_backing; /* what the mapping leaves unallocated is asked of the backing image */
    uint64_t base;    /* guest offset of the view's first byte in the mapping */
    uint64_t size;    /* bytes; of the active disk: image->virtual_size */
    bool is_active;
};

/* --- Opening --------------------------------------------------------------------------- */

int view_open_active(struct image *image, struct view **view)
{
    *view = calloc(1, sizeof(**view));
    if (*view == NULL) {
        return -ENOMEM;
    }
    **view = (struct view){
        .image = image,
        .mapping = image->active,
        .has_backing = true,
        .is_active = true,
    };
    return 0;
}

/* The mapping of the snapshot; the name in sentences is the file's and the snapshot's. */
static int open_snapshot_mapping(struct image *image, const struct snapshot *snapshot,
                                 struct mapping **mapping, struct error *error)
{
    struct mapping_source source = {
        .header = image->header,
        .file = image->file,
        .data_file = image->data_file,
        .owner = image->number,
    };
    char *name;
    int result;

    if (asprintf(&name, "%s: snapshot '%s'", image->path, snapshot->name) < 0) {
        return error_set(error, ENOMEM, "%s: out of memory", image->path);
    }
    result = mapping_open(&source, name, snapshot->l1_offset, snapshot->l1_entries, mapping, error);
    free(name);
    return result;
}

static int open_snapshot(struct image *image, size_t index, struct view **view, struct error *error)
{
    const struct snapshot *snapshot = &image->snapshots->snapshots[index];
    int result;

    *view = NULL;
    if (snapshot_validate(image->header, snapshot, image->path, error) < 0) {
        return -EIO;
    }
    *view = calloc(1, sizeof(**view));
    if (*view == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", image->path);
    }
    (*view)->image = image;
    (*view)->owns_mapping = true;
    result = open_snapshot_mapping(image, snapshot, &(*view)->mapping, error);
    if (result < 0) {
        view_close(*view);
        *view = NULL;
        return result == -ENOMEM ? -ENOMEM : -EIO;
    }
    mapping_set_cache((*view)->mapping, image->cache->l2, image->cache->sizes.l2_entry_size);
    return 0;
}

int view_open_snapshot(struct image *image, size_t index, struct view **view, struct error *error)
{
    int result = open_snapshot(image, index, view, error);

    if (result == 0) {
        (*view)->has_backing = true;
        (*view)->size = image->snapshots->snapshots[index].disk_size;
    }
    return result;
}

int view_open_vmstate(struct image *image, size_t index, struct view **view, struct error *error)
{
    const struct snapshot *snapshot = &image->snapshots->snapshots[index];
    int result;

    *view = NULL;
    if (snapshot_validate(image->header, snapshot, image->path, error) < 0 ||
        snapshot_validate_vm_state(image->header, snapshot, image->path, error) < 0) {
        return -EIO;
    }
    result = open_snapshot(image, index, view, error);
    if (result == 0) {
        (*view)->base = snapshot_vm_state_offset(image->header, snapshot);
        (*view)->size = snapshot->vm_state_size;
    }
    return result;
}

void view_close(struct view *view)
{
    if (view != NULL) {
        if (view->owns_mapping) {
            mapping_close(view->mapping);
        }
        free(view);
    }
}

uint64_t view_size(const struct view *view)
{
    return view->is_active ? view->image->virtual_size : view->size;
}

/* --- Looking up through the chain --------------------------------------------------------- */

static void log_fault(const struct image *image, const struct mapping_fault *fault)
{
    log_limited(image->log, LOG_LEVEL_ERROR,
                "%s: guest offset 0x%" PRIx64 " cannot be read (host offset 0x%" PRIx64 "): %s",
                image->path, fault->guest_offset, fault->host_offset, fault->text);
}

/* What one image of the chain says of guest_offset. */
static int lookup_in(const struct image *image, struct mapping *mapping, uint64_t guest_offset,
                     uint64_t length, struct extent *extent)
{
    struct mapping_fault fault;
    int result;

    if (image->format == IMAGE_RAW) {
        *extent = (struct extent){
            .kind = EXTENT_DATA,
            .length = length,
            .store = image->file,
            .host_offset = guest_offset,
        };
        return 0;
    }
    result = mapping_lookup(mapping, guest_offset, length, extent, &fault);
    if (result < 0) {
        log_fault(image, &fault);
    }
    return result;
}

int view_lookup(struct view *view, uint64_t guest_offset, uint64_t length,
                struct view_extent *found)
{
    const struct image *image = view->image;
    struct mapping *mapping = view->mapping;
    uint64_t offset = view->base + guest_offset;
    unsigned depth = 0;

    for (;;) {
        int result = lookup_in(image, mapping, offset, length, &found->extent);

        if (result < 0) {
            return result;
        }
        found->image = image;
        found->depth = depth;
        length = found->extent.length;
        if (found->extent.kind != EXTENT_UNALLOCATED) {
            return 0;
        }
        image = view->has_backing ? image->backing : NULL;
        if (image == NULL || offset >= image->virtual_size) {
            found->image = NULL;
            return 0;
        }
        length = min_u64(length, image->virtual_size - offset);
        mapping = image->active;
        depth++;
    }
}

/* --- Reading -------------------------------------------------------------------------------- */

/* cache_fill_fn of a decompressed cluster; `context` is the view_extent that names it. */
static int fill_decompressed(void *context, void *data, size_t size)
{
    const struct view_extent *found = context;
    const struct extent *extent = &found->extent;
    void *compressed = malloc(extent->compressed_size);
    int result;

    if (compressed == NULL) {
        return -ENOMEM;
    }
    result = store_read(extent->store, extent->host_offset, compressed, extent->compressed_size);
    if (result == 0) {
        result =
            codec_decompress(found->image->codec, compressed, extent->compressed_size, data, size);
        result = result == -EIO ? -EBADMSG : result;
    }
    free(compressed);
    return result;
}

static int read_compressed(struct view_extent *found, void *buffer, size_t length)
{
    const struct image *image = found->image;
    struct cache_key key = {.owner = image->number, .host_offset = found->extent.host_offset};
    const struct cache_entry *cluster;
    int result;

    result = cache_pool_get(image->cache->data, key, image->header->cluster_size, fill_decompressed,
                            found, &cluster);
    if (result < 0) {
        return result;
    }
    memcpy(buffer, (const uint8_t *)cluster->data + found->extent.offset_in_cluster, length);
    cache_pool_unpin(image->cache->data, cluster);
    return 0;
}

/* The bytes of one extent. `guest_offset` is for the log. */
static int read_extent(struct view_extent *found, uint64_t guest_offset, void *buffer,
                       size_t length)
{
    struct mapping_fault fault = {
        .guest_offset = guest_offset,
        .host_offset = found->extent.host_offset,
    };
    const char *why;
    int result;

    switch (found->extent.kind) {
    case EXTENT_DATA:
        result = store_read(found->extent.store, found->extent.host_offset, buffer, length);
        break;
    case EXTENT_COMPRESSED:
        result = read_compressed(found, buffer, length);
        break;
    default:
        memset(buffer, 0, length);
        return 0;
    }
    if (result < 0) {
        why = result == -EBADMSG ? "the compressed cluster does not inflate to a cluster"
                                 : strerror(-result);
        memcpy(fault.text, why, min_u64(strlen(why) + 1, sizeof(fault.text) - 1));
        log_fault(found->image, &fault);
        result = result == -ENOMEM ? -ENOMEM : -EIO;
    }
    return result;
}

/* Reads what lies within the view. */
static int read_inside(struct view *view, uint64_t guest_offset, uint8_t *to, size_t length)
{
    while (length > 0) {
        struct view_extent found;
        int result = view_lookup(view, guest_offset, length, &found);

        if (result == 0) {
            result = read_extent(&found, view->base + guest_offset, to, found.extent.length);
        }
        if (result < 0) {
            return result == -ENOMEM ? -ENOMEM : -EIO;
        }
        guest_offset += found.extent.length;
        to += found.extent.length;
        length -= found.extent.length;
    }
    return 0;
}

int view_read(struct view *view, uint64_t guest_offset, void *buffer, size_t length)
{
    struct inflight *inflight = view->image->inflight;
    uint64_t size = view_size(view);
    uint64_t inside = guest_offset < size ? size - guest_offset : 0;
    unsigned generation = 0;
    int result;

    if (length > inside) {
        memset((uint8_t *)buffer + inside, 0, length - inside);
        length = inside;
    }
    /* R4: between the look-up and the read, the clusters found stay what they are. */
    if (inflight != NULL) {
        generation = inflight_enter(inflight);
    }
    result = read_inside(view, guest_offset, buffer, length);
    if (inflight != NULL) {
        inflight_leave(inflight, generation);
    }
    return result;
}

/* --- Data and holes --------------------------------------------------------------------------- */

#define SEEK_WINDOW     (UINT64_C(2) << 20) /* bytes */
#define SEEK_WINDOW_MAX (UINT64_C(1) << 40) /* between two looks at whether to go on */

/*
 * Whether the bytes from guest_offset on, a DATA extent, are data or a hole of
 * the host file, and how far that goes. In a qcow2 image a (sub)cluster is a
 * hole only as a whole, also where the extent is but a part of it.
 *
 *     |....unit....|....unit....|....unit....|       . data, blank: hole
 *            ^ asked for: its unit decides
 */
static int refine_data(const struct view_extent *found, bool *is_data, uint64_t *length)
{
    const struct extent *extent = &found->extent;
    const struct header *header = found->image->header;
    uint64_t unit = header == NULL ? 1 : UINT64_C(1) << header->subcluster_bits;
    uint64_t before = extent->host_offset & (unit - 1);
    uint64_t whole = div_round_up(before + extent->length, unit) * unit, run;
    int result = store_extent(extent->store, extent->host_offset - before, whole, is_data, &run);

    if (result < 0) {
        return result;
    }
    if (!*is_data && run < unit) {
        *is_data = true;
        run = unit;
    }
    run = *is_data ? div_round_up(run, unit) * unit : round_down(run, unit);
    *length = min_u64(run - before, extent->length);
    return 0;
}

/* Whether guest_offset is data, and how many bytes from there on, at most `window`, are alike. */
static int classify(struct view *view, uint64_t guest_offset, uint64_t window, bool *is_data,
                    uint64_t *length)
{
    struct view_extent found;
    int result = view_lookup(view, guest_offset, window, &found);

    if (result < 0) {
        return result;
    }
    *is_data = found.extent.kind == EXTENT_DATA || found.extent.kind == EXTENT_COMPRESSED;
    *length = found.extent.length;
    if (found.extent.kind == EXTENT_DATA) {
        return refine_data(&found, is_data, length);
    }
    return 0;
}

int view_seek(struct view *view, uint64_t guest_offset, bool want_data,
              bool (*interrupted)(void *context), void *context, uint64_t *found)
{
    /*
     * Looks ahead twice as far each time that all it saw was alike: an empty
     * disk of any size is crossed in a few steps, and a long unallocated range
     * of an overlay is not walked again for each small extent below it.
     */
    uint64_t window = SEEK_WINDOW, size = view_size(view);

    if (guest_offset >= size) {
        return -ENXIO;
    }
    while (guest_offset < size) {
        uint64_t length;
        bool is_data;
        int result;

        if (interrupted != NULL && interrupted(context)) {
            return -EINTR;
        }
        result =
            classify(view, guest_offset, min_u64(window, size - guest_offset), &is_data, &length);
        if (result < 0) {
            return result;
        }
        if (is_data == want_data) {
            *found = guest_offset;
            return 0;
        }
        window = length < window ? SEEK_WINDOW : min_u64(window * 2, SEEK_WINDOW_MAX);
        guest_offset += length;
    }
    *found = size;
    return want_data ? -ENXIO : 0;
}
