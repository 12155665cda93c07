/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/bitmap_write.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* "Bitmap directory entry" of a new one; it has no extra data. */
static size_t entry_length(const struct bitmap *bitmap)
{
    return (BITMAP_FIXED_LENGTH + strlen(bitmap->name) + 7) & ~(size_t)7;
}

/* What an edit may change. */
static void encode_state(uint8_t *entry, const struct bitmap *bitmap)
{
    store_be64(entry + BITMAP_TABLE_OFFSET, bitmap->table_offset);
    store_be32(entry + BITMAP_TABLE_SIZE, bitmap->table_entries);
    store_be32(entry + BITMAP_FLAGS, bitmap->flags);
}

static void encode_new(uint8_t *entry, const struct bitmap *bitmap)
{
    encode_state(entry, bitmap);
    entry[BITMAP_TYPE] = bitmap->type;
    entry[BITMAP_GRANULARITY_BITS] = (uint8_t)__builtin_ctzll(bitmap->granularity);
    store_be16(entry + BITMAP_NAME_SIZE, (uint16_t)strlen(bitmap->name));
    memcpy(entry + BITMAP_FIXED_LENGTH, bitmap->name, strlen(bitmap->name));
}

int bitmap_directory_make(const struct bitmap *bitmaps, size_t count, uint8_t **bytes,
                          size_t *length)
{
    uint8_t *made;
    size_t at = 0;

    *length = 0;
    for (size_t i = 0; i < count; i++) {
        *length += entry_length(&bitmaps[i]);
    }
    made = calloc(1, *length + 1);
    if (made == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        encode_new(made + at, &bitmaps[i]);
        at += entry_length(&bitmaps[i]);
    }
    *bytes = made;
    return 0;
}

/* In `made`, which has room for it; its length then. */
static size_t apply_edit(uint8_t *made, size_t size, const struct bitmap_edit *edit)
{
    if (edit->old == NULL) {
        encode_new(made + size, edit->new);
        return size + entry_length(edit->new);
    }
    if (edit->new == NULL) {
        size_t end = edit->old->entry_offset + edit->old->entry_length;

        memmove(made + edit->old->entry_offset, made + end, size - end);
        return size - edit->old->entry_length;
    }
    encode_state(made + edit->old->entry_offset, edit->new);
    return size;
}

int bitmap_directory_edit(struct store *file, const struct header *header, const char *name,
                          const struct bitmap_edit *edits, size_t count, uint8_t **bytes,
                          size_t *length, struct error *error)
{
    size_t size = header->bitmap_count > 0 ? (size_t)header->bitmap_directory_size : 0;
    const struct bitmap_edit *last = &edits[count - 1];
    uint8_t *made = calloc(1, size + (last->old == NULL ? entry_length(last->new) : 0) + 1);
    int result = 0;

    if (made == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory for the bitmap directory", name);
    }
    if (size > 0) {
        result = store_read(file, header->bitmap_directory_offset, made, size);
    }
    if (result < 0) {
        free(made);
        return error_set(error, -result, "%s: the bitmap directory cannot be read: %s", name,
                         strerror(-result));
    }
    for (size_t i = 0; i < count; i++) {
        size = apply_edit(made, size, &edits[i]);
    }
    *length = size;
    if (*length == 0) {
        free(made);
        made = NULL;
    }
    *bytes = made;
    return 0;
}
