/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/bitmaps_internal.h"
#include "disk/snapshots_internal.h"
#include "meta/bitmap_write.h"
#include "meta/header_replace.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- New clusters ---------------------------------------------------------------------------- */

int bitmap_place(struct bitmap_change *change, const void *bytes, uint64_t length,
                 uint64_t *host_offset)
{
    int result;

    if (change->made_count == change->made_room) {
        size_t room = change->made_room * 2 + 16;
        struct allocation *larger = reallocarray(change->made, room, sizeof(*larger));

        if (larger == NULL) {
            return -ENOMEM;
        }
        change->made = larger;
        change->made_room = room;
    }
    result = snapshots_place(change->writer, bytes, length, &change->made[change->made_count]);
    if (result == 0) {
        *host_offset = change->made[change->made_count++].host_offset;
    }
    return result;
}

int bitmap_place_table(struct bitmap_change *change, const uint64_t *table, struct bitmap *bitmap)
{
    uint64_t *raw = calloc(bitmap->table_entries, sizeof(*raw));
    int result;

    if (raw == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; table != NULL && i < bitmap->table_entries; i++) {
        store_be64(&raw[i], table[i]);
    }
    result = bitmap_place(change, raw, (uint64_t)bitmap->table_entries * BITMAP_TABLE_ENTRY_BYTES,
                          &bitmap->table_offset);
    free(raw);
    return result;
}

/* --- The header names them ------------------------------------------------------------------- */

/*
 * What else the first cluster holds is kept byte for byte. The extension of bitmaps is that of
 * `changed`, or none, also where there was one that had become stale.
 */
static int write_header(struct bitmap_change *change, const struct header *changed)
{
    struct writer *writer = change->writer;
    struct image *image = writer->image;
    struct header has = *changed;
    struct header_rest rest;
    size_t length;
    uint8_t *bytes;
    int result;

    has.bitmap_count = 1; /* so that none is taken for one of those that are kept */
    result = header_rest_read(image->file, &has, image->path, &rest, change->error);
    if (result < 0) {
        return result;
    }
    result = header_encode(changed, &rest, image->path, &bytes, &length, change->error);
    if (result == 0) { /* it fits */
        free(bytes);
        result =
            header_replace(writer->gate, image->file, changed, &rest, image->path, change->error);
        if (result < 0) {
            change->begun = true;
            barrier_fail(writer->barrier, result);
            writer_doubt_header(writer);
        }
    }
    header_rest_free(&rest);
    return result;
}

/* The bit that says whether the extension is true, in a write of its own: the one moment that
   counts where it comes or goes, for the extension may lie in more than one sector. */
static int switch_truth(struct bitmap_change *change, bool is_true)
{
    struct writer *writer = change->writer;
    struct header *header = writer->image->header;
    uint64_t features =
        (header->autoclear_features & ~AUTOCLEAR_BITMAPS) | (is_true ? AUTOCLEAR_BITMAPS : 0);
    uint8_t field[sizeof(features)], before[sizeof(features)];
    bool begun;
    int result;

    store_be64(field, features);
    store_be64(before, header->autoclear_features);
    result = writer_switch_fields(writer, HEADER_AUTOCLEAR_FEATURES, field, before, sizeof(field),
                                  &begun);
    if (result == 0) {
        header->autoclear_features = features;
    } else {
        change->begun = begun;
    }
    return result;
}

/* The first one: the extension becomes true once it is there. */
static int switch_on(struct bitmap_change *change, const struct header *changed)
{
    struct header *header = change->writer->image->header;
    int result = write_header(change, changed);

    if (result == 0) {
        result = switch_truth(change, true);
    }
    if (result == 0) {
        header_move_bitmaps(header, changed->bitmap_directory_offset,
                            changed->bitmap_directory_size, changed->bitmap_count);
    }
    return result;
}

/* The last one: there is none from the moment on that the extension is not true. */
static int switch_off(struct bitmap_change *change)
{
    struct header *header = change->writer->image->header;
    int result = switch_truth(change, false);

    if (result == 0) {
        header_move_bitmaps(header, 0, 0, 0);
        result = write_header(change, header);
        if (result < 0 && !change->begun) {
            change->error->text[0] = '\0'; /* it stays, stale */
            result = 0;
        }
    }
    return result;
}

static int switch_directory(struct bitmap_change *change, uint64_t host_offset, size_t size,
                            uint32_t count)
{
    struct writer *writer = change->writer;
    struct header *header = writer->image->header;
    struct header changed;
    int result;

    pthread_mutex_lock(&writer->prepare_mutex); /* nobody else writes features meanwhile */
    changed = *header;
    header_move_bitmaps(&changed, host_offset, size, count);
    if (count == 0) {
        result = switch_off(change);
    } else if (header->bitmap_count == 0) {
        result = switch_on(change, &changed);
    } else {
        result = write_header(change, &changed);
        if (result == 0) {
            header_move_bitmaps(header, host_offset, size, count);
        }
    }
    pthread_mutex_unlock(&writer->prepare_mutex);
    return result;
}

/* --- What was before ------------------------------------------------------------------------- */

/* One reference less; what cannot be remembered is a leak. */
static void drop(struct writer *writer, uint64_t host_offset, uint64_t length)
{
    (void)allocator_drop(writer->allocator, host_offset,
                         div_round_up(length, writer_cluster_size(writer)),
                         atomic_load(&writer->next_commit)); /* R4 */
}

void bitmap_drop_table(struct writer *writer, const struct bitmap *bitmap, const uint64_t *table,
                       const uint64_t *kept, uint64_t kept_entries)
{
    for (size_t i = 0; i < bitmap->table_entries; i++) {
        if ((table[i] & ENTRY_HOST_OFFSET_MASK) != 0 &&
            (i >= kept_entries || kept[i] != table[i])) {
            drop(writer, table[i], writer_cluster_size(writer));
        }
    }
    drop(writer, bitmap->table_offset, (uint64_t)bitmap->table_entries * BITMAP_TABLE_ENTRY_BYTES);
}

/* --- One change ------------------------------------------------------------------------------ */

int bitmap_apply(struct bitmap_change *change, const struct bitmap_edit *edits, size_t edit_count)
{
    const struct bitmap_edit *last = &edits[edit_count - 1];
    struct writer *writer = change->writer;
    struct image *image = writer->image;
    uint64_t old = image->header->bitmap_directory_offset;
    uint64_t old_size = image->header->bitmap_directory_size, place = 0;
    uint32_t old_count = image->header->bitmap_count;
    uint32_t count = old_count + (last->old == NULL) - (last->new == NULL);
    uint8_t *bytes;
    size_t length;
    int result = bitmap_directory_edit(image->file, image->header, image->path, edits, edit_count,
                                       &bytes, &length, change->error);

    if (result < 0) {
        return result;
    }
    if (bytes != NULL) {
        result = bitmap_place(change, bytes, length, &place);
        free(bytes);
    }
    if (result == 0) {
        result = snapshots_sync(writer); /* R2, R3 */
    }
    if (result == 0) {
        result = switch_directory(change, place, length, count);
    }
    if (result == 0) {
        change->made_count = 0; /* they have their names */
        if (old_count > 0) {
            drop(writer, old, old_size);
        }
    }
    return result;
}

int bitmap_finish(struct bitmap_change *change, int result)
{
    struct writer *writer = change->writer;
    int last;

    for (size_t i = 0; !change->begun && i < change->made_count; i++) {
        allocator_return(writer->allocator, change->made[i].host_offset, change->made[i].clusters);
    }
    last = commit_flush(writer->commit);
    bitmap_directory_free(change->directory);
    free(change->made);
    return result == 0 ? last : result;
}
