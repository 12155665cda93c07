/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/create.h"

#include "meta/format.h"
#include "meta/refcount_block.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Written, reserved or zeroed at a time: then the progress is told, and a stop asked for. */
#define STEP_SIZE                 (UINT64_C(4) << 20)
#define RESERVE_SIZE              (UINT64_C(1) << 30)
#define SUBCLUSTERS_ALL_ALLOCATED UINT64_C(0x00000000ffffffff)

struct work {
    const struct create_plan *plan;
    const struct header *header;
    const struct create_target *target;
    struct error *error;
    uint8_t *buffer; /* of buffer_size bytes */
    size_t buffer_size;
    uint64_t done, total; /* bytes, for the progress */
};

/* --- What all steps share ------------------------------------------------------------- */

static int failed(const struct work *work, const char *name, const char *what, int result)
{
    if (result == -EINTR) {
        return result;
    }
    if (result == -ENOSPC || result == -EDQUOT) {
        return error_set(work->error, -result,
                         "%s: %s: %s; make room there, or use less preallocation", name, what,
                         strerror(-result));
    }
    return error_set(work->error, -result, "%s: %s: %s", name, what, strerror(-result));
}

static int advance(struct work *work, uint64_t bytes)
{
    const struct create_target *target = work->target;

    work->done += bytes;
    if (target->progress != NULL) {
        target->progress(target->context, work->done, work->total);
    }
    return target->stop != NULL && target->stop(target->context) ? -EINTR : 0;
}

/* One step of a long range of a store. */
typedef int (*range_step)(struct work *work, struct store *store, uint64_t offset, uint64_t length);

static int in_steps(struct work *work, struct store *store, uint64_t offset, uint64_t length,
                    uint64_t step, range_step act)
{
    int result = 0;

    while (length > 0 && result == 0) {
        uint64_t part = min_u64(length, step);

        result = act(work, store, offset, part);
        if (result == 0) {
            result = advance(work, part);
        }
        offset += part;
        length -= part;
    }
    return result;
}

static int write_zeros(struct work *work, struct store *store, uint64_t offset, uint64_t length)
{
    while (length > 0) {
        size_t part = (size_t)min_u64(length, work->buffer_size);
        int result;

        memset(work->buffer, 0, part);
        result = store_write(store, offset, work->buffer, part);
        if (result < 0) {
            return result;
        }
        offset += part;
        length -= part;
    }
    return 0;
}

static int reserve(struct work *work, struct store *store, uint64_t offset, uint64_t length)
{
    (void)work;
    return store_allocate(store, offset, length);
}

static int punch(struct work *work, struct store *store, uint64_t offset, uint64_t length)
{
    (void)work;
    return store_punch(store, offset, length);
}

/* --- The guest's data ------------------------------------------------------------------- */

/*
 * Space for data that reads as zeros. `holds_other`: the store shows other
 * bytes there, so that reserving is not enough.
 */
static int prepare_data(struct work *work, struct store *store, uint64_t offset, uint64_t length,
                        bool holds_other)
{
    uint64_t before = work->done;
    int result = -EOPNOTSUPP;

    if (work->plan->preallocation == PREALLOCATION_FULL) {
        return in_steps(work, store, offset, length, STEP_SIZE, write_zeros);
    }
    if (holds_other) {
        return in_steps(work, store, offset, length, RESERVE_SIZE, punch);
    }
    if (work->plan->preallocation == PREALLOCATION_FALLOC) {
        result = in_steps(work, store, offset, length, RESERVE_SIZE, reserve);
        if (result == -EOPNOTSUPP) { /* to write it is the other way to have the space */
            work->done = before;
            result = in_steps(work, store, offset, length, STEP_SIZE, write_zeros);
        }
        return result;
    }
    return advance(work, length);
}

/* Makes the data file as long as the disk, and prepares it. */
static int write_data_file(struct work *work)
{
    const struct create_target *target = work->target;
    uint64_t size = work->header->virtual_size;
    struct store_info info;
    int result = store_info(target->data_file, &info);

    if (result == 0 && !target->data_is_device && info.size < size) {
        result = store_resize(target->data_file, size);
    }
    if (result == 0 && !target->keep_data && work->plan->preallocation != PREALLOCATION_OFF) {
        result = prepare_data(work, target->data_file, 0, size, target->data_is_device);
    }
    if (result == 0) {
        result = store_sync(target->data_file);
    }
    return result < 0 ? failed(work, target->data_name, "the data file cannot be made", result) : 0;
}

static int write_data(struct work *work)
{
    const struct create_plan *plan = work->plan;
    int result = 0;

    if (plan->data_clusters > 0 && work->target->data_file == NULL) {
        result = prepare_data(work, work->target->file, plan->data_offset,
                              plan->data_clusters << work->header->cluster_bits,
                              work->target->is_device);
    }
    return result;
}

/* --- Tables, each from a function of the number of its entry ------------------------------- */

struct table {
    uint64_t offset;  /* host offset, bytes */
    uint64_t entries; /* that are not zero; what follows of its clusters is */
    uint64_t clusters;
    uint32_t entry_bytes;
    void (*fill)(const struct work *work, uint8_t *entry, uint64_t index);
};

static void fill_l2(const struct work *work, uint8_t *entry, uint64_t index)
{
    const struct header *header = work->header;
    uint64_t host_offset = work->plan->data_offset + (index << header->cluster_bits);

    /* What the file has there is zeros, but not of an encrypted disk. */
    bool zero = header->crypt_method != CRYPT_NONE && !header->extended_l2;

    store_be64(entry, host_offset | ENTRY_COPIED | (zero ? L2_ENTRY_ZERO : 0));
    if (header->extended_l2) {
        /* Without a raw data file, nothing is allocated of the cluster yet: what is below shows. */
        bool raw = (header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0;

        store_be64(entry + L2_ENTRY_BYTES, raw ? SUBCLUSTERS_ALL_ALLOCATED : 0);
    }
}

static void fill_l1(const struct work *work, uint8_t *entry, uint64_t index)
{
    uint64_t table = work->plan->l2_offset + (index << work->header->cluster_bits);

    store_be64(entry, work->plan->l2_tables > 0 ? table | ENTRY_COPIED : 0);
}

static void fill_refcount_table(const struct work *work, uint8_t *entry, uint64_t index)
{
    const struct header *header = work->header;
    uint64_t first = 1 + (uint64_t)header->refcount_table_clusters;

    store_be64(entry, (first + index) << header->cluster_bits);
}

/* Writes all clusters of a table, in pieces as large as the buffer. */
static int write_table(struct work *work, const struct table *table)
{
    uint64_t length = table->clusters << work->header->cluster_bits, at = 0;
    uint64_t index = 0;
    int result = 0;

    while (at < length && result == 0) {
        size_t part = (size_t)min_u64(length - at, work->buffer_size);

        memset(work->buffer, 0, part);
        for (size_t i = 0; i < part && index < table->entries; i += table->entry_bytes) {
            table->fill(work, work->buffer + i, index++);
        }
        result = store_write(work->target->file, table->offset + at, work->buffer, part);
        at += part;
        if (result == 0) {
            result = advance(work, part);
        }
    }
    return result;
}

/* Every cluster of the file is used once. */
static int write_refcount_blocks(struct work *work)
{
    const struct header *header = work->header;
    uint64_t counts = (header->cluster_size * 8) >> header->refcount_order;
    uint64_t left = work->plan->file_size >> header->cluster_bits, block;
    uint64_t first = 1 + (uint64_t)header->refcount_table_clusters;
    int result = 0;

    for (block = 0; block < work->plan->refcount_blocks && result == 0; block++) {
        uint64_t used = min_u64(left, counts);

        memset(work->buffer, 0, in_memory(header->cluster_size));
        for (uint64_t i = 0; i < used; i++) {
            refcount_store(work->buffer, i, header->refcount_order, 1);
        }
        left -= used;
        result = store_write(work->target->file, (first + block) << header->cluster_bits,
                             work->buffer, in_memory(header->cluster_size));
        if (result == 0) {
            result = advance(work, header->cluster_size);
        }
    }
    return result;
}

/* All of its last cluster, where a device may hold something else. */
static int write_crypt_header(struct work *work)
{
    const struct header *header = work->header;
    struct store *file = work->target->file;
    uint64_t length = header->crypt_header_length;
    uint64_t rest = div_round_up(length, header->cluster_size) * header->cluster_size - length;
    int result = length == 0 ? 0
                             : store_write(file, header->crypt_header_offset,
                                           work->target->crypt_header, (size_t)length);

    if (result == 0 && work->target->is_device) {
        result = write_zeros(work, file, header->crypt_header_offset + length, rest);
    }
    return result;
}

static int write_tables(struct work *work)
{
    const struct create_plan *plan = work->plan;
    const struct header *header = work->header;
    const struct table l2 = {plan->l2_offset, plan->data_clusters, plan->l2_tables,
                             header->l2_entry_bytes, fill_l2};
    const struct table l1 = {header->l1_offset, header->l1_entries, plan->l1_clusters,
                             L1_ENTRY_BYTES, fill_l1};
    const struct table refcount = {header->refcount_table_offset, plan->refcount_blocks,
                                   header->refcount_table_clusters, REFCOUNT_TABLE_ENTRY_BYTES,
                                   fill_refcount_table};
    int result = write_table(work, &l2);

    /* A new file is all zeros: that is an L1 table without L2 tables. */
    if (result == 0 && (plan->l2_tables > 0 || work->target->is_device)) {
        result = write_table(work, &l1);
    }
    if (result == 0) {
        result = write_crypt_header(work);
    }
    if (result == 0) {
        result = write_refcount_blocks(work);
    }
    if (result == 0) {
        result = write_table(work, &refcount);
    }
    return result;
}

/* --- All of it ------------------------------------------------------------------------------ */

/* On a device: from here on there is no image, neither an old nor a new one. */
static int erase_header(struct work *work)
{
    int result = write_zeros(work, work->target->file, 0, work->header->cluster_size);

    return result < 0 ? result : store_sync(work->target->file);
}

static int write_file(struct work *work)
{
    struct store *file = work->target->file;
    int result = work->target->is_device ? erase_header(work) : 0;

    if (result == 0) {
        result = write_data(work);
    }
    if (result == 0 && !work->target->is_device) {
        result = store_resize(file, work->plan->file_size);
    }
    if (result == 0) {
        result = write_tables(work);
    }
    if (result == 0) {
        result = store_sync(file); /* R3 */
    }
    if (result == 0) {
        result = store_write(file, 0, work->plan->first_cluster, work->plan->first_length);
    }
    if (result == 0) {
        result = store_sync(file);
    }
    return result < 0 ? failed(work, work->target->name, "the image cannot be made", result) : 0;
}

static uint64_t bytes_to_do(const struct create_plan *plan)
{
    uint64_t tables = plan->header.refcount_table_clusters + plan->refcount_blocks +
                      plan->l2_tables + (plan->l2_tables > 0 ? plan->l1_clusters : 0);

    return (tables + plan->data_clusters) << plan->header.cluster_bits;
}

int create_write(const struct create_plan *plan, const struct create_target *target,
                 struct error *error)
{
    struct work work = {
        .plan = plan,
        .header = &plan->header,
        .target = target,
        .error = error,
        .buffer_size = (size_t)max_u64(plan->header.cluster_size, UINT64_C(1) << 20),
        .total = bytes_to_do(plan),
    };
    int result = 0;

    work.buffer = malloc(work.buffer_size);
    if (work.buffer == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", target->name);
    }
    if (target->data_file != NULL) {
        result = write_data_file(&work);
    }
    if (result == 0) {
        result = write_file(&work);
    }
    free(work.buffer);
    return result;
}
