/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "bases.h"

#include "builder.h"
#include "codec/codec.h"
#include "guard.h"
#include "meta/format.h"
#include "util/checked.h"

#include <stdlib.h>
#include <string.h>

#define SNAPSHOT_COUNT 2

struct base {
    const char *name;
    struct builder_options options; /* what is 0 is builder_defaults()' */
    bool snapshots, bitmaps;
    bool shared; /* the first snapshot has the L2 tables of the active state; 16-bit refcounts */
};

static const struct base bases[] = {
    {.name = "plain", .options = {.cluster_bits = 9, .virtual_size = 64 << 10}},
    {.name = "version2", .options = {.version = 2, .cluster_bits = 9, .virtual_size = 48 << 10}},
    {.name = "snapshots",
     .options = {.cluster_bits = 9, .virtual_size = 64 << 10},
     .snapshots = true,
     .shared = true},
    {.name = "snapshots2",
     .options = {.version = 2, .cluster_bits = 10, .virtual_size = 64 << 10},
     .snapshots = true},
    {.name = "extended",
     .options = {.cluster_bits = 14, .virtual_size = 512 << 10, .extended_l2 = true}},
    {.name = "zstd",
     .options = {.cluster_bits = 12,
                 .virtual_size = 256 << 10,
                 .compression_type = COMPRESSION_ZSTD}},
    {.name = "backing",
     .options = {.cluster_bits = 10,
                 .virtual_size = 64 << 10,
                 .backing_file = BASES_BACKING_NAME,
                 .backing_format = "raw"}},
    {.name = "datafile",
     .options = {.cluster_bits = 12,
                 .virtual_size = BASES_DATA_SIZE,
                 .external_data_file = true,
                 .data_file = BASES_DATA_NAME}},
    {.name = "bitmaps",
     .options = {.cluster_bits = 10,
                 .virtual_size = 100000,
                 .refcount_order = 3,
                 .compatible_features = COMPATIBLE_LAZY_REFCOUNTS},
     .bitmaps = true},
    {.name = "dirty",
     .options = {.cluster_bits = 9,
                 .virtual_size = 64 << 10,
                 .refcount_order = 6,
                 .compatible_features = COMPATIBLE_LAZY_REFCOUNTS,
                 .incompatible_features = INCOMPATIBLE_DIRTY}},
    {.name = "onebit", .options = {.cluster_bits = 12, .virtual_size = 128 << 10}},
    {.name = "large", .options = {.cluster_bits = 16, .virtual_size = UINT64_C(1) << 40}},
};

#define BASE_COUNT (sizeof(bases) / sizeof(bases[0]))

/* One that was made. */
struct made {
    uint8_t *bytes;
    size_t size;
};

unsigned bases_count(void)
{
    return BASE_COUNT;
}

const char *bases_name(unsigned base)
{
    return bases[base].name;
}

static struct builder_options options_of(const struct base *base)
{
    const struct builder_options defaults = builder_defaults();
    struct builder_options options = base->options;

    options.version = options.version != 0 ? options.version : defaults.version;
    options.header_length = defaults.header_length;
    if (options.refcount_order == 0 && strcmp(base->name, "onebit") != 0) {
        options.refcount_order = defaults.refcount_order;
    }
#ifndef HAVE_ZSTD
    options.compression_type = COMPRESSION_DEFLATE;
#endif
    return options;
}

/* Clusters of every kind, in the selected state; their bytes tell by `seed` whose they are. */
static void add_clusters(struct builder *builder, const struct builder_options *options,
                         uint32_t seed)
{
    size_t size = builder_cluster_size(builder);
    uint8_t *bytes = malloc(size);

    FUZZ_EXPECT(bytes != NULL);
    builder_pattern(bytes, size, seed);
    builder_data(builder, 0, bytes, size);
    builder_data(builder, size, bytes, size / 2);
    if (options->version >= 3) {
        builder_zero(builder, 2 * size, false);
        builder_zero(builder, 3 * size, true);
    }
    if (!options->external_data_file) {
        builder_compressed(builder, 4 * size, bytes, 0);
        builder_pattern(bytes, size, seed + 1);
        if (options->refcount_order > 0) {
            builder_compressed(builder, 5 * size, bytes, 0); /* may share a cluster */
        }
    }
    /* The last ones, whose L2 table is another one where the disk has several. */
    builder_data(builder, round_down(options->virtual_size - 1, size), bytes, size);
    if (options->extended_l2) {
        builder_subclusters(builder, 7 * size, 0x0f0f00ff, 0x00f00f00, bytes, size);
        builder_subclusters(builder, 8 * size, 0, 0xffff0000, NULL, 0);
        builder_subclusters(builder, 9 * size, 0x80000001, 0, bytes, size);
    }
    free(bytes);
}

static void add_snapshots(struct builder *builder, const struct builder_options *options)
{
    static const char *const names[SNAPSHOT_COUNT] = {"first", "se/cond"};
    uint64_t mapped = UINT64_C(1) << (2 * options->cluster_bits - 3);
    uint32_t entries = (uint32_t)div_round_up(options->virtual_size, mapped);

    for (uint32_t i = 0; i < SNAPSHOT_COUNT; i++) {
        unsigned l1 = builder_add_l1(builder, entries + i);

        add_clusters(builder, options, 100 * (i + 1));
        if (i > 0) {
            uint8_t state[100];

            memset(state, 's', sizeof(state));
            builder_data(builder, entries * mapped, state, sizeof(state)); /* the VM state */
        }
        builder_snapshot(builder, &(struct builder_snapshot){
                                      .id = i == 0 ? "1" : "2",
                                      .name = names[i],
                                      .l1 = l1,
                                      .disk_size = options->virtual_size,
                                      .vm_state_size = i * 100,
                                      .date_sec = 1700000000,
                                      .icount = UINT64_MAX,
                                      .extra_data_size = options->version < 3 ? 0 : 24 - 8 * i,
                                  });
    }
    builder_select_l1(builder, 0);
}

static void add_bitmaps(struct builder *builder)
{
    builder_bitmap(builder, &(struct builder_bitmap){.name = "one", .granularity_bits = 16});
    builder_bitmap(builder, &(struct builder_bitmap){
                                .name = "two", .granularity_bits = 9, .flags = BITMAP_FLAG_IN_USE});
    builder_extension(builder, 0x12345678, "unknown", 7);
}

/* --- Snapshots that share clusters with the active state -------------------------------------- */

struct file {
    uint8_t *bytes;
    uint32_t cluster_bits;
};

/* In the first refcount block. */
static void change_count(const struct file *file, uint64_t host_offset, int by)
{
    uint64_t table = load_be64(file->bytes + HEADER_REFCOUNT_TABLE_OFFSET);
    uint64_t block = load_be64(file->bytes + table);
    uint8_t *count = file->bytes + block + (host_offset >> file->cluster_bits) * sizeof(uint16_t);

    store_be16(count, (uint16_t)(load_be16(count) + by));
}

/* One reference more (1) or less (-1) to an L2 table and to all that it refers to. */
static void count_table(const struct file *file, uint64_t table, int by)
{
    uint64_t entries = (UINT64_C(1) << file->cluster_bits) / L2_ENTRY_BYTES;

    change_count(file, table, by);
    for (uint64_t i = 0; i < entries; i++) {
        uint8_t *raw = file->bytes + table + i * L2_ENTRY_BYTES;
        uint64_t entry = load_be64(raw);

        if (l2_entry_is_compressed(entry)) {
            uint64_t first = l2_entry_compressed_offset(entry, file->cluster_bits);
            uint64_t last = first + l2_entry_compressed_size(entry, file->cluster_bits) - 1;

            for (first >>= file->cluster_bits; first <= last >> file->cluster_bits; first++) {
                change_count(file, first << file->cluster_bits, by);
            }
        } else if (l2_entry_host_offset(entry) != 0) {
            change_count(file, l2_entry_host_offset(entry), by);
            store_be64(raw, entry & ~ENTRY_COPIED);
        }
    }
}

/* Gives the first snapshot the tables of the active state in place of its own. */
static void share_first_snapshot(uint8_t *bytes)
{
    const struct file file = {bytes, load_be32(bytes + HEADER_CLUSTER_BITS)};
    const uint8_t *snapshot = bytes + load_be64(bytes + HEADER_SNAPSHOTS_OFFSET);
    uint8_t *active = bytes + load_be64(bytes + HEADER_L1_TABLE_OFFSET);
    uint8_t *its = bytes + load_be64(snapshot + SNAPSHOT_L1_TABLE_OFFSET);

    for (uint32_t i = 0; i < load_be32(snapshot + SNAPSHOT_L1_SIZE); i++) {
        uint64_t table = l1_entry_table(load_be64(active + i * L1_ENTRY_BYTES));
        uint64_t old = l1_entry_table(load_be64(its + i * L1_ENTRY_BYTES));

        if (old != 0) {
            count_table(&file, old, -1);
        }
        if (table != 0) {
            count_table(&file, table, 1);
        }
        store_be64(active + i * L1_ENTRY_BYTES, table);
        store_be64(its + i * L1_ENTRY_BYTES, table);
    }
}

static void make(const struct base *base, struct made *made)
{
    struct builder_options options = options_of(base);
    struct builder *builder = builder_create(&options);
    const uint8_t *finished;

    add_clusters(builder, &options, 1);
    if (base->snapshots) {
        add_snapshots(builder, &options);
    }
    if (base->bitmaps) {
        add_bitmaps(builder);
    }
    finished = builder_finish(builder, &made->size);
    made->bytes = malloc(made->size);
    FUZZ_EXPECT(made->bytes != NULL);
    memcpy(made->bytes, finished, made->size);
    builder_destroy(builder);
    if (base->shared) {
        share_first_snapshot(made->bytes);
    }
}

uint8_t *bases_make(unsigned base, size_t *size)
{
    /* Kept from one input to the next, which is the only way: compressing takes most of the time.
     */
    static struct made all[BASE_COUNT];
    struct made *made = &all[base];
    uint8_t *bytes;

    if (made->bytes == NULL) {
        make(&bases[base], made);
    }
    *size = made->size;
    bytes = malloc(made->size);
    FUZZ_EXPECT(bytes != NULL);
    memcpy(bytes, made->bytes, made->size);
    return bytes;
}

void bases_fill_backing(uint8_t *bytes)
{
    builder_pattern(bytes, BASES_BACKING_SIZE, 7000);
}

void bases_fill_data(uint8_t *bytes)
{
    builder_pattern(bytes, BASES_DATA_SIZE, 8000);
}
