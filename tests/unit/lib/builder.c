/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "builder.h"

#include "codec/codec.h"
#include "memory_store.h"
#include "meta/format.h"
#include "util/checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#define RAW_DEFLATE_WINDOW_BITS (-15) /* negative: no zlib header */
#define HIDDEN_BYTE             0xee  /* fills what must not show */
#define L1_TABLES_MAX           16

struct bytes {
    uint8_t *data;
    size_t size, capacity;
};

struct l1_table {
    uint64_t host_offset;
    uint32_t entries;
};

struct builder {
    struct builder_options options;
    uint64_t cluster_size;
    uint32_t l2_entry_bytes;
    uint32_t l1_entry_bits; /* log2 of the bytes that an L1 entry maps */
    struct bytes file;
    uint64_t *refcounts; /* one for each cluster of the file */
    struct bytes extensions;
    struct bytes snapshots;
    uint32_t snapshot_count;
    struct bytes bitmaps;
    uint32_t bitmap_count;
    struct l1_table l1[L1_TABLES_MAX];
    unsigned l1_count, selected;
    uint64_t compressed_end; /* host offset behind the last compressed cluster; 0: none */
    bool finished;
};

#define EXPECT(condition)                                                 \
    do {                                                                  \
        if (!(condition)) {                                               \
            fprintf(stderr, "builder: this cannot be: %s\n", #condition); \
            abort();                                                      \
        }                                                                 \
    } while (0)

static void *resize(void *memory, size_t size)
{
    memory = realloc(memory, max_u64(size, 1));
    EXPECT(memory != NULL);
    return memory;
}

/* Adds `length` bytes, zeros where `data` is NULL. */
static void append(struct bytes *to, const void *data, size_t length)
{
    if (to->size + length > to->capacity) {
        to->capacity = to->size + to->size / 2 + length; /* or a file is copied for each cluster */
        to->data = resize(to->data, to->capacity);
    }
    if (data == NULL) {
        memset(to->data + to->size, 0, length);
    } else if (length > 0) {
        memcpy(to->data + to->size, data, length);
    }
    to->size += length;
}

static void append_padding(struct bytes *to)
{
    append(to, NULL, -to->size & 7);
}

/* --- Making one ------------------------------------------------------------------- */

struct builder_options builder_defaults(void)
{
    return (struct builder_options){
        .version = 3,
        .cluster_bits = 16,
        .refcount_order = REFCOUNT_ORDER_V2,
        .virtual_size = 1 << 20,
        .header_length = HEADER_V3_LENGTH + 8,
    };
}

/* Grows the file by clusters of zeros, referenced `refcount` times each. */
static uint64_t grow(struct builder *builder, uint64_t clusters, uint64_t refcount)
{
    uint64_t host_offset = builder->file.size;
    uint64_t first = host_offset / builder->cluster_size;

    EXPECT(!builder->finished);
    append(&builder->file, NULL, clusters * builder->cluster_size);
    builder->refcounts = resize(builder->refcounts, (first + clusters) * sizeof(uint64_t));
    for (uint64_t i = first; i < first + clusters; i++) {
        builder->refcounts[i] = refcount;
    }
    return host_offset;
}

struct builder *builder_create(const struct builder_options *options)
{
    struct builder *builder = calloc(1, sizeof(*builder));
    uint64_t l1_entries;

    EXPECT(builder != NULL);
    builder->options = *options;
    builder->cluster_size = UINT64_C(1) << options->cluster_bits;
    builder->l2_entry_bytes = options->extended_l2 ? L2_ENTRY_BYTES_EXTENDED : L2_ENTRY_BYTES;
    builder->l1_entry_bits = 2 * options->cluster_bits - (options->extended_l2 ? 4 : 3);
    grow(builder, 1, 1); /* the header's */
    l1_entries = div_round_up(options->virtual_size, UINT64_C(1) << builder->l1_entry_bits);
    l1_entries += options->more_l1_entries;
    builder_add_l1(builder, (uint32_t)l1_entries);
    return builder;
}

void builder_destroy(struct builder *builder)
{
    free(builder->file.data);
    free(builder->refcounts);
    free(builder->extensions.data);
    free(builder->snapshots.data);
    free(builder->bitmaps.data);
    free(builder);
}

uint64_t builder_cluster_size(const struct builder *builder)
{
    return builder->cluster_size;
}

/* --- Tables ------------------------------------------------------------------------ */

unsigned builder_add_l1(struct builder *builder, uint32_t entries)
{
    uint64_t clusters = div_round_up((uint64_t)entries * L1_ENTRY_BYTES, builder->cluster_size);

    EXPECT(builder->l1_count < L1_TABLES_MAX);
    builder->selected = builder->l1_count++;
    builder->l1[builder->selected] = (struct l1_table){
        .host_offset = clusters > 0 ? builder_allocate(builder, clusters) : 0,
        .entries = entries,
    };
    return builder->selected;
}

void builder_select_l1(struct builder *builder, unsigned l1)
{
    EXPECT(l1 < builder->l1_count);
    builder->selected = l1;
}

static uint8_t *l1_entry(struct builder *builder, uint64_t index)
{
    const struct l1_table *l1 = &builder->l1[builder->selected];

    EXPECT(index < l1->entries);
    return builder->file.data + l1->host_offset + index * L1_ENTRY_BYTES;
}

void builder_set_l1_entry(struct builder *builder, uint64_t index, uint64_t entry)
{
    store_be64(l1_entry(builder, index), entry);
}

uint64_t builder_l2_table(struct builder *builder, uint64_t guest_offset)
{
    uint64_t index = guest_offset >> builder->l1_entry_bits;
    uint64_t table = l1_entry_table(load_be64(l1_entry(builder, index)));

    if (table == 0) {
        table = builder_allocate(builder, 1);
        builder_set_l1_entry(builder, index, table | ENTRY_COPIED);
    }
    return table;
}

uint64_t builder_l2_entry_offset(struct builder *builder, uint64_t guest_offset)
{
    uint64_t index = guest_offset >> builder->options.cluster_bits;

    index &= builder->cluster_size / builder->l2_entry_bytes - 1;
    return builder_l2_table(builder, guest_offset) + index * builder->l2_entry_bytes;
}

void builder_set_l2_entry(struct builder *builder, uint64_t guest_offset, uint64_t entry,
                          uint64_t bitmap)
{
    uint64_t at = builder_l2_entry_offset(builder, guest_offset);

    store_be64(builder->file.data + at, entry);
    if (builder->options.extended_l2) {
        store_be64(builder->file.data + at + L2_ENTRY_BYTES, bitmap);
    }
}

/* --- Clusters ----------------------------------------------------------------------- */

uint64_t builder_allocate(struct builder *builder, uint64_t clusters)
{
    return grow(builder, clusters, 1);
}

void builder_data_at(struct builder *builder, uint64_t guest_offset, uint64_t host_offset,
                     const void *bytes, size_t length)
{
    EXPECT(length <= builder->cluster_size);
    builder_set_l2_entry(builder, guest_offset, host_offset | ENTRY_COPIED, UINT32_MAX);
    if (!builder->options.external_data_file && length > 0) {
        EXPECT(range_within(host_offset, length, builder->file.size));
        memcpy(builder->file.data + host_offset, bytes, length);
    }
}

/* Where the host cluster of a guest offset is to be. */
static uint64_t choose_host_offset(struct builder *builder, uint64_t guest_offset)
{
    if (builder->options.external_data_file) {
        return round_down(guest_offset, builder->cluster_size);
    }
    return builder_allocate(builder, 1);
}

uint64_t builder_data(struct builder *builder, uint64_t guest_offset, const void *bytes,
                      size_t length)
{
    uint64_t host_offset = choose_host_offset(builder, guest_offset);

    builder_data_at(builder, guest_offset, host_offset, bytes, length);
    return host_offset;
}

uint64_t builder_zero(struct builder *builder, uint64_t guest_offset, bool preallocated)
{
    bool extended = builder->options.extended_l2;
    uint64_t entry = extended ? 0 : L2_ENTRY_ZERO, host_offset = 0;

    if (preallocated) {
        host_offset = choose_host_offset(builder, guest_offset);
        entry |= host_offset | ENTRY_COPIED;
        if (!builder->options.external_data_file) {
            memset(builder->file.data + host_offset, HIDDEN_BYTE, builder->cluster_size);
        }
    }
    builder_set_l2_entry(builder, guest_offset, entry, (uint64_t)UINT32_MAX << 32);
    return host_offset;
}

uint64_t builder_subclusters(struct builder *builder, uint64_t guest_offset, uint32_t allocated,
                             uint32_t zero, const void *bytes, size_t length)
{
    uint64_t bitmap = (uint64_t)zero << 32 | allocated, host_offset = 0;

    EXPECT(builder->options.extended_l2);
    if (allocated == 0) {
        builder_set_l2_entry(builder, guest_offset, 0, bitmap);
        return 0;
    }
    host_offset = builder_data(builder, guest_offset, bytes, length);
    builder_set_l2_entry(builder, guest_offset, host_offset | ENTRY_COPIED, bitmap);
    return host_offset;
}

/* --- Compressed clusters ------------------------------------------------------------- */

static size_t compress_deflate(const void *bytes, size_t size, uint8_t *to, size_t room)
{
    z_stream stream = {0};

    EXPECT(deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, RAW_DEFLATE_WINDOW_BITS, 9,
                        Z_DEFAULT_STRATEGY) == Z_OK);
    stream.next_in = (z_const Bytef *)(uintptr_t)bytes;
    stream.avail_in = (uInt)size;
    stream.next_out = to;
    stream.avail_out = (uInt)room;
    EXPECT(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    room -= stream.avail_out;
    deflateEnd(&stream);
    return room;
}

static size_t compress_cluster(uint8_t type, const void *bytes, size_t size, uint8_t *to,
                               size_t room)
{
#ifdef HAVE_ZSTD
    if (type == COMPRESSION_ZSTD) {
        size_t length = ZSTD_compress(to, room, bytes, size, ZSTD_CLEVEL_DEFAULT);

        EXPECT(!ZSTD_isError(length));
        return length;
    }
#endif
    EXPECT(type == COMPRESSION_DEFLATE);
    return compress_deflate(bytes, size, to, room);
}

/* Right behind the last one where the file can go on there, else in a new cluster. */
static uint64_t choose_compressed_offset(struct builder *builder, size_t length)
{
    uint64_t at = builder->compressed_end;
    uint64_t room = -at & (builder->cluster_size - 1);

    if (room < length && (room == 0 || at + room != builder->file.size)) {
        at = builder->file.size;
    }
    while (at + length > builder->file.size) {
        grow(builder, 1, 0);
    }
    return at;
}

uint64_t builder_compressed(struct builder *builder, uint64_t guest_offset, const void *bytes,
                            uint64_t host_offset)
{
    size_t room = builder->cluster_size + 4096, length;
    uint32_t shift = 62 - (builder->options.cluster_bits - 8);
    uint8_t *compressed = resize(NULL, room);
    uint64_t sectors;

    length = compress_cluster(builder->options.compression_type, bytes, builder->cluster_size,
                              compressed, room);
    if (host_offset == 0) {
        host_offset = choose_compressed_offset(builder, length);
    }
    EXPECT(range_within(host_offset, length, builder->file.size));
    memcpy(builder->file.data + host_offset, compressed, length);
    free(compressed);
    for (uint64_t cluster = host_offset / builder->cluster_size;
         cluster <= (host_offset + length - 1) / builder->cluster_size; cluster++) {
        builder->refcounts[cluster]++;
    }
    sectors = (host_offset + length - 1) / 512 - host_offset / 512;
    EXPECT(sectors < UINT64_C(1) << (62 - shift) && host_offset < UINT64_C(1) << shift);
    builder_set_l2_entry(builder, guest_offset,
                         L2_ENTRY_COMPRESSED | sectors << shift | host_offset, 0);
    builder->compressed_end = host_offset + length;
    return host_offset;
}

/* --- Extensions, snapshots, bitmaps ---------------------------------------------------- */

void builder_extension(struct builder *builder, uint32_t type, const void *data, size_t length)
{
    uint8_t start[EXTENSION_DATA];

    store_be32(start + EXTENSION_TYPE, type);
    store_be32(start + EXTENSION_LENGTH, (uint32_t)length);
    append(&builder->extensions, start, sizeof(start));
    append(&builder->extensions, data, length);
    append_padding(&builder->extensions);
}

void builder_snapshot(struct builder *builder, const struct builder_snapshot *snapshot)
{
    size_t id_length = strlen(snapshot->id);
    size_t name_length = snapshot->name_length > 0 ? snapshot->name_length : strlen(snapshot->name);
    size_t length = SNAPSHOT_FIXED_LENGTH + (size_t)snapshot->extra_data_size;
    uint8_t *entry = calloc(1, length + SNAPSHOT_EXTRA_ICOUNT + 8);

    EXPECT(entry != NULL && snapshot->l1 < builder->l1_count);
    store_be64(entry + SNAPSHOT_L1_TABLE_OFFSET, builder->l1[snapshot->l1].host_offset);
    store_be32(entry + SNAPSHOT_L1_SIZE, builder->l1[snapshot->l1].entries);
    store_be16(entry + SNAPSHOT_ID_LENGTH, (uint16_t)id_length);
    store_be16(entry + SNAPSHOT_NAME_LENGTH, (uint16_t)name_length);
    store_be32(entry + SNAPSHOT_DATE_SEC, snapshot->date_sec);
    store_be32(entry + SNAPSHOT_DATE_NSEC, snapshot->date_nsec);
    store_be64(entry + SNAPSHOT_VM_CLOCK_NSEC, snapshot->vm_clock_nsec);
    store_be32(entry + SNAPSHOT_VM_STATE_SIZE, (uint32_t)snapshot->vm_state_size);
    store_be32(entry + SNAPSHOT_EXTRA_DATA_SIZE, snapshot->extra_data_size);
    store_be64(entry + SNAPSHOT_EXTRA_VM_STATE_SIZE, snapshot->vm_state_size);
    store_be64(entry + SNAPSHOT_EXTRA_DISK_SIZE, snapshot->disk_size);
    store_be64(entry + SNAPSHOT_EXTRA_ICOUNT, snapshot->icount);
    append(&builder->snapshots, entry, length);
    append(&builder->snapshots, snapshot->id, id_length);
    append(&builder->snapshots, snapshot->name, name_length);
    append_padding(&builder->snapshots);
    builder->snapshot_count++;
    free(entry);
}

void builder_bitmap(struct builder *builder, const struct builder_bitmap *bitmap)
{
    uint8_t entry[BITMAP_FIXED_LENGTH] = {0};
    uint64_t table = builder_allocate(builder, 1);

    store_be64(entry + BITMAP_TABLE_OFFSET, table);
    store_be32(entry + BITMAP_TABLE_SIZE, 1);
    store_be32(entry + BITMAP_FLAGS, bitmap->flags);
    entry[BITMAP_TYPE] = 1; /* dirty tracking */
    entry[BITMAP_GRANULARITY_BITS] = bitmap->granularity_bits;
    store_be16(entry + BITMAP_NAME_SIZE, (uint16_t)strlen(bitmap->name));
    store_be32(entry + BITMAP_EXTRA_DATA_SIZE, bitmap->extra_data_size);
    append(&builder->bitmaps, entry, sizeof(entry));
    append(&builder->bitmaps, NULL, bitmap->extra_data_size);
    append(&builder->bitmaps, bitmap->name, strlen(bitmap->name));
    append_padding(&builder->bitmaps);
    builder->bitmap_count++;
}

/* --- Finishing --------------------------------------------------------------------------- */

/* Clusters of their own for `bytes`; 0 where there are none. */
static uint64_t place(struct builder *builder, const struct bytes *bytes)
{
    uint64_t host_offset;

    if (bytes->size == 0) {
        return 0;
    }
    host_offset = builder_allocate(builder, div_round_up(bytes->size, builder->cluster_size));
    memcpy(builder->file.data + host_offset, bytes->data, bytes->size);
    return host_offset;
}

static void place_bitmaps(struct builder *builder)
{
    uint8_t extension[BITMAPS_EXTENSION_LENGTH] = {0};

    if (builder->bitmap_count == 0) {
        return;
    }
    store_be32(extension + BITMAPS_NB_BITMAPS, builder->bitmap_count);
    store_be64(extension + BITMAPS_DIRECTORY_SIZE, builder->bitmaps.size);
    store_be64(extension + BITMAPS_DIRECTORY_OFFSET, place(builder, &builder->bitmaps));
    builder_extension(builder, EXTENSION_BITMAPS, extension, sizeof(extension));
    builder->options.autoclear_features |= AUTOCLEAR_BITMAPS;
}

/* "Refcount block entry": entry `index`, 1 << order bits wide. */
static void set_refcount(uint8_t *block, uint64_t index, uint32_t order, uint64_t count)
{
    uint64_t bits = UINT64_C(1) << order;
    uint64_t bit = index << order;

    EXPECT(bits == 64 || count < UINT64_C(1) << bits);
    if (bits < 8) {
        block[bit / 8] |= (uint8_t)(count << bit % 8);
        return;
    }
    for (uint64_t byte = 0; byte < bits / 8; byte++) {
        block[bit / 8 + byte] = (uint8_t)(count >> (bits - 8 - 8 * byte));
    }
}

/* The refcount table and its blocks, which count themselves too; returns the table's clusters. */
static uint64_t place_refcounts(struct builder *builder, uint64_t *table)
{
    uint32_t order = builder->options.refcount_order;
    uint64_t block_entries = builder->cluster_size * 8 >> order;
    uint64_t clusters = builder->file.size / builder->cluster_size;
    uint64_t blocks = 0, table_clusters = 1, before;

    do {
        before = blocks;
        blocks = div_round_up(clusters + table_clusters + blocks, block_entries);
        table_clusters = div_round_up(blocks * 8, builder->cluster_size);
    } while (blocks != before);
    *table = builder_allocate(builder, table_clusters + blocks);
    clusters += table_clusters + blocks;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t block = *table + (table_clusters + i) * builder->cluster_size;

        store_be64(builder->file.data + *table + i * 8, block);
        for (uint64_t entry = 0; entry < block_entries && i * block_entries + entry < clusters;
             entry++) {
            set_refcount(builder->file.data + block, entry, order,
                         builder->refcounts[i * block_entries + entry]);
        }
    }
    return table_clusters;
}

static void write_version_3(struct builder *builder, uint8_t *header)
{
    const struct builder_options *options = &builder->options;
    uint64_t incompatible = options->incompatible_features;

    if (options->version < 3) {
        return;
    }
    incompatible |= options->external_data_file ? INCOMPATIBLE_EXTERNAL_DATA_FILE : 0;
    incompatible |= options->compression_type != 0 ? INCOMPATIBLE_COMPRESSION_TYPE : 0;
    incompatible |= options->extended_l2 ? INCOMPATIBLE_EXTENDED_L2 : 0;
    store_be64(header + HEADER_INCOMPATIBLE_FEATURES, incompatible);
    store_be64(header + HEADER_COMPATIBLE_FEATURES, options->compatible_features);
    store_be64(header + HEADER_AUTOCLEAR_FEATURES, options->autoclear_features);
    store_be32(header + HEADER_REFCOUNT_ORDER, options->refcount_order);
    store_be32(header + HEADER_HEADER_LENGTH, options->header_length);
    if (options->header_length > HEADER_COMPRESSION_TYPE) {
        header[HEADER_COMPRESSION_TYPE] = options->compression_type;
    }
}

/* The extensions, their end and the backing file name behind it. */
static void write_extensions(struct builder *builder, uint8_t *header)
{
    const struct builder_options *options = &builder->options;
    size_t at = options->version < 3 ? HEADER_V2_LENGTH : options->header_length;
    const char *backing = options->backing_file;

    if (options->backing_format != NULL) {
        builder_extension(builder, EXTENSION_BACKING_FORMAT, options->backing_format,
                          strlen(options->backing_format));
    }
    if (options->data_file != NULL) {
        builder_extension(builder, EXTENSION_DATA_FILE, options->data_file,
                          strlen(options->data_file));
    }
    EXPECT(at + builder->extensions.size + 8 <= builder->cluster_size);
    if (builder->extensions.size > 0) {
        memcpy(header + at, builder->extensions.data, builder->extensions.size);
    }
    at += builder->extensions.size + 8;
    if (backing != NULL) {
        EXPECT(at + strlen(backing) <= builder->cluster_size);
        store_be64(header + HEADER_BACKING_FILE_OFFSET, at);
        store_be32(header + HEADER_BACKING_FILE_SIZE, (uint32_t)strlen(backing));
        memcpy(header + at, backing, strlen(backing));
    }
}

uint8_t *builder_finish(struct builder *builder, size_t *size)
{
    uint64_t snapshots, refcount_table, table_clusters;
    uint8_t *header;

    *size = builder->file.size;
    if (builder->finished) {
        return builder->file.data;
    }
    snapshots = place(builder, &builder->snapshots);
    place_bitmaps(builder);
    table_clusters = place_refcounts(builder, &refcount_table);
    builder->finished = true;

    header = builder->file.data;
    store_be32(header + HEADER_MAGIC, QCOW_MAGIC);
    store_be32(header + HEADER_VERSION, builder->options.version);
    store_be32(header + HEADER_CLUSTER_BITS, builder->options.cluster_bits);
    store_be64(header + HEADER_SIZE, builder->options.virtual_size);
    store_be32(header + HEADER_L1_SIZE, builder->l1[0].entries);
    store_be64(header + HEADER_L1_TABLE_OFFSET, builder->l1[0].host_offset);
    store_be64(header + HEADER_REFCOUNT_TABLE_OFFSET, refcount_table);
    store_be32(header + HEADER_REFCOUNT_TABLE_CLUSTERS, (uint32_t)table_clusters);
    store_be32(header + HEADER_NB_SNAPSHOTS, builder->snapshot_count);
    store_be64(header + HEADER_SNAPSHOTS_OFFSET, snapshots);
    write_version_3(builder, header);
    write_extensions(builder, header);
    *size = builder->file.size;
    return header;
}

struct store *builder_store(struct builder *builder)
{
    size_t size;
    const uint8_t *bytes = builder_finish(builder, &size);

    return memory_store_from(bytes, size);
}

void builder_file(struct builder *builder, const char *path)
{
    size_t size;
    const uint8_t *bytes = builder_finish(builder, &size);
    FILE *file = fopen(path, "we");

    EXPECT(file != NULL);
    EXPECT(fwrite(bytes, 1, size, file) == size);
    EXPECT(fclose(file) == 0);
}

void builder_pattern(void *buffer, size_t size, uint32_t seed)
{
    uint8_t *to = buffer, word[8];

    for (size_t i = 0; i < size; i += sizeof(word)) {
        store_be64(word, (uint64_t)(seed + 1) << 40 | (i / sizeof(word) + 1));
        memcpy(to + i, word, min_u64(sizeof(word), size - i));
    }
}
