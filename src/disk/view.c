/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/view_internal.h"

#include "disk/at_snapshot.h"
#include "disk/compressed.h"
#include "disk/encrypted.h"
#include "disk/inflight.h"
#include "disk/look.h"
#include "disk/lookup.h"
#include "disk/prefetch.h"
#include "disk/resolved.h"
#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* --- Opening --------------------------------------------------------------------------- */

int view_open_active(struct image *image, struct view **view)
{
    int result;

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
    result = view_open_ahead(*view);
    if (result < 0) {
        view_close(*view);
        *view = NULL;
    }
    return result;
}

static int open_snapshot(struct image *image, const struct snapshot *snapshot, struct view **view,
                         struct error *error)
{
    int result;

    *view = calloc(1, sizeof(**view));
    if (*view == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", image->path);
    }
    (*view)->image = image;
    (*view)->owns_mapping = true;
    result = snapshot_mapping_open(image, snapshot, true, &(*view)->mapping, error);
    if (result < 0) {
        view_close(*view);
        *view = NULL;
        return result == -ENOMEM ? -ENOMEM : -EIO;
    }
    mapping_set_cache((*view)->mapping, image->cache->l2, image->cache->sizes.l2_entry_size);
    if (view_open_ahead(*view) < 0) {
        view_close(*view);
        *view = NULL;
        return error_set(error, ENOMEM, "%s: out of memory", image->path);
    }
    return 0;
}

int view_open_saved(struct image *image, const struct snapshot *snapshot, bool vm_state,
                    struct view **view, struct error *error)
{
    int result;

    *view = NULL;
    if (snapshot_validate(image->header, snapshot, image->path, error) < 0 ||
        (vm_state && snapshot_validate_vm_state(image->header, snapshot, image->path, error) < 0)) {
        return -EIO;
    }
    result = open_snapshot(image, snapshot, view, error);
    if (result < 0) {
        return result;
    }
    if (vm_state) {
        (*view)->base = snapshot_vm_state_offset(image->header, snapshot);
        (*view)->size = snapshot->vm_state_size;
    } else {
        (*view)->has_backing = true;
        (*view)->size = snapshot->disk_size;
    }
    return 0;
}

int view_open_snapshot(struct image *image, size_t index, struct view **view, struct error *error)
{
    return view_open_saved(image, &image->snapshots->snapshots[index], false, view, error);
}

int view_open_vmstate(struct image *image, size_t index, struct view **view, struct error *error)
{
    return view_open_saved(image, &image->snapshots->snapshots[index], true, view, error);
}

void view_close(struct view *view)
{
    if (view != NULL) {
        view_end_prefetch(view); /* first: its threads use the rest */
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

int view_lookup_in_chain(struct view *view, lookup_fn *lookup, struct resolved *behind,
                         uint64_t guest_offset, uint64_t length, struct view_extent *found,
                         struct mapping_fault *fault)
{
    const struct image *image = view->image;
    struct mapping *mapping = view->mapping;
    uint64_t offset = view->base + guest_offset;
    unsigned depth = 0;

    for (;;) {
        int result = image_lookup(image, mapping, lookup, offset, length, &found->extent, fault);

        found->image = image;
        found->depth = depth;
        if (result < 0) {
            return result;
        }
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
        if (behind != NULL && depth == 0 && length <= RESOLVED_LENGTH_MAX &&
            resolved_lookup(behind, offset, length, found)) {
            return 0;
        }
        mapping = image->active;
        depth++;
    }
}

int view_lookup(struct view *view, uint64_t guest_offset, uint64_t length,
                struct view_extent *found)
{
    struct mapping_fault fault;
    int result = view_lookup_in_chain(view, mapping_lookup, view->image->behind, guest_offset,
                                      length, found, &fault);

    if (result < 0) {
        log_fault(found->image, &fault);
    }
    return result;
}

int view_lookup_exact(struct view *view, uint64_t guest_offset, uint64_t length,
                      struct view_extent *found, struct mapping_fault *fault)
{
    return view_lookup_in_chain(view, mapping_lookup_exact, NULL, guest_offset, length, found,
                                fault);
}

/* --- Reading -------------------------------------------------------------------------------- */

/* One request to read. */
struct reading {
    struct view *view;
    uint64_t guest_offset; /* of the request */
    size_t length;
    bool noted;      /* it has met a compressed cluster */
    bool sequential; /* set then */
};

/* Compressed clusters cost the time of a processor: others may take a part, or go ahead. */
static int read_compressed(struct reading *reading, const struct view_extent *found,
                           uint64_t guest_offset, void *buffer, size_t length)
{
    const struct image *image = reading->view->image;
    struct prefetch *prefetch = image->may_start_threads ? reading->view->prefetch : NULL;

    if (prefetch != NULL) {
        if (!reading->noted) {
            reading->noted = true;
            reading->sequential = prefetch_begin(prefetch, reading->guest_offset, reading->length);
        }
        prefetch_claim(prefetch, guest_offset, length);
    }
    return compressed_read(found, buffer, length, reading->sequential);
}

/*
 * A cluster of which the end is lost is lost as a whole: who reads it gets no part, which a
 * program that goes on after an error would take for all.
 */
static int read_data(const struct view_extent *found, uint64_t guest_offset, void *buffer,
                     size_t length)
{
    const struct extent *extent = &found->extent;
    uint64_t unit = found->image->header != NULL ? found->image->header->cluster_size : 1;
    uint64_t begin = round_down(extent->host_offset, unit);
    uint64_t end = round_down(extent->host_offset + length - 1, unit) + unit;

    if (store_lost(extent->store, begin, end - begin)) {
        return -EIO;
    }
    if (image_is_encrypted(found->image)) {
        const struct encrypted_place place = {extent->store, extent->host_offset, guest_offset};

        return encrypted_read(found->image, &place, buffer, length);
    }
    return store_read(extent->store, extent->host_offset, buffer, length);
}

/* How many bytes of the host `length` bytes of the extent are made of. */
static size_t bytes_read(const struct extent *extent, size_t length)
{
    return extent->kind == EXTENT_COMPRESSED ? in_memory(extent->compressed_size) : length;
}

/* The bytes of one extent, which begins at `guest_offset` of the view. */
static int read_extent(struct reading *reading, const struct view_extent *found,
                       uint64_t guest_offset, void *buffer, size_t length)
{
    struct mapping_fault fault = {
        .guest_offset = reading->view->base + guest_offset,
        .host_offset = found->extent.host_offset,
    };
    const char *why;
    int result;

    switch (found->extent.kind) {
    case EXTENT_DATA:
        result = read_data(found, fault.guest_offset, buffer, length);
        break;
    case EXTENT_COMPRESSED:
        result = read_compressed(reading, found, guest_offset, buffer, length);
        break;
    default:
        memset(buffer, 0, length);
        return 0;
    }
    if (result < 0) {
        why = result == -ENOKEY ? "it is encrypted, and was opened without its key"
              : result == -EBADMSG
                  ? "the compressed cluster does not inflate to a cluster"
                  : store_read_failure(found->extent.store, found->extent.host_offset,
                                       bytes_read(&found->extent, length), result);
        memcpy(fault.text, why, min_size(strlen(why) + 1, sizeof(fault.text) - 1));
        log_fault(found->image, &fault);
        result = result == -ENOMEM ? -ENOMEM : -EIO;
    }
    return result;
}

static int read_extents(struct reading *reading, uint8_t *to)
{
    uint64_t guest_offset = reading->guest_offset;
    size_t length = reading->length;

    while (length > 0) {
        struct view_extent found;
        int result = view_lookup(reading->view, guest_offset, length, &found);

        if (result == 0) {
            result = read_extent(reading, &found, guest_offset, to, in_memory(found.extent.length));
        }
        if (result < 0) {
            return result == -ENOMEM ? -ENOMEM : -EIO;
        }
        guest_offset += found.extent.length;
        to += found.extent.length;
        length -= in_memory(found.extent.length);
    }
    return 0;
}

/* Reads what lies within the view. */
static int read_inside(struct view *view, uint64_t guest_offset, uint8_t *to, size_t length)
{
    struct reading reading = {.view = view, .guest_offset = guest_offset, .length = length};
    struct prefetch *slices = view->image->may_start_threads ? view->slices : NULL;
    int result;

    if (slices != NULL) {
        (void)prefetch_begin(slices, view->base + guest_offset, length);
    }
    result = read_extents(&reading, to);
    if (slices != NULL) {
        prefetch_end(slices);
    }
    if (reading.noted) {
        prefetch_end(view->prefetch);
    }
    return result;
}

/* Reads what the disk has as this begins, and zeros behind its end. */
static int read_once(struct view *view, uint64_t guest_offset, uint8_t *buffer, size_t length)
{
    struct inflight *inflight = view->image->inflight;
    uint64_t size = view_size(view);
    uint64_t inside = guest_offset < size ? size - guest_offset : 0;
    unsigned generation = 0;
    int result;

    if (length > inside) {
        memset(buffer + inside, 0, in_memory(length - inside));
        length = in_memory(inside);
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

/*
 * A disk that gets smaller loses clusters: what was looked up there meanwhile may be what the
 * backing image has. Its size does not tell: it may be larger again.
 */
int view_read(struct view *view, uint64_t guest_offset, void *buffer, size_t length)
{
    const struct image *image = view->image;
    uint64_t cuts;
    int result;

    do {
        cuts = image->cuts;
        result = read_once(view, guest_offset, buffer, length);
    } while (image->cuts != cuts);
    return result;
}

/* --- Data and holes --------------------------------------------------------------------------- */

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
    int result;

    if (image_is_encrypted(found->image)) { /* what zeros decrypt to is anything */
        *is_data = true;
        *length = extent->length;
        return 0;
    }
    result = store_extent(extent->store, extent->host_offset - before, whole, is_data, &run);
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
static int classify_found(struct view *view, uint64_t guest_offset, uint64_t window, bool *is_data,
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

int view_classify(struct view *view, uint64_t guest_offset, uint64_t window, bool *is_data,
                  uint64_t *length)
{
    struct inflight *inflight = view->image->inflight;
    /* R4: what was found is still that when the host is asked for its holes. Not for all of a
       search, which may take long: nothing dropped meanwhile could be handed out again. */
    unsigned generation = inflight != NULL ? inflight_enter(inflight) : 0;
    int result = classify_found(view, guest_offset, window, is_data, length);

    if (inflight != NULL) {
        inflight_leave(inflight, generation);
    }
    return result;
}

int view_seek(struct view *view, uint64_t guest_offset, bool want_data, const struct stop *stop,
              uint64_t *found)
{
    return view_seek_within(view, guest_offset, UINT64_MAX, want_data, stop, found);
}

int view_seek_within(struct view *view, uint64_t guest_offset, uint64_t end, bool want_data,
                     const struct stop *stop, uint64_t *found)
{
    uint64_t size = min_u64(view_size(view), end);
    struct look look;

    look_init(&look);
    if (guest_offset >= size) {
        return -ENXIO;
    }
    while (guest_offset < size) {
        uint64_t length;
        bool is_data;
        int result = view_classify(view, guest_offset, look_begin(&look, size - guest_offset),
                                   &is_data, &length);

        if (result < 0) {
            return result;
        }
        *found = guest_offset;
        if (is_data == want_data) {
            return 0;
        }
        look_end(&look, length);
        guest_offset += length;
        *found = guest_offset;
        if (guest_offset < size && stop_requested(stop)) {
            return -EINTR;
        }
    }
    return want_data ? -ENXIO : 0;
}

/* --- Two views ----------------------------------------------------------------------------------
 */

static bool is_same_file(struct store *a, struct store *b)
{
    struct store_info of_a, of_b;

    return a == b || (store_info(a, &of_a) == 0 && store_info(b, &of_b) == 0 &&
                      of_a.device == of_b.device && of_a.inode == of_b.inode);
}

/* The same bytes of a host are the same bytes of two disks where nobody decrypts them, or both
 * alike. */
static bool is_decrypted_alike(const struct image *a, const struct image *b)
{
    return image_is_encrypted(a) == image_is_encrypted(b) &&
           (!image_is_encrypted(a) || is_same_file(a->file, b->file));
}

static bool is_same_place(const struct view_extent *of_a, const struct view_extent *of_b)
{
    const struct extent *a = &of_a->extent, *b = &of_b->extent;

    return a->kind == b->kind && a->host_offset == b->host_offset &&
           (a->kind == EXTENT_DATA ||
            (a->kind == EXTENT_COMPRESSED && a->compressed_size == b->compressed_size &&
             a->offset_in_cluster == b->offset_in_cluster)) &&
           is_same_file(a->store, b->store) && is_decrypted_alike(of_a->image, of_b->image);
}

uint64_t view_shared(struct view *a, struct view *b, uint64_t guest_offset, uint64_t length)
{
    struct view_extent of_a, of_b;
    struct mapping_fault fault;

    if (view_lookup_in_chain(a, mapping_lookup, a->image->behind, guest_offset, length, &of_a,
                             &fault) < 0 ||
        view_lookup_in_chain(b, mapping_lookup, b->image->behind, guest_offset, length, &of_b,
                             &fault) < 0) {
        return 0; /* who reads it is told */
    }
    return is_same_place(&of_a, &of_b) ? min_u64(of_a.extent.length, of_b.extent.length) : 0;
}

uint64_t view_same_table(struct view *a, struct view *b, uint64_t guest_offset, uint64_t length)
{
    if (a->image != b->image || a->image->format == IMAGE_RAW || a->has_backing != b->has_backing ||
        a->base != b->base) {
        return 0;
    }
    return min_u64(length, mapping_same_table(a->mapping, b->mapping, a->base + guest_offset));
}
