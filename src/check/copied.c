/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "check/internal.h"
#include "meta/format.h"

#include <inttypes.h>

/*
 * "COPIED: 0 for clusters that are unused, compressed or require COW, 1 for
 * those whose refcount is exactly one". Only the active state has to keep it.
 */
static bool wrong_copied(const struct check *check, uint64_t entry, uint64_t host_offset)
{
    uint64_t cluster = host_offset >> check->header->cluster_bits;
    uint64_t count = cluster < check->limit ? check_counts_get(check->counts, cluster)
                                            : check_stored_count(check, cluster);

    return l2_entry_is_copied(entry) != (count == 1);
}

/* Whether the entry, which has the wrong COPIED bit, is to get the other. */
static bool corrected(struct check *check)
{
    check->corrected_copied += check->plan.copied;
    return check->plan.copied;
}

/* Whether something else refers to that cluster, too: not where only its count is too high. */
static bool is_shared(const struct check *check, uint64_t host_offset)
{
    uint64_t cluster = host_offset >> check->header->cluster_bits;

    return cluster < check->limit && check_counts_get(check->counts, cluster) > 1 &&
           (check->leaked == NULL || check_counts_get(check->leaked, cluster) == 0);
}

/* The same, of one that is a finding, and names what is at host_offset. */
static bool found_wrong(struct check *check, const char *what, uint64_t index, uint64_t entry,
                        uint64_t host_offset)
{
    if (l2_entry_is_copied(entry) && is_shared(check, host_offset)) {
        check->falsely_copied += check->weight;
    }
    check_found(check, CHECK_ERROR,
                "%s %" PRIu64 " (0x%016" PRIx64 ") has the COPIED bit %s, which is wrong", what,
                index, entry, l2_entry_is_copied(entry) ? "set" : "clear");
    return corrected(check);
}

static int check_l1_entry(struct check *check, uint64_t index, uint64_t *entry, bool *changed)
{
    uint64_t table = l1_entry_table(*entry);

    if (table == 0) {
        return 0;
    }
    if (wrong_copied(check, *entry, table) &&
        found_wrong(check, "L1 entry", index, *entry, table)) {
        *changed = true;
        *entry ^= ENTRY_COPIED;
    }
    return table < check->file_size;
}

/* Whether the entry is to get the other COPIED bit. */
static bool check_l2_entry(struct check *check, uint64_t entry)
{
    const struct header *header = check->header;
    uint64_t host_offset = l2_entry_host_offset(entry);
    bool wrong;

    if (l2_entry_is_compressed(entry)) {
        /* That it is set was found when the references were counted. */
        return l2_entry_is_copied(entry) && !header->external_data_file && corrected(check);
    }
    if (!check_has_host_cluster(header, entry)) {
        return false;
    }
    if (header->external_data_file) {
        wrong = !l2_entry_is_copied(entry); /* nothing else can refer to a cluster there */
    } else {
        wrong = wrong_copied(check, entry, host_offset);
    }
    return wrong && found_wrong(check, "L2 entry of data cluster",
                                host_offset >> header->cluster_bits, entry, host_offset);
}

static int check_l2_table(struct check *check, uint64_t host_offset, uint8_t *table,
                          struct check_dirty *dirty)
{
    const struct header *header = check->header;
    size_t at;

    (void)host_offset;
    for (at = 0; at < header->cluster_size; at += header->l2_entry_bytes) {
        uint64_t entry = load_be64(table + at);

        if (check_l2_entry(check, entry)) {
            store_be64(table + at, entry ^ ENTRY_COPIED);
            check_dirty_add(dirty, at, L2_ENTRY_BYTES);
        }
    }
    return 0;
}

static const struct check_visitor visitor = {
    .active = true,
    .l1_entry = check_l1_entry,
    .l2_table = check_l2_table,
};

int check_copied_bits(struct check *check)
{
    const struct header *header = check->header;
    int result = check_walk_begin(check);

    if (result == 0) {
        result = check_walk(check, header->l1_offset, header->l1_entries, &visitor);
    }
    if (result == 0 && !check->plan.copied) { /* otherwise they are corrected */
        result = check_walk_again(check, true, &visitor);
    }
    check_walk_end(check);

    if (result == 0 && check->corrected_copied > 0) {
        result = check_sync(check);
        check->result->fixed_errors += check->corrected_copied;
    }
    return result;
}
