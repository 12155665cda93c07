/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "write_case.h"

#include "meta/format.h"
#include "util/bytes.h"

#include <check.h>
#include <string.h>

#define POOL_BUDGET (UINT64_C(1) << 20)

struct builder_options write_case_options(void)
{
    struct builder_options options = builder_defaults();

    options.cluster_bits = 9;
    options.virtual_size = UINT64_C(1) << 20;
    return options;
}

static void count_wanted(void *context)
{
    struct write_case *write_case = context;

    write_case->fills_wanted++;
}

static void open_writers(struct write_case *write_case, bool discard)
{
    struct mapping_case *image = &write_case->image;
    struct refcounts_source counts = {
        .header = image->header,
        .file = image->file,
        .pool = write_case->counts,
        .barrier = write_case->barrier,
        .gate = write_case->gate,
        .owner = 3,
    };
    struct allocator_source allocator = {
        .header = image->header,
        .file = image->file,
        .gate = write_case->gate,
        .barrier = write_case->barrier,
        .fill_wanted = count_wanted,
        .fill_context = write_case,
        .discard = discard,
    };
    struct commit_source commit = {
        .mapping = image->mapping,
        .gate = write_case->gate,
        .l2 = image->l2,
        .barrier = write_case->barrier,
        .inflight = &write_case->inflight,
        .next_commit = &write_case->next_commit,
    };
    struct error error = {0};
    int result = refcounts_open(&counts, "image", &write_case->refcounts, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    allocator.refcounts = write_case->refcounts;
    ck_assert_int_eq(allocator_create(&allocator, &write_case->allocator), 0);
    commit.allocator = write_case->allocator;
    ck_assert_int_eq(commit_create(&commit, &write_case->commit), 0);
    ck_assert_int_eq(mapping_set_writer(image->mapping, write_case->allocator, write_case->barrier,
                                        write_case->gate, &write_case->next_commit),
                     0);
}

void write_case_open(struct write_case *write_case, struct builder *builder, bool discard)
{
    struct mapping_case *image = &write_case->image;

    memset(write_case, 0, sizeof(*write_case));
    mapping_case_open(image, builder, builder_cluster_size(builder));
    write_case->file = image->file;
    write_case->before =
        memory_store_from(memory_store_data(image->file), memory_store_size(image->file));
    write_case->log = memory_log_create();
    memory_store_set_log(image->file, write_case->log);
    ck_assert_int_eq(
        cache_pool_create(POOL_BUDGET, image->header->cluster_size, &write_case->counts), 0);
    ck_assert_int_eq(barrier_create(image->file, image->data_file, false, &write_case->barrier), 0);
    ck_assert_int_eq(gate_create(image->header, image->file, &write_case->gate), 0);
    atomic_init(&write_case->next_commit, 1);
    open_writers(write_case, discard);
}

void write_case_close(struct write_case *write_case)
{
    commit_destroy(write_case->commit);
    allocator_destroy(write_case->allocator);
    refcounts_close(write_case->refcounts);
    gate_destroy(write_case->gate);
    cache_pool_destroy(write_case->counts);
    mapping_case_close(&write_case->image);
    barrier_destroy(write_case->barrier);
    store_close(write_case->before);
    memory_log_destroy(write_case->log);
}

static uint64_t load(struct store *image, uint64_t offset, size_t bytes)
{
    uint8_t raw[8];
    uint64_t value = 0;

    ck_assert_int_eq(store_read(image, offset, raw, bytes), 0);
    for (size_t i = 0; i < bytes; i++) {
        value = value << 8 | raw[i];
    }
    return value;
}

uint64_t write_case_count(struct store *image, const struct header *header, uint64_t cluster)
{
    uint64_t table = load(image, HEADER_REFCOUNT_TABLE_OFFSET, 8);
    uint64_t clusters = load(image, HEADER_REFCOUNT_TABLE_CLUSTERS, 4);
    uint64_t counts = header->cluster_size / 2, block; /* of 16 bits */

    ck_assert_uint_eq(header->refcount_order, 4);
    if (cluster / counts >= clusters * header->cluster_size / 8) {
        return 0;
    }
    block = load(image, table + cluster / counts * 8, 8);
    return block == 0 ? 0 : load(image, block + cluster % counts * 2, 2);
}

uint64_t write_case_counted(struct write_case *write_case, uint64_t host_offset)
{
    uint64_t count;

    ck_assert_int_eq(refcounts_get(write_case->refcounts,
                                   host_offset >> write_case->image.header->cluster_bits, &count),
                     0);
    return count;
}
