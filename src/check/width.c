/* SPDX-License-Identifier: MIT */
/*
 * Refcounts of another width: all references are counted anew, and written as
 * a new refcount table with new blocks, which one write of the header brings
 * into force together with their width. The old ones are free from then on.
 */
#include "config.h"

#include "check/internal.h"
#include "meta/format.h"
#include "meta/refcount_block.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static int open_counts(struct check *check)
{
    int result = check_open(check);

    if (result == 0 && check->block_device) {
        result = error_set(check->error, ENOTSUP,
                           "%s: lies on a block device, where new refcounts may have no room; copy "
                           "it to a file first",
                           check->name);
    }
    if (result == 0) {
        check->work_total -= check->header->l1_entries; /* its tables are walked once */
    }
    return result;
}

/* Whether every number of references can be written with the new width. */
static int check_fits(const struct check *check, uint32_t order)
{
    uint64_t cluster = check_counts_next(check->counts, 0, check->limit);

    while (cluster < check->limit) {
        uint64_t count = check_counts_get(check->counts, cluster);

        if (count > refcount_max(order)) {
            return error_set(check->error, ERANGE,
                             "%s: the cluster at 0x%" PRIx64 " is referred to %" PRIu64
                             " times, more than refcounts of %u bits can say; use a larger "
                             "refcount_bits, or delete snapshots",
                             check->name, cluster << check->header->cluster_bits, count,
                             1U << order);
        }
        cluster = check_counts_next(check->counts, cluster + 1, check->limit);
    }
    return 0;
}

static int count_all(struct check *check)
{
    int result = open_counts(check);

    if (result == 0) {
        result = check_count_references(check, false);
    }
    if (result == 0 && (check->result->errors > 0 || check->result->unreadable > 0)) {
        result = error_set(check->error, EUCLEAN,
                           "%s: is damaged, its references cannot all be counted; repair it first "
                           "with qcow2ctl check --repair=all",
                           check->name);
    }
    return result;
}

int check_change_width(struct header *header, struct store *file, const char *name, uint32_t order,
                       const struct check_options *options, struct error *error)
{
    struct header changed = *header;
    struct check_result found = {0};
    struct check check = {
        .header = &changed,
        .file = file,
        .name = name,
        .options = options,
        .result = &found,
        .error = error,
    };
    int result;

    changed.refcount_order = REFCOUNT_ORDER_MAX; /* nothing is too much while it is counted */
    result = count_all(&check);
    if (result == 0) {
        result = check_fits(&check, order);
    }
    if (result == 0) {
        result = check_clear_unknown(&check); /* R6: it is free with the new counts */
        header->autoclear_features = changed.autoclear_features;
    }
    if (result == 0) {
        changed.refcount_order = order;
        check.block_counts = changed.cluster_size * 8 >> order;
        result = check_rebuild(&check, check.limit);
    }
    if (result == 0) {
        header->refcount_order = order;
        header->refcount_table_offset = changed.refcount_table_offset;
        header->refcount_table_clusters = changed.refcount_table_clusters;
    }
    check_close(&check);
    return result;
}
