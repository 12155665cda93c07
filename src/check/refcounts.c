/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "check/internal.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "util/checked.h"
#include "util/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- The refcount table ------------------------------------------------------------ */

/* The host offset of the block that entry `index` names; 0 where that can be none. */
static uint64_t sound_block(struct check *check, uint64_t index, uint64_t entry)
{
    const struct header *header = check->header;
    uint64_t block = entry & ~REFCOUNT_TABLE_ENTRY_RESERVED;
    const char *problem = NULL;

    if (block != entry) {
        problem = "has reserved bits set";
    } else if (block % header->cluster_size != 0) {
        problem = "is not the start of a cluster";
    } else if (block >= check->file_size) {
        problem = "lies past the end of the file";
    }
    if (problem == NULL || entry == 0) {
        return block;
    }
    check->unsound_blocks++;
    check_found(check, CHECK_ERROR, "entry %" PRIu64 " of the refcount table, 0x%016" PRIx64 ", %s",
                index, entry, problem);
    return 0;
}

/* Why there can be no refcount table where the header says that it is; NULL: there can. */
static const char *impossible_table(const struct check *check, uint64_t size)
{
    const struct header *header = check->header;

    if (size > HEADER_REFCOUNT_TABLE_SIZE_MAX) {
        return "it takes at most 8 MiB";
    }
    if (size == 0) {
        return NULL; /* the lack of every count is a finding */
    }
    if (header->refcount_table_offset % header->cluster_size != 0) {
        return "it begins where a cluster does";
    }
    return header->refcount_table_offset >= check->file_size ? "it lies in the file" : NULL;
}

/* One that is not there has no blocks. */
static uint64_t table_size(struct check *check)
{
    const struct header *header = check->header;
    uint64_t size = (uint64_t)header->refcount_table_clusters << header->cluster_bits;
    const char *rule = impossible_table(check, size);

    check->table_outside = rule == NULL && size >= header->cluster_size + check->file_size -
                                                       header->refcount_table_offset;
    if (check->table_outside) {
        rule = "it lies in the file";
    }
    if (rule != NULL) {
        check->unsound_blocks++;
        check_found(check, CHECK_ERROR,
                    "the refcount table cannot be at 0x%" PRIx64 ", in %" PRIu32 " clusters: %s",
                    header->refcount_table_offset, header->refcount_table_clusters, rule);
    }
    return rule == NULL || check->table_outside ? size : 0;
}

int check_open_refcounts(struct check *check)
{
    const struct header *header = check->header;
    uint64_t size = table_size(check), i;
    int result;

    check->table_entries = size / REFCOUNT_TABLE_ENTRY_BYTES;
    check->block_counts = header->cluster_size * 8 >> header->refcount_order;
    check->blocks = malloc(in_memory(size + 1));
    if (check->blocks == NULL) {
        return check_failed(check, -ENOMEM, "reading the refcount table");
    }
    memory_map(check->blocks, in_memory(size));
    result = store_read(check->file, header->refcount_table_offset, check->blocks, in_memory(size));
    if (result < 0) {
        check_found(check, CHECK_UNREADABLE, "the refcount table cannot be read: %s",
                    strerror(-result));
        memset(check->blocks, 0, in_memory(size));
    }
    for (i = 0; i < check->table_entries; i++) {
        check->blocks[i] = sound_block(check, i, load_be64(&check->blocks[i]));
    }
    return 0;
}

void check_find_missing_blocks(struct check *check)
{
    uint64_t cluster = 0;

    while (cluster < check->limit) {
        uint64_t index = cluster / check->block_counts;
        uint64_t end = min_u64((index + 1) * check->block_counts, check->limit);

        if ((index >= check->table_entries || check->blocks[index] == 0) &&
            check_counts_next(check->counts, cluster, end) < end) {
            check->missing_blocks = true;
            return;
        }
        cluster = end;
    }
}

uint64_t check_stored_count(const struct check *check, uint64_t cluster)
{
    uint64_t index = cluster / check->block_counts, at = cluster % check->block_counts;
    uint32_t order = check->header->refcount_order;
    uint64_t in_group = at % CHECK_COUNTS_GROUP;
    uint8_t group[CHECK_COUNTS_GROUP * sizeof(uint64_t)];

    if (index >= check->table_entries || check->blocks[index] == 0 ||
        store_read(check->file, check->blocks[index] + ((at - in_group) << order) / 8, group,
                   ((size_t)CHECK_COUNTS_GROUP << order) / 8) < 0) {
        return 0;
    }
    return refcount_load(group, in_group, order);
}

/* --- All blocks, one after the other ----------------------------------------------- */

/* What is done with a block of the file, and with its copy in memory, which may be changed. */
typedef int block_fn(struct check *check, uint64_t index, uint8_t *block);

static int visit_run(struct check *check, uint64_t index, size_t *read, block_fn *visit)
{
    size_t i;
    int result = check_go_on(check);

    *read = 1;
    if (result < 0) {
        return result;
    }
    result =
        check_read_run(check, check->blocks + index, in_memory(check->table_entries - index), read);
    if (result == -ENOMEM) {
        return check_failed(check, result, "reading refcount blocks");
    }
    if (result < 0) {
        check_found(check, CHECK_UNREADABLE,
                    "refcount block %" PRIu64 " at 0x%" PRIx64 " cannot be read: %s", index,
                    check->blocks[index], strerror(-result));
        *read = 1;
        return 0;
    }
    for (i = 0; i < *read && result == 0; i++) {
        result = visit(check, index + i, check->buffer + (i << check->header->cluster_bits));
    }
    return result;
}

/*
 * A block of counts that are all past the end of the file is read to see that it can be, and to
 * lower what it says; but once, where many entries name it, and not at all where it is a hole.
 */
static int is_needless(struct check *check, struct check_counts *seen, uint64_t index)
{
    uint64_t size = check->header->cluster_size, block = check->blocks[index];
    uint64_t cluster = block >> check->header->cluster_bits;
    int result;

    if (index < div_round_up(check->limit, check->block_counts)) {
        return 0;
    }
    if (check_counts_get(seen, cluster) > 0 || check_hole(check, block, size) == size) {
        return 1;
    }
    result = check_counts_set(seen, cluster, 1);
    return result < 0 ? check_failed(check, result, "reading refcount blocks") : 0;
}

static int visit_blocks(struct check *check, block_fn *visit)
{
    struct check_counts *seen;
    uint64_t index = 0;
    int result = check_counts_create(check->limit + 1, &seen);

    check_holes_forget(check); /* a repair may have written there */
    if (result < 0) {
        return check_failed(check, result, "reading refcount blocks");
    }
    while (index < check->table_entries && result == 0) {
        size_t read = 1;

        if (check->blocks[index] != 0) {
            result = is_needless(check, seen, index);
            if (result == 0) {
                result = visit_run(check, index, &read, visit);
            } else if (result > 0) {
                result = 0;
            }
        }
        index += read;
    }
    check_counts_destroy(seen);
    return result;
}

/* --- Comparing --------------------------------------------------------------------- */

/* Clusters that follow each other with the same finding: one line. */
struct mismatch {
    uint64_t first, length;
    uint64_t stored, counted;
};

static void report_mismatch(struct check *check, const struct mismatch *mismatch)
{
    bool leak = mismatch->stored > mismatch->counted;
    void (*report)(void *, enum check_finding, const char *) = check->options->report;
    enum check_finding finding = leak ? CHECK_LEAK : CHECK_ERROR;
    char line[160];

    if (mismatch->length == 0) {
        return;
    }
    if (leak) {
        check->result->leaks += mismatch->length;
        check->too_high += mismatch->length;
    } else {
        check->result->errors += mismatch->length;
        check->too_low += mismatch->length;
    }
    if (report == NULL) {
        return;
    }
    snprintf(line, sizeof(line),
             "clusters %" PRIu64 " to %" PRIu64 ": refcount %" PRIu64 ", references %" PRIu64
             " each%s",
             mismatch->first, mismatch->first + mismatch->length - 1, mismatch->stored,
             mismatch->counted, leak ? " (leaked)" : "");
    report(check->options->context, finding, line);
}

static void add_mismatch(struct check *check, struct mismatch *run, uint64_t cluster,
                         uint64_t stored, uint64_t counted)
{
    if (run->length > 0 && run->first + run->length == cluster && run->stored == stored &&
        run->counted == counted) {
        run->length++;
        return;
    }
    report_mismatch(check, run);
    *run = (struct mismatch){cluster, 1, stored, counted};
}

/* Keeps, of a count that is not to be repaired, what the file says. */
static int keep_stored(struct check *check, uint64_t cluster, uint64_t stored, uint64_t counted)
{
    bool repaired = stored > counted ? check->plan.lower : check->plan.raise;
    int result = 0;

    if (repaired || check->plan.rebuild) {
        return 0;
    }
    if (stored > 1 && counted == 1 && check->leaked == NULL) {
        result = check_counts_create(check->limit + 1, &check->leaked);
    }
    if (stored > 1 && counted == 1 && result == 0) {
        result = check_counts_set(check->leaked, cluster, 1);
    }
    if (result == 0) {
        result = check_counts_set(check->counts, cluster, stored);
    }
    return result < 0 ? check_failed(check, result, "comparing refcounts") : 0;
}

/* While a block is compared. */
struct comparison {
    struct check *check;
    const uint8_t *block; /* NULL where the file has none: all its counts are 0 */
    uint64_t first;       /* the cluster of its first count */
    uint64_t highest;     /* behind the last cluster in use, 0: none */
    struct mismatch run;
};

/* Not a finding of its own where the count of the cluster is one. */
static void found_overlap(struct check *check, uint64_t cluster, uint64_t stored, uint64_t counted)
{
    check->result->overlaps++;
    if (stored == counted) {
        check_found(check, CHECK_ERROR,
                    "cluster %" PRIu64 " holds a table, and is referred to as something else",
                    cluster);
    }
}

static int compare_count(struct comparison *comparison, uint64_t cluster)
{
    struct check *check = comparison->check;
    uint64_t counted = check_counts_get(check->counts, cluster), stored = 0;

    if (comparison->block != NULL) {
        stored = refcount_load(comparison->block, cluster - comparison->first,
                               check->header->refcount_order);
    }
    if ((stored | counted) != 0) {
        comparison->highest = cluster + 1;
    }
    if (counted > 1 && check_counts_get(check->exclusive, cluster) > 1) {
        found_overlap(check, cluster, stored, counted);
    }
    if (stored == counted) {
        return 0;
    }
    check->counts_wrong |= counted != 0;
    add_mismatch(check, &comparison->run, cluster, stored, counted);
    return keep_stored(check, cluster, stored, counted);
}

/*
 * Whether the 64 counts from `cluster` on are as they were counted, where that
 * is the same for all of them.
 */
static bool group_is_right(struct comparison *comparison, uint64_t cluster)
{
    const struct check *check = comparison->check;
    uint32_t order = check->header->refcount_order;
    size_t bytes = ((size_t)CHECK_COUNTS_GROUP << order) / 8;
    const uint8_t *stored = comparison->block + ((cluster - comparison->first) << order) / 8;

    switch (check_counts_group(check->counts, cluster)) {
    case CHECK_COUNTS_ZERO:
        return memcmp(stored, check->all_zero, bytes) == 0;
    case CHECK_COUNTS_ONE:
        if (memcmp(stored, check->all_one, bytes) != 0) {
            return false;
        }
        comparison->highest = cluster + CHECK_COUNTS_GROUP;
        return true;
    case CHECK_COUNTS_MIXED:
        break;
    }
    return false;
}

static int compare_block(struct check *check, uint64_t index, uint8_t *block)
{
    uint64_t cluster = index * check->block_counts;
    uint64_t end = min_u64(cluster + check->block_counts, check->limit);
    struct comparison comparison = {.check = check, .block = block, .first = cluster};
    int result = 0;

    while (cluster < end && result == 0) {
        uint64_t group_end = min_u64(cluster + CHECK_COUNTS_GROUP, end);

        if (block != NULL && group_end - cluster == CHECK_COUNTS_GROUP &&
            group_is_right(&comparison, cluster)) {
            cluster = group_end;
        }
        for (; cluster < group_end && result == 0; cluster++) {
            result = compare_count(&comparison, cluster);
        }
    }
    report_mismatch(check, &comparison.run);
    check->result->image_end_offset =
        max_u64(check->result->image_end_offset, comparison.highest << check->header->cluster_bits);
    return result;
}

/* What something refers to, though no block counts it. */
static int compare_missing_blocks(struct check *check)
{
    uint64_t cluster = check_counts_next(check->counts, 0, check->limit);
    int result = 0;

    while (cluster < check->limit && result == 0) {
        uint64_t index = cluster / check->block_counts;

        result = check_go_on(check);
        if (result == 0 && (index >= check->table_entries || check->blocks[index] == 0)) {
            result = compare_block(check, index, NULL);
        }
        cluster = check_counts_next(check->counts, (index + 1) * check->block_counts, check->limit);
    }
    return result;
}

int check_compare(struct check *check)
{
    int result;

    for (uint64_t i = 0; i < CHECK_COUNTS_GROUP; i++) {
        refcount_store(check->all_one, i, check->header->refcount_order, 1);
    }
    result = visit_blocks(check, compare_block);

    return result < 0 || !check->missing_blocks ? result : compare_missing_blocks(check);
}

/* --- Correcting in place ----------------------------------------------------------- */

static int write_counts(struct check *check, uint64_t index, const uint8_t *block,
                        const struct check_dirty *dirty)
{
    int result;

    if (dirty->end == 0) {
        return 0;
    }
    result = store_write(check->file, check->blocks[index] + dirty->begin, block + dirty->begin,
                         dirty->end - dirty->begin);
    return result < 0 ? check_failed(check, result, "writing a refcount block") : 0;
}

/* All counts of the block, also those past the end of the file: nothing refers to these. */
static int correct_block(struct check *check, uint64_t index, uint8_t *block, bool raise)
{
    uint32_t order = check->header->refcount_order;
    uint64_t first = index * check->block_counts, i;
    struct check_dirty dirty = {0};

    for (i = 0; i < check->block_counts; i++) {
        uint64_t stored = refcount_load(block, i, order);
        uint64_t count = check_counts_get(check->counts, first + i);

        if (raise ? stored < count : stored > count) {
            uint64_t begin = (i << order) / 8, end = div_round_up((i + 1) << order, 8);

            refcount_store(block, i, order, count);
            check_dirty_add(&dirty, in_memory(begin), in_memory(end - begin));
        }
    }
    return write_counts(check, index, block, &dirty);
}

static int raise_in_block(struct check *check, uint64_t index, uint8_t *block)
{
    return correct_block(check, index, block, true);
}

static int lower_in_block(struct check *check, uint64_t index, uint8_t *block)
{
    return correct_block(check, index, block, false);
}

int check_correct_counts(struct check *check, bool raise)
{
    uint64_t unreadable = check->result->unreadable;
    int result = visit_blocks(check, raise ? raise_in_block : lower_in_block);

    if (result == 0) {
        result = check_sync(check);
    }
    if (result == 0 && check->result->unreadable != unreadable) {
        /* It could be read a moment ago; what was written is in order. */
        result = check_failed(check, -EIO, "reading a refcount block again");
    }
    return result;
}
