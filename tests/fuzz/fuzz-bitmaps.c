/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as the bitmap directory of an image, with the tables that its entries name. The first
 * byte of an input says how many entries the header claims, the second one the size of a cluster,
 * the next two how long the directory is; it lies at the beginning of the file, which the rest is.
 */
#include "config.h"

#include "guard.h"
#include "memory_store.h"
#include "meta/bitmap.h"
#include "meta/format.h"
#include "meta/header.h"
#include "target.h"
#include "util/bytes.h"

#include <stdlib.h>
#include <string.h>

#define NAME   "image"
#define PREFIX 4

const char *const target_name = "bitmaps";
const size_t target_most = 16 << 10;

/* A refusal is a sentence that begins with the name. */
static void expect_sentence(int result, const struct error *error)
{
    FUZZ_EXPECT(result == 0 ||
                    (result < 0 && strncmp(error->text, NAME ": ", strlen(NAME ": ")) == 0),
                "%d %s", result, error->text);
}

static void read_bits(struct store *file, const struct header *header, const struct bitmap *bitmap,
                      bool goes)
{
    struct error error = {0};
    uint64_t *table;
    int result = bitmap_table_read(file, header, NAME, bitmap, goes, &table, &error);

    expect_sentence(result, &error);
    for (size_t i = 0; result == 0 && i < bitmap->table_entries; i++) {
        uint64_t place = table[i] & ~BITMAP_TABLE_ENTRY_ALL_ONES;

        FUZZ_EXPECT(place % header->cluster_size == 0 && place < memory_store_size(file) + 1);
    }
    FUZZ_EXPECT(result != 0 || goes ||
                bitmap->table_entries == bitmap_table_entries(header, bitmap->granularity));
    free(table);
}

static void read_directory(struct store *file, const struct header *header)
{
    struct bitmap_directory *directory, *examined;
    struct error error = {0}, same = {0};
    int result = bitmap_directory_read(file, header, NAME, &directory, &error);
    int again = bitmap_directory_examine(file, header, NAME, &examined, &same);

    expect_sentence(result, &error);
    FUZZ_EXPECT(again == result && strcmp(error.text, same.text) == 0);
    FUZZ_EXPECT((result == 0) == (directory != NULL));
    FUZZ_EXPECT(result != 0 || directory->count == header->bitmap_count);
    for (size_t i = 0; examined != NULL && i < examined->count; i++) {
        const struct bitmap *bitmap = &examined->bitmaps[i];

        FUZZ_EXPECT(strlen(bitmap->name) <= BITMAP_NAME_MAX &&
                    bitmap->entry_offset + bitmap->entry_length <= header->bitmap_directory_size);
        FUZZ_EXPECT(bitmap_find(examined, bitmap->name) != NULL);
        read_bits(file, header, bitmap, false);
        read_bits(file, header, bitmap, true);
    }
    bitmap_directory_free(examined);
    bitmap_directory_free(directory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct header header = {.version = 3, .virtual_size = 1 << 30};
    struct store *file;

    if (size < PREFIX) {
        return 0;
    }
    header.bitmap_count = data[0] == 255 ? 65535 : data[0];
    header.cluster_bits = 9 + data[1] % 13;
    header.cluster_size = UINT64_C(1) << header.cluster_bits;
    header.bitmap_directory_size = load_be16(data + 2);
    file = memory_store_from(data + PREFIX, size - PREFIX);
    guard_begin(GUARD_MEMORY);
    read_directory(file, &header);
    guard_end();
    store_close(file);
    return 0;
}

/* A directory of two bitmaps, whose tables lie behind it. */
uint8_t *target_seed(unsigned number, size_t *size)
{
    static const uint8_t granularity_bits[] = {16, 18, 20, 31};
    uint8_t *bytes, *entry;

    if (number >= sizeof(granularity_bits)) {
        return NULL;
    }
    *size = PREFIX + 3 * 512;
    bytes = calloc(1, *size);
    FUZZ_EXPECT(bytes != NULL);
    bytes[0] = 2;
    store_be16(bytes + 2, 2 * 32);
    entry = bytes + PREFIX;
    for (unsigned i = 0; i < 2; i++) {
        uint64_t bits = (UINT64_C(1) << 30) >> granularity_bits[number];

        store_be64(entry + BITMAP_TABLE_OFFSET, 512 * (i + 1));
        store_be32(entry + BITMAP_TABLE_SIZE, (uint32_t)((bits + 4095) / 4096));
        store_be32(entry + BITMAP_FLAGS, i == 0 ? BITMAP_FLAG_AUTO : BITMAP_FLAG_IN_USE);
        entry[BITMAP_TYPE] = BITMAP_TYPE_DIRTY_TRACKING;
        entry[BITMAP_GRANULARITY_BITS] = granularity_bits[number];
        store_be16(entry + BITMAP_NAME_SIZE, 3);
        memcpy(entry + BITMAP_FIXED_LENGTH, i == 0 ? "one" : "two", 3);
        entry += 32;
        store_be64(bytes + PREFIX + 512 * (i + 1), i == 0 ? 512 : BITMAP_TABLE_ENTRY_ALL_ONES);
    }
    return bytes;
}
