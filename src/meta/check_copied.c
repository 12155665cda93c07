/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/check_internal.h"
#include "meta/format.h"

#include <inttypes.h>

/*
 * "COPIED: 0 for clusters that are unused, compressed or require COW, 1 for
 * those whose refcount is exactly one". Only the active state has to keep it.
 */
static bool wrong_copied(const struct check *check, uint64_t entry, uint64_t host_offset)
{
    uint64_t cluster = host_offset >> check->header->cluster_bits;

    return l2_entry_is_copied(entry) != (check_counts_get(check->counts, cluster) == 1);
}

static void found_wrong(struct check *check, const char *what, uint64_t index, uint64_t entry)
{
    check->wrong_copied++;
    check_found(check, CHECK_ERROR,
                "%s %" PRIu64 " (0x%016" PRIx64 ") has the COPIED bit %s, which is wrong", what,
                index, entry, l2_entry_is_copied(entry) ? "set" : "clear");
}

static int check_l1_entry(struct check *check, uint64_t index, uint64_t *entry, bool *changed)
{
    uint64_t table = l1_entry_table(*entry);

    if (table == 0) {
        return 0;
    }
    if (wrong_copied(check, *entry, table)) {
        found_wrong(check, "L1 entry", index, *entry);
        *changed = check->plan.copied;
        *entry ^= check->plan.copied ? ENTRY_COPIED : 0;
    }
    return table < check->file_size;
}

static bool wrong_in_l2(const struct check *check, uint64_t entry)
{
    if (l2_entry_is_compressed(entry) || !check_has_host_cluster(check->header, entry)) {
        return false;
    }
    if (check->header->external_data_file) {
        return !l2_entry_is_copied(entry); /* nothing else can refer to a cluster there */
    }
    return wrong_copied(check, entry, l2_entry_host_offset(entry));
}

static int check_l2_table(struct check *check, uint64_t host_offset, uint8_t *table,
                          struct check_dirty *dirty)
{
    const struct header *header = check->header;
    size_t at;

    (void)host_offset;
    for (at = 0; at < header->cluster_size; at += header->l2_entry_bytes) {
        uint64_t entry = load_be64(table + at);

        if (!wrong_in_l2(check, entry)) {
            continue;
        }
        found_wrong(check, "L2 entry of data cluster",
                    l2_entry_host_offset(entry) >> header->cluster_bits, entry);
        if (check->plan.copied) {
            store_be64(table + at, entry ^ ENTRY_COPIED);
            check_dirty_add(dirty, at, L2_ENTRY_BYTES);
        }
    }
    return 0;
}

static const struct check_visitor visitor = {
    .l1_entry = check_l1_entry,
    .l2_table = check_l2_table,
};

int check_copied_bits(struct check *check)
{
    const struct header *header = check->header;
    int result = check_walk(check, header->l1_offset, header->l1_entries, &visitor);

    if (result == 0 && check->plan.copied && check->wrong_copied > 0) {
        result = check_sync(check);
        check->result->fixed_errors += check->wrong_copied;
    }
    return result;
}
