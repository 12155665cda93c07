/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "bitmaps.h"

#include "disk.h"
#include "tools.h"

#include "meta/bitmap.h"
#include "meta/format.h"
#include "util/checked.h"
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

/* --- Those that record ----------------------------------------------------------------------- */

/* All of its bits in one piece; NULL where they cannot be read. */
static uint8_t *read_bits(const struct image *image, const struct bitmap *bitmap)
{
    size_t size = image->header->cluster_size;
    struct error error = {0};
    uint64_t *table;
    uint8_t *bits;
    bool readable = true;

    if (bitmap_table_read(image->file, image->header, "image", bitmap, false, &table, &error) < 0) {
        return NULL;
    }
    bits = grab(size * bitmap->table_entries + 1);
    for (size_t i = 0; i < bitmap->table_entries && readable; i++) {
        uint64_t place = table[i] & ENTRY_HOST_OFFSET_MASK;

        memset(bits + i * size, table[i] != 0 ? 0xff : 0, size);
        readable = place == 0 || store_read(image->file, place, bits + i * size, size) == 0;
    }
    free(table);
    if (!readable) {
        free(bits);
        bits = NULL;
    }
    return bits;
}

/*
 * What is wrong with a bit; NULL: nothing. Disabled bitmaps have what the disk gained, and nothing
 * that it had all the time.
 */
static const char *judge(const struct recorded *recorded, bool is_enabled, bool is_set, uint64_t at,
                         uint64_t length)
{
    uint64_t end = at + length;
    bool gained = end > recorded->before_size;
    bool changed = gained || memcmp(recorded->before + at, recorded->now + at, length) != 0;

    if (!is_set && (is_enabled ? changed : gained)) {
        return "misses a change";
    }
    return is_set && !is_enabled && end <= recorded->least_size ? "is disabled, and has a bit"
                                                                : NULL;
}

static const char *check_one(const struct image *image, const struct bitmap *bitmap,
                             const struct recorded *recorded, char *text, size_t text_size)
{
    uint8_t *bits = read_bits(image, bitmap);
    const char *found = NULL;

    if (bits == NULL) {
        snprintf(text, text_size, "bitmap '%s' cannot be read", bitmap->name);
        return text;
    }
    for (uint64_t at = 0; at < recorded->now_size && found == NULL; at += SECTOR) {
        uint64_t bit = at / bitmap->granularity;
        const char *wrong = judge(recorded, (bitmap->flags & BITMAP_FLAG_AUTO) != 0,
                                  (bits[bit / 8] >> (bit % 8) & 1) != 0, at,
                                  min_u64(SECTOR, recorded->now_size - at));

        if (wrong != NULL) {
            snprintf(text, text_size, "bitmap '%s' %s at %llu", bitmap->name, wrong,
                     (unsigned long long)at);
            found = text;
        }
    }
    free(bits);
    return found;
}

const char *bitmaps_check(const struct image *image, const struct recorded *recorded, size_t *claim,
                          char *text, size_t text_size)
{
    struct error error = {0};
    struct bitmap_directory *directory;
    const char *found = NULL;

    *claim = 0;
    if (bitmap_directory_read(image->file, image->header, "image", &directory, &error) < 0) {
        snprintf(text, text_size, "%s", error.text);
        return text;
    }
    for (size_t i = 0; i < directory->count && found == NULL; i++) {
        const struct bitmap *bitmap = &directory->bitmaps[i];

        /* What was made meanwhile knows less. */
        if ((bitmap->flags & BITMAP_FLAG_IN_USE) == 0 && strcmp(bitmap->name, "late") != 0) {
            (*claim)++;
            found = check_one(image, bitmap, recorded, text, text_size);
        }
    }
    bitmap_directory_free(directory);
    return found;
}
