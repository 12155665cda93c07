/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "check/internal.h"
#include "meta/bitmap.h"
#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int count_entry(struct check *check, const struct bitmap *bitmap, uint64_t entry)
{
    const struct header *header = check->header;
    uint64_t host_offset = entry & ENTRY_HOST_OFFSET_MASK;

    if ((entry & BITMAP_TABLE_ENTRY_RESERVED) != 0 ||
        (host_offset != 0 && (entry & BITMAP_TABLE_ENTRY_ALL_ONES) != 0) ||
        host_offset % header->cluster_size != 0) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "bitmap '%s' has the impossible bitmap table entry 0x%016" PRIx64
                    "; qcow2ctl bitmap --remove removes it",
                    bitmap->name, entry);
        return 0;
    }
    return host_offset == 0
               ? 0
               : check_count(check, host_offset, header->cluster_size, CHECK_USE_BITMAP_DATA);
}

static int count_piece(struct check *check, const struct bitmap *bitmap, uint64_t offset,
                       size_t entries)
{
    uint64_t bytes = entries * BITMAP_TABLE_ENTRY_BYTES;
    size_t i;
    int result = check_go_on(check);

    if (result < 0) {
        return result;
    }
    if (check_hole(check, offset, bytes) == bytes) {
        return 0;
    }
    result = store_read(check->file, offset, check->buffer, in_memory(bytes));
    if (result < 0) {
        check_found(check, CHECK_UNREADABLE,
                    "the bitmap table of '%s' at 0x%" PRIx64 " cannot be read: %s", bitmap->name,
                    offset, strerror(-result));
        return 0;
    }
    for (i = 0; i < entries && result == 0; i++) {
        result =
            count_entry(check, bitmap, load_be64(check->buffer + i * BITMAP_TABLE_ENTRY_BYTES));
    }
    return result;
}

/* "Bitmap directory entry"; NULL where all is possible. */
static const char *impossible(const struct header *header, const struct bitmap *bitmap)
{
    uint64_t needed;

    if ((bitmap->flags & BITMAP_FLAGS_RESERVED) != 0) {
        return "it has reserved flags";
    }
    if (bitmap->granularity < BITMAP_GRANULARITY_MIN ||
        bitmap->granularity > BITMAP_GRANULARITY_MAX) {
        return "its bits stand for other than 512 bytes to 2 GiB each";
    }
    if (bitmap->table_entries == 0 || bitmap->table_offset == 0) {
        return "it has no table";
    }
    /* One that nobody has stored yet may be as large as the disk once was. */
    needed = bitmap_table_entries(header, bitmap->granularity);
    if ((bitmap->flags & BITMAP_FLAG_IN_USE) != 0 || bitmap->table_entries == needed) {
        return NULL;
    }
    return bitmap->table_entries < needed ? "it is smaller than the disk"
                                          : "it is larger than the disk";
}

/* check_segment_fn: a part of the tables of `weight` bitmaps. */
static int count_part(struct check *check, void *context, uint64_t begin, uint64_t end,
                      const struct check_range *owner, uint64_t weight)
{
    const struct bitmap *bitmaps = context;
    int result = 0;

    (void)weight;
    while (result == 0 && begin < end) {
        size_t part = (size_t)min_u64(end - begin, CHECK_READ_SIZE);

        result = count_piece(check, &bitmaps[owner->owner], begin, part / BITMAP_TABLE_ENTRY_BYTES);
        begin += part;
    }
    return result;
}

/* *table: as a range of the file, empty where it cannot be read. */
static int count_bitmap(struct check *check, const struct bitmap *bitmap, struct check_range *table)
{
    uint64_t bytes = (uint64_t)bitmap->table_entries * BITMAP_TABLE_ENTRY_BYTES;
    const char *problem = impossible(check->header, bitmap);
    bool inside;
    int result;

    if (problem != NULL) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "bitmap '%s' cannot be: %s; qcow2ctl bitmap --remove removes it", bitmap->name,
                    problem);
    }

    if ((bitmap->flags & BITMAP_FLAG_IN_USE) != 0) {
        check_found(check, CHECK_NOTE,
                    "bitmap '%s' is inconsistent: unless a program has it in use just now it does "
                    "not know all changes, and can only be removed (qcow2ctl bitmap --remove)",
                    bitmap->name);
    }
    if (bitmap->table_offset % check->header->cluster_size != 0) {
        check->references_unknown = true;
        check_found(check, CHECK_ERROR,
                    "bitmap '%s' has its table at 0x%" PRIx64
                    ", which is not the start of a cluster; qcow2ctl bitmap --remove removes it",
                    bitmap->name, bitmap->table_offset);
        return 0;
    }
    if (bitmap->table_offset == 0) {
        return 0;
    }
    result =
        check_count_inside(check, bitmap->table_offset, bytes, CHECK_USE_BITMAP_TABLE, &inside);
    if (inside) {
        table->begin = bitmap->table_offset;
        table->end = bitmap->table_offset + bytes;
    }
    return result;
}

/* What its bitmaps refer to is not known; all else is looked at. */
static int count_damaged_directory(struct check *check, const struct error *error)
{
    const struct header *header = check->header;

    check->references_unknown = true;
    check->bitmaps_lost = true;
    check_found(check, CHECK_ERROR, "%s, and none of the bitmaps can be used",
                error->text + strlen(check->name) + strlen(": "));
    return check_count(check, header->bitmap_directory_offset, header->bitmap_directory_size,
                       CHECK_USE_BITMAP_DIRECTORY);
}

static int by_name(const void *left, const void *right)
{
    const struct bitmap *const *one = left, *const *other = right;

    return strcmp((*one)->name, (*other)->name);
}

/* "Bitmap directory entry": names are unique. */
static int compare_names(struct check *check, const struct bitmap_directory *directory)
{
    const struct bitmap **sorted = calloc(directory->count + 1, sizeof(*sorted));

    if (sorted == NULL) {
        return check_failed(check, -ENOMEM, "reading the bitmap directory");
    }
    for (size_t i = 0; i < directory->count; i++) {
        sorted[i] = &directory->bitmaps[i];
    }
    qsort(sorted, directory->count, sizeof(*sorted), by_name);
    for (size_t i = 1; i < directory->count; i++) {
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0) {
            check_found(check, CHECK_ERROR,
                        "two bitmaps have the name '%s'; qcow2ctl bitmap --remove removes one",
                        sorted[i]->name);
        }
    }
    free(sorted);
    return 0;
}

int check_count_bitmaps(struct check *check)
{
    const struct header *header = check->header;
    struct bitmap_directory *directory;
    struct check_range *tables;
    struct error error;
    size_t i;
    int result;

    if (header->bitmap_count == 0) {
        return 0;
    }
    result = bitmap_directory_read(check->file, header, check->name, &directory, &error);
    if (result == -EINVAL) {
        return count_damaged_directory(check, &error);
    }
    if (result < 0) {
        return error_set(check->error, -result, "%s", error.text);
    }
    tables = calloc(directory->count + 1, sizeof(*tables));
    result = tables == NULL
                 ? check_failed(check, -ENOMEM, "reading bitmap tables")
                 : check_count(check, header->bitmap_directory_offset,
                               header->bitmap_directory_size, CHECK_USE_BITMAP_DIRECTORY);
    if (result == 0) {
        result = compare_names(check, directory);
    }
    for (i = 0; i < directory->count && result == 0; i++) {
        tables[i].owner = i;
        result = count_bitmap(check, &directory->bitmaps[i], &tables[i]);
    }
    if (result == 0) {
        result = check_segments(check, tables, directory->count, count_part, directory->bitmaps);
    }
    free(tables);
    bitmap_directory_free(directory);
    return result;
}
