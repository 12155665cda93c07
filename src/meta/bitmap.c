/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/bitmap.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Of a whole directory that is read into memory, bytes. */
#define DIRECTORY_SIZE_MAX (UINT64_C(64) << 20)

/* The entry at *position; 0, -EINVAL when it runs over the end, -ENOMEM. */
static int decode_entry(const uint8_t *data, uint64_t size, uint64_t *position,
                        struct bitmap *bitmap)
{
    const uint8_t *entry = data + *position;
    uint64_t extra_size, name_size, length;

    if (!range_within(*position, BITMAP_FIXED_LENGTH, size)) {
        return -EINVAL;
    }
    extra_size = load_be32(entry + BITMAP_EXTRA_DATA_SIZE);
    name_size = load_be16(entry + BITMAP_NAME_SIZE);
    length = (BITMAP_FIXED_LENGTH + extra_size + name_size + 7) & ~UINT64_C(7);
    if (!range_within(*position, length, size) || name_size == 0 || name_size > BITMAP_NAME_MAX ||
        entry[BITMAP_GRANULARITY_BITS] > 63) {
        return -EINVAL;
    }
    bitmap->table_offset = load_be64(entry + BITMAP_TABLE_OFFSET);
    bitmap->table_entries = load_be32(entry + BITMAP_TABLE_SIZE);
    bitmap->flags = load_be32(entry + BITMAP_FLAGS);
    bitmap->granularity = UINT64_C(1) << entry[BITMAP_GRANULARITY_BITS];
    bitmap->name = strndup((const char *)entry + BITMAP_FIXED_LENGTH + extra_size, name_size);
    *position += length;
    return bitmap->name == NULL ? -ENOMEM : 0;
}

static int read_entries(struct store *file, const struct header *header, const char *name,
                        struct bitmap_directory *directory, struct error *error)
{
    uint64_t size = header->bitmap_directory_size, position = 0;
    uint8_t *data;
    int result;

    if (size > DIRECTORY_SIZE_MAX) {
        return error_set(error, EINVAL,
                         "%s: the bitmap directory takes %" PRIu64 " bytes, more than 64 MiB", name,
                         size);
    }
    data = malloc(max_u64(size, 1));
    directory->bitmaps = calloc((size_t)header->bitmap_count + 1, sizeof(*directory->bitmaps));
    if (data == NULL || directory->bitmaps == NULL) {
        free(data);
        return error_set(error, ENOMEM, "%s: out of memory", name);
    }
    result = store_read(file, header->bitmap_directory_offset, data, size);
    while (result == 0 && directory->count < header->bitmap_count) {
        result = decode_entry(data, size, &position, &directory->bitmaps[directory->count]);
        if (result == 0) {
            directory->count++;
        }
    }
    free(data);
    if (result < 0) {
        return error_set(error, -result,
                         "%s: entry %zu of the bitmap directory at offset 0x%" PRIx64
                         " cannot be read: %s",
                         name, directory->count + 1, header->bitmap_directory_offset,
                         result == -EINVAL ? "it is damaged" : strerror(-result));
    }
    if (position != size) {
        return error_set(error, EINVAL,
                         "%s: the bitmap directory at offset 0x%" PRIx64
                         " does not end with its last entry: its %" PRIu32 " entries take %" PRIu64
                         " bytes, the header says %" PRIu64,
                         name, header->bitmap_directory_offset, header->bitmap_count, position,
                         size);
    }
    return 0;
}

int bitmap_directory_examine(struct store *file, const struct header *header, const char *name,
                             struct bitmap_directory **directory, struct error *error)
{
    *directory = calloc(1, sizeof(**directory));
    if (*directory == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", name);
    }
    return read_entries(file, header, name, *directory, error);
}

int bitmap_directory_read(struct store *file, const struct header *header, const char *name,
                          struct bitmap_directory **directory, struct error *error)
{
    int result = bitmap_directory_examine(file, header, name, directory, error);

    if (result < 0) {
        bitmap_directory_free(*directory);
        *directory = NULL;
    }
    return result;
}

void bitmap_directory_shorten(struct bitmap_directory *directory, size_t count)
{
    struct bitmap *shorter;

    while (directory->count > count) {
        free(directory->bitmaps[--directory->count].name);
    }
    shorter = reallocarray(directory->bitmaps, count + 1, sizeof(*shorter));
    if (shorter != NULL) {
        directory->bitmaps = shorter;
    }
}

void bitmap_directory_free(struct bitmap_directory *directory)
{
    size_t i;

    if (directory == NULL) {
        return;
    }
    for (i = 0; i < directory->count; i++) {
        free(directory->bitmaps[i].name);
    }
    free(directory->bitmaps);
    free(directory);
}
