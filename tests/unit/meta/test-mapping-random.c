/* SPDX-License-Identifier: MIT */
/*
 * The mapping against a second decoder that was written for nothing but to be
 * obviously right: it looks at one subcluster at a time, without caches,
 * slices, or joining. The tables are random, with fixed seeds; many entries
 * are impossible.
 */
#include "config.h"

#include "builder.h"
#include "mapping_case.h"
#include "memory_store.h"
#include "meta/format.h"
#include "suite.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct shape {
    uint32_t version, cluster_bits;
    bool extended_l2, data_file;
};

static const struct shape shapes[] = {
    {2, 9, false, false},  {3, 9, false, false}, {3, 9, false, true},
    {2, 12, false, false}, {3, 14, true, false}, {3, 14, true, true},
};
#define SHAPES          (int)(sizeof(shapes) / sizeof(shapes[0]))
#define SEEDS           8
#define CLUSTERS        640
#define HOST_CLUSTERS   64
#define LOOKUPS         3000
#define PAST_EVERY_FILE UINT64_C(0x00fffffffff00000)

/* xorshift64*: the same numbers on every host. */
static uint64_t draw(uint64_t *state, uint64_t below)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (*state * UINT64_C(0x2545f4914f6cdd1d) >> 33) % below;
}

/* --- Random tables ------------------------------------------------------------------------ */

static uint64_t draw_bitmap(uint64_t *state, unsigned entry_kind)
{
    uint64_t allocated = 0, zero = 0;

    /* Runs, not noise. */
    for (unsigned i = 0; i < 32; i += (unsigned)draw(state, 9) + 1) {
        uint64_t run = (UINT64_C(1) << draw(state, 9)) - 1;

        if (draw(state, 2) == 0) {
            allocated |= run << i;
        } else {
            zero |= run << i;
        }
    }
    allocated &= UINT32_MAX;
    zero &= UINT32_MAX;
    if (entry_kind != 0) { /* else both bits may be set for one subcluster */
        zero &= ~allocated;
    }
    return zero << 32 | allocated;
}

static uint64_t draw_entry(uint64_t *state, const struct shape *shape, uint64_t guest_offset,
                           uint64_t host, unsigned entry_kind)
{
    uint64_t size = UINT64_C(1) << shape->cluster_bits;
    uint64_t near = shape->data_file ? guest_offset : host + draw(state, HOST_CLUSTERS) * size;
    /* In the order of the host, so that there is something to be joined. */
    uint64_t next = shape->data_file
                        ? guest_offset
                        : host + (guest_offset >> shape->cluster_bits) % HOST_CLUSTERS * size;

    switch (entry_kind) {
    case 0:
        return PAST_EVERY_FILE;
    case 1:
        return near + 512; /* with clusters of 512 bytes: the next one */
    case 2:
        return L2_ENTRY_COMPRESSED | draw(state, 2) << (62 - (shape->cluster_bits - 8)) |
               (host + draw(state, size));
    case 3:
        return ENTRY_COPIED;
    case 4:
    case 5:
        return 0;
    case 6:
        return shape->version == 3 || draw(state, 8) == 0 ? L2_ENTRY_ZERO : 0;
    case 7:
        return near | ENTRY_COPIED;
    default:
        return next | ENTRY_COPIED;
    }
}

static struct builder *draw_image(const struct shape *shape, uint64_t *state)
{
    struct builder_options options = builder_defaults();
    uint64_t size = UINT64_C(1) << shape->cluster_bits, host;
    unsigned entry_kind = 9;
    struct builder *builder;

    options.version = shape->version;
    options.cluster_bits = shape->cluster_bits;
    options.extended_l2 = shape->extended_l2;
    options.external_data_file = shape->data_file;
    options.virtual_size = CLUSTERS << shape->cluster_bits;
    options.more_l1_entries = 2;
    builder = builder_create(&options);
    host = builder_allocate(builder, HOST_CLUSTERS);
    for (uint64_t guest_offset = 0; guest_offset < CLUSTERS * size; guest_offset += size) {
        if (draw(state, 4) == 0) {
            entry_kind = (unsigned)draw(state, 14);
        }
        if (draw(state, 40) == 0) {
            guest_offset += draw(state, 100) * size; /* L1 holes */
            continue;
        }
        builder_set_l2_entry(builder, guest_offset,
                             draw_entry(state, shape, guest_offset, host, entry_kind),
                             draw_bitmap(state, entry_kind));
    }
    if (shape->cluster_bits == 9) { /* 32 KiB an L1 entry */
        builder_set_l1_entry(builder, 3, draw(state, 2) == 0 ? PAST_EVERY_FILE : 0x12000);
        builder_set_l1_entry(builder, 6, draw(state, 2) == 0 ? 0 : 0x40000000);
    }
    return builder;
}

/* --- The second decoder -------------------------------------------------------------------- */

struct unit {
    bool bad;
    enum extent_kind kind;
    uint64_t host_offset; /* DATA: of the byte; COMPRESSED: of the compressed data */
};

static uint64_t word_at(struct store *file, uint64_t host_offset)
{
    return load_be64(memory_store_data(file) + host_offset);
}

static struct unit decode_standard(const struct mapping_case *mapping_case, uint64_t guest_offset,
                                   uint64_t entry, uint64_t bitmap)
{
    const struct header *header = mapping_case->header;
    uint64_t size = header->cluster_size, host = entry & UINT64_C(0x00fffffffffffe00);
    unsigned subcluster = (unsigned)(guest_offset % size / (size / 32));
    bool has_host = host != 0, data, zero;

    if (header->external_data_file && entry >> 63 == 1) {
        has_host = true;
    }
    if (header->extended_l2) {
        data = (bitmap >> subcluster & 1) != 0;
        zero = (bitmap >> 32 >> subcluster & 1) != 0;
        if ((bitmap >> 32 & (bitmap & UINT32_MAX)) != 0) {
            return (struct unit){.bad = true};
        }
    } else {
        zero = (entry & 1) != 0;
        data = has_host && !zero;
        bitmap = data ? 1 : 0;
        if (zero && header->version == 2) {
            return (struct unit){.bad = true};
        }
    }
    if ((bitmap & UINT32_MAX) != 0 &&
        (!has_host ||
         (!header->external_data_file && host >= memory_store_size(mapping_case->file)))) {
        return (struct unit){.bad = true};
    }
    if (has_host && (host % size != 0 ||
                     (header->external_data_file && host != guest_offset - guest_offset % size))) {
        return (struct unit){.bad = true};
    }
    return (struct unit){
        .kind = zero   ? EXTENT_ZERO
                : data ? EXTENT_DATA
                       : EXTENT_UNALLOCATED,
        .host_offset = data ? host + guest_offset % size : 0,
    };
}

static struct unit decode(const struct mapping_case *mapping_case, uint64_t guest_offset)
{
    const struct header *header = mapping_case->header;
    uint64_t size = header->cluster_size, entry_bytes = header->extended_l2 ? 16 : 8;
    uint64_t file_size = memory_store_size(mapping_case->file);
    uint64_t l2_entries = size / entry_bytes, l1_index = guest_offset / size / l2_entries;
    uint64_t table, at, entry, host;

    if (l1_index >= header->l1_entries) {
        return (struct unit){.kind = EXTENT_UNALLOCATED};
    }
    table = word_at(mapping_case->file, header->l1_offset + l1_index * 8);
    table &= UINT64_C(0x00fffffffffffe00);
    if (table == 0) {
        return (struct unit){.kind = EXTENT_UNALLOCATED};
    }
    if (table % size != 0 || table + size > file_size) {
        return (struct unit){.bad = true};
    }
    at = table + guest_offset / size % l2_entries * entry_bytes;
    entry = word_at(mapping_case->file, at);
    if ((entry >> 62 & 1) == 0) {
        return decode_standard(mapping_case, guest_offset, entry,
                               header->extended_l2 ? word_at(mapping_case->file, at + 8) : 0);
    }
    host = entry & ((UINT64_C(1) << (70 - header->cluster_bits)) - 1);
    if (header->external_data_file || host >= file_size) {
        return (struct unit){.bad = true};
    }
    return (struct unit){.kind = EXTENT_COMPRESSED, .host_offset = host};
}

/* How far the extent of `first` goes on behind guest_offset, at most to `end`. */
static uint64_t extent_end(const struct mapping_case *mapping_case, struct unit first,
                           uint64_t guest_offset, uint64_t end)
{
    const struct header *header = mapping_case->header;
    uint64_t step = header->cluster_size / (header->extended_l2 ? 32 : 1);
    uint64_t at = guest_offset - guest_offset % step + step;

    if (first.kind == EXTENT_COMPRESSED) {
        at = guest_offset - guest_offset % header->cluster_size + header->cluster_size;
        return at < end ? at : end;
    }
    while (at < end) {
        struct unit next = decode(mapping_case, at);

        if (next.bad || next.kind != first.kind ||
            (next.kind == EXTENT_DATA &&
             next.host_offset != first.host_offset + (at - guest_offset))) {
            return at;
        }
        at += step;
    }
    return end;
}

static void compare(struct mapping_case *mapping_case, uint64_t guest_offset, uint64_t length,
                    unsigned counts[5])
{
    struct unit first = decode(mapping_case, guest_offset);
    struct extent extent;
    int result =
        mapping_lookup(mapping_case->mapping, guest_offset, length, &extent, &mapping_case->fault);
    char where[64];

    snprintf(where, sizeof(where), "at 0x%llx: ", (unsigned long long)guest_offset);
    ck_assert_msg(result == (first.bad ? -EIO : 0), "%s%s", where, mapping_case->fault.text);
    if (first.bad) {
        ck_assert_uint_le(mapping_case->fault.guest_offset, guest_offset);
        ck_assert_uint_gt(strlen(mapping_case->fault.text), 20);
        counts[4]++;
        return;
    }
    ck_assert_msg(extent.kind == first.kind, "%skind %d, not %d", where, extent.kind, first.kind);
    ck_assert_uint_eq(extent.length,
                      extent_end(mapping_case, first, guest_offset, guest_offset + length) -
                          guest_offset);
    if (extent.kind == EXTENT_DATA || extent.kind == EXTENT_COMPRESSED) {
        ck_assert_uint_eq(extent.host_offset, first.host_offset);
    }
    counts[extent.kind]++;
}

/* `_i`: a shape and a seed. */
START_TEST(lookups_in_random_tables_agree_with_a_decoder_of_single_subclusters)
{
    const struct shape *shape = &shapes[_i % SHAPES];
    uint64_t state = (uint64_t)(_i + 1) * UINT64_C(0x9e3779b97f4a7c15), size;
    struct mapping_case mapping_case;
    unsigned counts[5] = {0};

    mapping_case_open(&mapping_case, draw_image(shape, &state), UINT64_C(512) << draw(&state, 4));
    size = CLUSTERS << shape->cluster_bits;
    for (unsigned i = 0; i < LOOKUPS; i++) {
        uint64_t guest_offset = draw(&state, size + 4096);

        if (i % 2 == 0) {
            guest_offset &= ~UINT64_C(511);
        }
        compare(&mapping_case, guest_offset, draw(&state, size) + 1, counts);
    }
    ck_assert_uint_gt(counts[EXTENT_UNALLOCATED], 0);
    ck_assert_uint_gt(counts[EXTENT_DATA], 0);
    ck_assert_uint_gt(counts[4], 0);
    mapping_case_close(&mapping_case);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mapping, random tables");
    TCase *tcase = tcase_create("random");

    tcase_add_loop_test(tcase, lookups_in_random_tables_agree_with_a_decoder_of_single_subclusters,
                        0, SHAPES * SEEDS);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
