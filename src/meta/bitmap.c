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
    bitmap->extra_data_size = (uint32_t)extra_size;
    bitmap->type = entry[BITMAP_TYPE];
    bitmap->granularity = UINT64_C(1) << entry[BITMAP_GRANULARITY_BITS];
    bitmap->entry_offset = (size_t)*position;
    bitmap->entry_length = (size_t)length;
    bitmap->name =
        strndup((const char *)entry + BITMAP_FIXED_LENGTH + extra_size, in_memory(name_size));
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
    data = malloc(in_memory(max_u64(size, 1)));
    directory->bitmaps = calloc((size_t)header->bitmap_count + 1, sizeof(*directory->bitmaps));
    if (data == NULL || directory->bitmaps == NULL) {
        free(data);
        return error_set(error, ENOMEM, "%s: out of memory", name);
    }
    result = store_read(file, header->bitmap_directory_offset, data, in_memory(size));
    result = result == -EINVAL ? -EIO : result; /* -EINVAL is for damage */
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

const struct bitmap *bitmap_find(const struct bitmap_directory *directory, const char *name)
{
    for (size_t i = 0; i < directory->count; i++) {
        if (strcmp(directory->bitmaps[i].name, name) == 0) {
            return &directory->bitmaps[i];
        }
    }
    return NULL;
}

uint64_t bitmap_table_entries(const struct header *header, uint64_t granularity)
{
    return div_round_up(div_round_up(header->virtual_size, granularity), header->cluster_size * 8);
}

/* What is wrong with one that is to be used; NULL: nothing. */
static const char *unusable(const struct header *header, uint64_t file_size,
                            const struct bitmap *bitmap, bool goes)
{
    uint64_t bytes = (uint64_t)bitmap->table_entries * BITMAP_TABLE_ENTRY_BYTES;

    if (bitmap->table_entries > BITMAP_SIZE_MAX / header->cluster_size ||
        bitmap->table_offset % header->cluster_size != 0 || bitmap->table_offset == 0 ||
        !range_within(bitmap->table_offset, bytes, file_size)) {
        return "is damaged, and can only be removed (qcow2ctl bitmap --remove)";
    }
    if (goes) {
        return NULL;
    }
    if ((bitmap->flags & BITMAP_FLAG_IN_USE) != 0) {
        return "is inconsistent: who had it in use was cut off, or had no memory for it, so it does "
               "not know all changes; it can only be removed";
    }
    if (bitmap->type != BITMAP_TYPE_DIRTY_TRACKING ||
        (bitmap->flags & BITMAP_FLAGS_RESERVED) != 0 ||
        (bitmap->extra_data_size > 0 && (bitmap->flags & BITMAP_FLAG_EXTRA_DATA_COMPATIBLE) == 0)) {
        return "is of a kind that this program does not know";
    }
    if (bitmap->granularity < BITMAP_GRANULARITY_MIN ||
        bitmap->granularity > BITMAP_GRANULARITY_MAX ||
        bitmap->table_entries != bitmap_table_entries(header, bitmap->granularity)) {
        return "is damaged, and can only be removed (qcow2ctl bitmap --remove)";
    }
    return NULL;
}

/* "Bitmap table": whether it can be, of a file of so many bytes. */
static bool is_possible(const struct header *header, uint64_t file_size, uint64_t entry)
{
    uint64_t host_offset = entry & ENTRY_HOST_OFFSET_MASK;

    return (entry & BITMAP_TABLE_ENTRY_RESERVED) == 0 &&
           (host_offset == 0 || (entry & BITMAP_TABLE_ENTRY_ALL_ONES) == 0) &&
           host_offset % header->cluster_size == 0 &&
           (host_offset == 0 || range_within(host_offset, header->cluster_size, file_size));
}

int bitmap_table_read(struct store *file, const struct header *header, const char *name,
                      const struct bitmap *bitmap, bool goes, uint64_t **table, struct error *error)
{
    size_t bytes = (size_t)bitmap->table_entries * BITMAP_TABLE_ENTRY_BYTES;
    struct store_info info = {0};
    int result = store_info(file, &info);
    const char *problem = unusable(header, info.size, bitmap, goes);

    *table = NULL;
    if (result == 0 && problem != NULL) {
        return error_set(error, EINVAL, "%s: bitmap '%s' %s", name, bitmap->name, problem);
    }
    if (result == 0) {
        *table = malloc(bytes);
        result = *table == NULL ? -ENOMEM : store_read(file, bitmap->table_offset, *table, bytes);
        result = result == -EINVAL ? -EIO : result; /* -EINVAL is for damage */
    }
    for (size_t i = 0; result == 0 && i < bitmap->table_entries; i++) {
        (*table)[i] = load_be64(&(*table)[i]);
        if (!is_possible(header, info.size, (*table)[i])) {
            result =
                error_set(error, EINVAL,
                          "%s: bitmap '%s' has the impossible table entry 0x%016" PRIx64
                          ": it is damaged, and can only be removed (qcow2ctl bitmap --remove)",
                          name, bitmap->name, (*table)[i]);
        }
    }
    if (result < 0) {
        free(*table);
        *table = NULL;
        if (result != -EINVAL) {
            error_set(error, -result, "%s: the table of bitmap '%s' cannot be read: %s", name,
                      bitmap->name, strerror(-result));
        }
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
