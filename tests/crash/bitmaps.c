/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "bitmaps.h"

#include "tools.h"

#include "meta/bitmap.h"
#include "meta/format.h"
#include "util/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a, of the bits that a table names; false where they cannot be read. */
static bool add_bits(const struct image *image, const uint64_t *table, uint64_t entries,
                     uint64_t *hash)
{
    size_t size = image->header->cluster_size;
    uint8_t *cluster = grab(size);
    bool readable = true;

    for (uint64_t i = 0; i < entries && readable; i++) {
        uint64_t place = table[i] & ENTRY_HOST_OFFSET_MASK;

        memset(cluster, table[i] != 0 ? 0xff : 0, size);
        readable = place == 0 || store_read(image->file, place, cluster, size) == 0;
        for (size_t at = 0; at < size; at++) {
            *hash = (*hash ^ cluster[at]) * UINT64_C(0x100000001b3);
        }
    }
    free(cluster);
    return readable;
}

static bool describe(const struct image *image, const struct bitmap *bitmap, FILE *out)
{
    struct error error = {0};
    uint64_t hash = UINT64_C(0xcbf29ce484222325), *table;
    bool readable;

    if (bitmap_table_read(image->file, image->header, "image", bitmap, false, &table, &error) < 0) {
        return false;
    }
    readable = add_bits(image, table, bitmap->table_entries, &hash);
    free(table);
    fprintf(out, "%s %x %llu %llx; ", bitmap->name, (unsigned)bitmap->flags,
            (unsigned long long)bitmap->granularity, (unsigned long long)hash);
    return readable;
}

char *bitmaps_describe(const struct image *image)
{
    struct error error = {0};
    struct bitmap_directory *directory;
    char *text = NULL;
    size_t length;
    bool readable = true;
    FILE *out;

    if (bitmap_directory_read(image->file, image->header, "image", &directory, &error) < 0) {
        return NULL;
    }
    out = open_memstream(&text, &length);
    for (size_t i = 0; i < directory->count && readable; i++) {
        readable = describe(image, &directory->bitmaps[i], out);
    }
    fclose(out);
    bitmap_directory_free(directory);
    if (!readable) {
        free(text);
        text = NULL;
    }
    return text;
}

void bitmap_states_add(struct bitmap_states *states, char *text, size_t begun, size_t done)
{
    if (states->count == BITMAP_STATES) {
        die("there is no room for further bitmaps");
    }
    states->text[states->count] = text;
    states->begun[states->count] = begun;
    states->done[states->count++] = done;
}

void bitmap_states_release(struct bitmap_states *states)
{
    while (states->count > 0) {
        free(states->text[--states->count]);
    }
}

bool bitmap_states_allow(const struct bitmap_states *states, size_t crash, const char *text)
{
    for (size_t i = states->count; i > 0; i--) {
        if (states->begun[i - 1] >= crash && i > 1) {
            continue;
        }
        if (states->text[i - 1] == NULL || strcmp(states->text[i - 1], text) == 0) {
            return true;
        }
        if (states->done[i - 1] < crash) { /* what was before is no more */
            return false;
        }
    }
    return false;
}
