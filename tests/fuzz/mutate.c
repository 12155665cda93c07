/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "mutate.h"

#include "guard.h"
#include "meta/format.h"
#include "util/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A big-endian number of 1, 2, 4 or 8 bytes somewhere in the image. */
struct field {
    uint64_t offset;
    unsigned width; /* 0: there is none */
};

static const struct field nowhere = {0, 0};

static uint64_t load(const struct mutable_image *image, struct field field)
{
    const uint8_t *at = image->bytes + field.offset;

    switch (field.width) {
    case 1:
        return *at;
    case 2:
        return load_be16(at);
    case 4:
        return load_be32(at);
    default:
        return load_be64(at);
    }
}

static void store(struct mutable_image *image, struct field field, uint64_t value)
{
    uint8_t *at = image->bytes + field.offset;

    switch (field.width) {
    case 1:
        *at = (uint8_t)value;
        break;
    case 2:
        store_be16(at, (uint16_t)value);
        break;
    case 4:
        store_be32(at, (uint32_t)value);
        break;
    default:
        store_be64(at, value);
    }
}

/* The field, where all of it is in the image. */
static struct field field_at(const struct mutable_image *image, uint64_t offset, unsigned width)
{
    return range_within(offset, width, image->size) ? (struct field){offset, width} : nowhere;
}

/* What is there, 0 where that is not in the image. */
static uint64_t read_at(const struct mutable_image *image, uint64_t offset, unsigned width)
{
    struct field field = field_at(image, offset, width);

    return field.width == 0 ? 0 : load(image, field);
}

static uint32_t cluster_bits(const struct mutable_image *image)
{
    uint64_t bits = read_at(image, HEADER_CLUSTER_BITS, 4);

    return (uint32_t)max_u64(CLUSTER_BITS_MIN, min_u64(bits, CLUSTER_BITS_MAX));
}

static uint64_t l2_entry_bytes(const struct mutable_image *image)
{
    bool extended = read_at(image, HEADER_VERSION, 4) >= 3 &&
                    (read_at(image, HEADER_INCOMPATIBLE_FEATURES, 8) & INCOMPATIBLE_EXTENDED_L2);

    return extended ? L2_ENTRY_BYTES_EXTENDED : L2_ENTRY_BYTES;
}

/* --- Where: each function chooses a field of its structure -------------------------------------
 */

static struct field in_header(const struct mutable_image *image, struct program *program)
{
    static const struct field fields[] = {
        {HEADER_MAGIC, 4},
        {HEADER_VERSION, 4},
        {HEADER_BACKING_FILE_OFFSET, 8},
        {HEADER_BACKING_FILE_SIZE, 4},
        {HEADER_CLUSTER_BITS, 4},
        {HEADER_SIZE, 8},
        {HEADER_CRYPT_METHOD, 4},
        {HEADER_L1_SIZE, 4},
        {HEADER_L1_TABLE_OFFSET, 8},
        {HEADER_REFCOUNT_TABLE_OFFSET, 8},
        {HEADER_REFCOUNT_TABLE_CLUSTERS, 4},
        {HEADER_NB_SNAPSHOTS, 4},
        {HEADER_SNAPSHOTS_OFFSET, 8},
        {HEADER_INCOMPATIBLE_FEATURES, 8},
        {HEADER_COMPATIBLE_FEATURES, 8},
        {HEADER_AUTOCLEAR_FEATURES, 8},
        {HEADER_REFCOUNT_ORDER, 4},
        {HEADER_HEADER_LENGTH, 4},
        {HEADER_COMPRESSION_TYPE, 1},
    };
    struct field field = fields[program_below(program, sizeof(fields) / sizeof(fields[0]))];

    return field_at(image, field.offset, field.width);
}

/* Where the extensions begin. */
static uint64_t extensions_offset(const struct mutable_image *image)
{
    return read_at(image, HEADER_VERSION, 4) < 3 ? HEADER_V2_LENGTH
                                                 : read_at(image, HEADER_HEADER_LENGTH, 4);
}

/* Type, length or data of one of the extensions, or of what follows them. */
static struct field in_extensions(const struct mutable_image *image, struct program *program)
{
    uint64_t at = extensions_offset(image), steps = program_below(program, 6), length;

    for (; steps > 0 && read_at(image, at + EXTENSION_TYPE, 4) != EXTENSION_END; steps--) {
        length = read_at(image, at + EXTENSION_LENGTH, 4);
        at += EXTENSION_DATA + ((length + 7) & ~UINT64_C(7));
    }
    length = read_at(image, at + EXTENSION_LENGTH, 4);
    switch (program_u8(program) % 4) {
    case 0:
        return field_at(image, at + EXTENSION_TYPE, 4);
    case 1:
        return field_at(image, at + EXTENSION_LENGTH, 4);
    case 2: /* numbers of the bitmaps extension */
        return field_at(image, at + EXTENSION_DATA + program_u8(program) % 3 * 8, 8);
    default:
        return field_at(image, at + EXTENSION_DATA + program_u8(program), 1);
    }
}

/* Offset of a snapshot's table entry; the table may be anything. */
static uint64_t snapshot_at(const struct mutable_image *image, uint64_t index)
{
    uint64_t at = read_at(image, HEADER_SNAPSHOTS_OFFSET, 8);

    for (; index > 0; index--) {
        at += SNAPSHOT_FIXED_LENGTH + read_at(image, at + SNAPSHOT_ID_LENGTH, 2) +
              read_at(image, at + SNAPSHOT_NAME_LENGTH, 2) +
              read_at(image, at + SNAPSHOT_EXTRA_DATA_SIZE, 4);
        at = (at + 7) & ~UINT64_C(7);
    }
    return at;
}

static struct field in_snapshots(const struct mutable_image *image, struct program *program)
{
    static const struct field fields[] = {
        {SNAPSHOT_L1_TABLE_OFFSET, 8},  {SNAPSHOT_L1_SIZE, 4},
        {SNAPSHOT_ID_LENGTH, 2},        {SNAPSHOT_NAME_LENGTH, 2},
        {SNAPSHOT_DATE_SEC, 4},         {SNAPSHOT_VM_STATE_SIZE, 4},
        {SNAPSHOT_EXTRA_DATA_SIZE, 4},  {SNAPSHOT_EXTRA_VM_STATE_SIZE, 8},
        {SNAPSHOT_EXTRA_DISK_SIZE, 8},  {SNAPSHOT_EXTRA_ICOUNT, 8},
        {SNAPSHOT_EXTRA_ICOUNT + 8, 1}, {SNAPSHOT_EXTRA_ICOUNT + 9, 1},
    };
    uint64_t count = max_u64(1, min_u64(4, read_at(image, HEADER_NB_SNAPSHOTS, 4)));
    uint64_t at = snapshot_at(image, program_below(program, count));
    struct field field = fields[program_below(program, sizeof(fields) / sizeof(fields[0]))];

    return field_at(image, at + field.offset, field.width);
}

/* The L1 table of the active state, or of a snapshot. */
static void choose_l1(const struct mutable_image *image, struct program *program, uint64_t *offset,
                      uint64_t *entries)
{
    uint64_t count = min_u64(4, read_at(image, HEADER_NB_SNAPSHOTS, 4));
    uint64_t choice = program_below(program, count + 1), at;

    if (choice == 0 || (at = snapshot_at(image, choice - 1)) == 0) {
        *offset = read_at(image, HEADER_L1_TABLE_OFFSET, 8);
        *entries = read_at(image, HEADER_L1_SIZE, 4);
        return;
    }
    *offset = read_at(image, at + SNAPSHOT_L1_TABLE_OFFSET, 8);
    *entries = read_at(image, at + SNAPSHOT_L1_SIZE, 4);
}

static struct field in_l1(const struct mutable_image *image, struct program *program)
{
    uint64_t offset, entries;

    choose_l1(image, program, &offset, &entries);
    return field_at(image, offset + program_below(program, max_u64(1, entries)) * L1_ENTRY_BYTES,
                    8);
}

/* Offset of an L2 table, of the first one from a chosen L1 entry on; 0 where there is none. */
static uint64_t choose_l2(const struct mutable_image *image, struct program *program)
{
    uint64_t offset, entries, first;

    choose_l1(image, program, &offset, &entries);
    entries = min_u64(entries, image->size / L1_ENTRY_BYTES);
    first = program_u8(program) % 4;
    for (uint64_t i = first; i < entries; i++) {
        uint64_t table = l1_entry_table(read_at(image, offset + i * L1_ENTRY_BYTES, 8));

        if (table != 0) {
            return table;
        }
    }
    return 0;
}

/* Most entries are unused: the first ones, or the next used one from there on. */
static struct field in_l2(const struct mutable_image *image, struct program *program)
{
    uint64_t table = choose_l2(image, program), entry_bytes = l2_entry_bytes(image);
    uint64_t entries = (UINT64_C(1) << cluster_bits(image)) / entry_bytes;
    uint64_t index = program_u8(program) % 16;
    bool used = program_bool(program), bitmap = program_bool(program);
    uint64_t at;

    if (table == 0) {
        return nowhere;
    }
    for (; used && index + 1 < entries; index++) {
        if (read_at(image, table + index * entry_bytes, 8) != 0) {
            break;
        }
    }
    at = table + index * entry_bytes;
    if (entry_bytes == L2_ENTRY_BYTES_EXTENDED && bitmap) {
        at += L2_ENTRY_BYTES;
    }
    return field_at(image, at, 8);
}

/* A byte of the data of a compressed cluster. */
static struct field in_compressed(const struct mutable_image *image, struct program *program)
{
    uint64_t table = choose_l2(image, program), entry_bytes = l2_entry_bytes(image);
    uint64_t entries = (UINT64_C(1) << cluster_bits(image)) / entry_bytes;
    uint64_t first = program_u8(program) % 8, within = program_u8(program);

    for (uint64_t i = first; table != 0 && i < entries; i++) {
        uint64_t entry = read_at(image, table + i * entry_bytes, 8);

        if (l2_entry_is_compressed(entry)) {
            return field_at(image, l2_entry_compressed_offset(entry, cluster_bits(image)) + within,
                            1);
        }
    }
    return nowhere;
}

static struct field in_refcounts(const struct mutable_image *image, struct program *program)
{
    uint64_t table = read_at(image, HEADER_REFCOUNT_TABLE_OFFSET, 8), block;

    if (program_u8(program) % 4 == 0) {
        return field_at(image, table + program_u8(program) % 8 * REFCOUNT_TABLE_ENTRY_BYTES, 8);
    }
    block = read_at(image, table, 8) & ~REFCOUNT_TABLE_ENTRY_RESERVED;
    return field_at(image, block + program_below(program, image->size / 64 + 1), 1);
}

/* A field of a directory entry, or an entry of its bitmap table. */
static struct field in_bitmaps(const struct mutable_image *image, struct program *program)
{
    static const struct field fields[] = {
        {BITMAP_TABLE_OFFSET, 8},    {BITMAP_TABLE_SIZE, 4},
        {BITMAP_FLAGS, 4},           {BITMAP_TYPE, 1},
        {BITMAP_NAME_SIZE, 2},       {BITMAP_GRANULARITY_BITS, 1},
        {BITMAP_EXTRA_DATA_SIZE, 4},
    };
    uint64_t at = extensions_offset(image), directory;
    struct field field;

    for (int i = 0; i < 8 && read_at(image, at, 4) != EXTENSION_BITMAPS; i++) {
        at += EXTENSION_DATA + ((read_at(image, at + EXTENSION_LENGTH, 4) + 7) & ~UINT64_C(7));
    }
    if (read_at(image, at, 4) != EXTENSION_BITMAPS) {
        return nowhere;
    }
    directory = read_at(image, at + EXTENSION_DATA + BITMAPS_DIRECTORY_OFFSET, 8);
    directory += program_u8(program) % 2 * 32; /* of a short name */
    if (program_u8(program) % 4 == 0) {
        return field_at(image,
                        read_at(image, directory + BITMAP_TABLE_OFFSET, 8) +
                            program_u8(program) % 4 * BITMAP_TABLE_ENTRY_BYTES,
                        8);
    }
    field = fields[program_below(program, sizeof(fields) / sizeof(fields[0]))];
    return field_at(image, directory + field.offset, field.width);
}

static struct field anywhere(const struct mutable_image *image, struct program *program)
{
    unsigned width = 1U << program_u8(program) % 4;
    uint64_t offset = program_below(program, max_u64(1, image->size));

    return field_at(image, round_down(offset, width), width);
}

/* --- What
 * ------------------------------------------------------------------------------------------ */

/* An entry of a table: some cluster of the file, or one behind it, and flags. */
static uint64_t table_entry(const struct mutable_image *image, struct program *program)
{
    uint32_t bits = cluster_bits(image);
    uint64_t clusters = (image->size >> bits) + 2;
    uint64_t value = program_below(program, clusters) << bits;
    uint8_t flags = program_u8(program);

    value |= (flags & 1) != 0 ? ENTRY_COPIED : 0;
    value |= (flags & 6) == 6 ? L2_ENTRY_COMPRESSED | (uint64_t)(flags >> 5) << (70 - bits) : 0;
    value |= (flags & 24) == 24 ? L2_ENTRY_ZERO : 0;
    value += (flags & 6) == 2 ? (flags >> 4) * 37U : 0; /* not aligned */
    return value;
}

static uint64_t remarkable(const struct mutable_image *image, struct program *program)
{
    const uint64_t values[] = {
        0,
        1,
        2,
        3,
        8,
        511,
        512,
        image->size,
        image->size - 1,
        INT32_MAX,
        UINT32_MAX,
        INT64_MAX,
        UINT64_MAX,
        UINT64_C(1) << 32,
        UINT64_C(1) << 62,
        ENTRY_HOST_OFFSET_MASK,
        ENTRY_HOST_OFFSET_MASK | ENTRY_COPIED,
        -(UINT64_C(1) << cluster_bits(image)),
        EXTENSION_BACKING_FORMAT,
        EXTENSION_FEATURE_NAME_TABLE,
        EXTENSION_BITMAPS,
        EXTENSION_ENCRYPTION,
        EXTENSION_DATA_FILE,
        (UINT64_C(1) << 56) - 512,
    };

    return values[program_below(program, sizeof(values) / sizeof(values[0]))];
}

/* What some other place holds. */
static uint64_t elsewhere(const struct mutable_image *image, uint64_t old, struct program *program)
{
    struct field field = anywhere(image, program);

    return field.width > 0 ? load(image, field) : old;
}

static uint64_t new_value(const struct mutable_image *image, struct field field, uint64_t old,
                          struct program *program)
{
    switch (program_u8(program) % 8) {
    case 0:
        return program_number(program, field.width);
    case 1:
        return old ^ UINT64_C(1) << program_below(program, 8 * field.width);
    case 2:
        return old + (uint64_t)(int64_t)(int8_t)program_u8(program);
    case 3:
        return remarkable(image, program);
    case 4:
    case 5:
        return table_entry(image, program);
    case 6:
        return elsewhere(image, old, program);
    default:
        return program_u8(program);
    }
}

/* --- Changes that are not those of one field
 * ------------------------------------------------------ */

/* Cuts the file off, or makes it longer by zeros. */
static void change_size(struct mutable_image *image, struct program *program)
{
    uint64_t cluster = UINT64_C(1) << cluster_bits(image), size = image->size;
    uint8_t *bytes;

    switch (program_u8(program) % 4) {
    case 0:
        size = program_below(program, size + 1);
        break;
    case 1:
        size -= min_u64(size, program_u8(program));
        break;
    case 2:
        size -= min_u64(size, program_u8(program) % 4 * cluster);
        break;
    default:
        size += program_u8(program) % 16 * cluster;
    }
    size = min_u64(size, image->most);
    guard_trace("size 0x%" PRIx64 " for 0x%zx", size, image->size);
    bytes = realloc(image->bytes, max_u64(size, 1));
    FUZZ_EXPECT(bytes != NULL);
    if (size > image->size) {
        memset(bytes + image->size, 0, size - image->size);
    }
    image->bytes = bytes;
    image->size = size;
}

/* Puts the bytes of one place to another. */
static void copy(struct mutable_image *image, struct program *program)
{
    uint64_t unit = program_bool(program) ? UINT64_C(1) << cluster_bits(image) : L2_ENTRY_BYTES;
    uint64_t units = image->size / unit, from, to;

    if (units == 0) {
        return;
    }
    from = program_below(program, units) * unit;
    to = program_below(program, units) * unit;
    memmove(image->bytes + to, image->bytes + from, unit);
    guard_trace("copy 0x%" PRIx64 " bytes from 0x%" PRIx64 " to 0x%" PRIx64, unit, from, to);
}

typedef struct field choose_fn(const struct mutable_image *image, struct program *program);

void mutate(struct mutable_image *image, struct program *program)
{
    static choose_fn *const choices[] = {
        in_header, in_header,    in_extensions, in_l1,         in_l1,        in_l2,        in_l2,
        in_l2,     in_snapshots, in_bitmaps,    in_compressed, in_refcounts, in_refcounts, anywhere,
    };
    size_t count = sizeof(choices) / sizeof(choices[0]);
    uint64_t choice = program_below(program, count + 2);
    struct field field;

    if (choice == count) {
        change_size(image, program);
    } else if (choice == count + 1) {
        copy(image, program);
    } else {
        field = choices[choice](image, program);
        if (field.width > 0) {
            uint64_t old = load(image, field), new = new_value(image, field, old, program);

            store(image, field, new);
            guard_trace("%u bytes at 0x%" PRIx64 ": 0x%" PRIx64 " for 0x%" PRIx64, field.width,
                        field.offset, new, old);
        }
    }
}
