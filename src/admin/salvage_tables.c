/* SPDX-License-Identifier: MIT */
/* The L1 table: where it is, what its entries may be, and how large the disk is by that. */
#include "config.h"

#include "admin/salvage_internal.h"

#include "meta/format.h"
#include "meta/snapshot.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES_MAX (HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES)

#define ORPHANS_COMPARED \
    256 /* tables that are compared with those of snapshots; more would take long */
#define BAD_OR_EMPTY     2 /* of an entry: the whole table was empty, which it may have been */
#define SNAPSHOTS_LOOKED 4 /* the last ones */

struct l1_search {
    struct salvage_work *work;
    uint64_t offset;    /* of the table that is believed */
    uint64_t good, bad; /* of its entries */
    struct snapshot_table *snapshots;
    bool has_vm_state;
    uint64_t deduced, from_snapshots, missing;
};

/* --- Reading one --------------------------------------------------------------------------- */

/* 1: names an L2 table, which is used from here on; 0: empty; -1: leads nowhere; or -ENOMEM. */
static int judge_entry(struct salvage_work *work, uint64_t entry)
{
    uint64_t table = l1_entry_table(entry);
    bool whole;

    if (entry == 0) {
        return 0;
    }
    if ((entry & L1_ENTRY_RESERVED) != 0 || !salvage_is_table(work, table, &whole) ||
        check_counts_get(work->uses, table >> work->header.cluster_bits) == SALVAGE_TABLE) {
        return -1;
    }
    return salvage_use_table(work, table) < 0 ? -ENOMEM : 1;
}

/* The entries at `offset`, as far as they are in the file; of the rest nothing is known. */
static int read_entries(struct salvage_work *work, uint64_t offset, uint64_t entries)
{
    uint8_t *raw = calloc(entries + 1, L1_ENTRY_BYTES);
    uint64_t inside = offset < work->file_size
                          ? min_u64(entries, (work->file_size - offset) / L1_ENTRY_BYTES)
                          : 0;

    free(work->l1);
    free(work->bad);
    work->l1 = calloc(entries + 1, sizeof(*work->l1));
    work->bad = calloc(entries + 1, 1);
    work->header.l1_entries = (uint32_t)entries;
    if (raw == NULL || work->l1 == NULL || work->bad == NULL) {
        free(raw);
        return salvage_no_memory(work);
    }
    if (inside > 0 && store_read(work->file, offset, raw, inside * L1_ENTRY_BYTES) < 0) {
        inside = 0;
    }
    for (uint64_t i = 0; i < entries; i++) {
        work->l1[i] = i < inside ? load_be64(raw + i * L1_ENTRY_BYTES) : 0;
        work->bad[i] = i >= inside;
    }
    free(raw);
    return 0;
}

static int load(struct l1_search *search, uint64_t offset, uint64_t entries)
{
    struct salvage_work *work = search->work;
    int result = read_entries(work, offset, entries);

    search->offset = offset;
    search->good = search->bad = 0;
    for (uint64_t i = 0; i < entries && result == 0; i++) {
        int judged = work->bad[i] ? -1 : judge_entry(work, work->l1[i]);

        result = judged == -ENOMEM ? -ENOMEM : 0;
        work->bad[i] = judged == -1;
        search->good += judged == 1;
        search->bad += judged == -1;
    }
    return result;
}

static bool is_believed(const struct l1_search *search)
{
    return search->offset != 0 && search->good >= search->bad;
}

/* --- How many entries ---------------------------------------------------------------------- */

static uint64_t recorded_size(const struct salvage_work *work)
{
    return work->options->virtual_size != 0 ? work->options->virtual_size
                                            : load_be64(work->first + HEADER_SIZE);
}

static uint64_t needed_entries(const struct salvage_work *work)
{
    uint64_t size = recorded_size(work);
    uint64_t needed = header_l1_entries_for(&work->header, size);

    return size <= INT64_MAX && needed <= ENTRIES_MAX ? needed : 0;
}

static bool is_empty(const struct salvage_work *work, uint64_t begin, uint64_t end)
{
    while (begin < end && work->l1[begin] == 0 && !work->bad[begin]) {
        begin++;
    }
    return begin >= end;
}

static bool has_bad(const struct salvage_work *work, uint64_t begin, uint64_t end)
{
    return begin < end && memchr(work->bad + begin, 1, end - begin) != NULL;
}

/* Where the size of the disk, and that of the table, say different things. */
static void settle_entries(struct salvage_work *work)
{
    uint64_t needed = needed_entries(work);
    uint64_t told = load_be32(work->first + HEADER_L1_SIZE), loaded = work->header.l1_entries;

    if (work->options->virtual_size != 0) {
        work->header.l1_entries = (uint32_t)needed;
    } else if (needed == 0 && (told == 0 || told > ENTRIES_MAX)) {
        while (work->header.l1_entries > 1 && is_empty(work, work->header.l1_entries - 1, loaded)) {
            work->header.l1_entries--;
        }
    } else if (needed > 0 && told > needed && has_bad(work, needed, loaded)) {
        work->header.l1_entries = (uint32_t)needed;
    } else if (needed > told && told > 0 &&
               (is_empty(work, told, loaded) || has_bad(work, told, loaded))) {
        work->header.l1_entries = (uint32_t)told;
    }
}

static uint64_t entries_to_load(const struct salvage_work *work)
{
    uint64_t told = load_be32(work->first + HEADER_L1_SIZE), needed = needed_entries(work);
    uint64_t most = div_round_up(work->file_size, sizeof(uint64_t)); /* no more than the file has */

    told = told <= ENTRIES_MAX ? told : 0;
    if (told == 0 && needed == 0) {
        told = work->header.cluster_size / L1_ENTRY_BYTES; /* nobody knows: see settle_entries() */
    }
    if (work->options->virtual_size != 0) {
        return max_u64(needed, 1);
    }
    return max_u64(min_u64(max_u64(told, needed), most), 1);
}

/* As many as can be read. */
static void read_snapshots(struct l1_search *search)
{
    struct salvage_work *work = search->work;
    struct header header = work->header;
    struct error ignored = {0};

    work->snapshot_count = 0;
    header.snapshot_count = load_be32(work->first + HEADER_NB_SNAPSHOTS);
    header.snapshots_offset = load_be64(work->first + HEADER_SNAPSHOTS_OFFSET);
    if (header.snapshot_count > 0 && header.snapshot_count <= SNAPSHOTS_MAX &&
        header.snapshots_offset % header.cluster_size == 0) {
        (void)snapshot_table_examine(work->file, &header, work->file_size, work->path,
                                     &search->snapshots, &ignored);
        work->snapshot_count = search->snapshots != NULL ? (uint32_t)search->snapshots->count : 0;
    }
}

/* --- Where it is --------------------------------------------------------------------------- */

/* How many entries of the cluster at `offset` name what seems to be an L2 table, if all do. */
static uint64_t count_tables(struct salvage_work *work, uint64_t offset, uint64_t entries)
{
    uint64_t wrong = 0;
    size_t length = (size_t)min_u64(work->header.cluster_size, entries * L1_ENTRY_BYTES);
    uint8_t *raw = malloc(length);
    uint64_t count = 0;
    bool whole;

    length = (size_t)min_u64(length, work->file_size - offset);
    if (raw == NULL || store_read(work->file, offset, raw, length) < 0) {
        free(raw);
        return 0;
    }
    for (size_t at = 0; at + L1_ENTRY_BYTES <= length; at += L1_ENTRY_BYTES) {
        uint64_t entry = load_be64(raw + at);

        if (entry == 0) {
            continue;
        }
        if ((entry & L1_ENTRY_RESERVED) != 0 ||
            !salvage_is_table(work, l1_entry_table(entry), &whole) || !whole) {
            if (++wrong > 8 + count) {
                break;
            }
            continue;
        }
        count += (entry & ENTRY_COPIED) != 0; /* a snapshot table has offsets, too */
    }
    free(raw);
    return count > wrong ? count : 0;
}

static bool is_snapshots(const struct l1_search *search, uint64_t offset)
{
    for (size_t i = 0; search->snapshots != NULL && i < search->snapshots->count; i++) {
        if (search->snapshots->snapshots[i].l1_offset == offset) {
            return true;
        }
    }
    return false;
}

/* The table whose place the header does not tell: the cluster with most entries that name one. */
static int look_for_table(struct l1_search *search, uint64_t entries)
{
    struct salvage_work *work = search->work;
    uint64_t best = 0, found = 0, size = work->header.cluster_size;
    int result;

    for (uint64_t offset = size; offset < work->file_size; offset += size) {
        uint64_t length = 0, count;
        bool is_data = true;

        if (store_extent(work->file, offset, work->file_size - offset, &is_data, &length) == 0 &&
            !is_data && length > size) {
            offset += round_down(length, size) - size;
            continue;
        }
        count = is_snapshots(search, offset) ? 0 : count_tables(work, offset, entries);
        if (count > best && salvage_is_counted(work, offset >> work->header.cluster_bits)) {
            best = count;
            found = offset;
        }
    }
    if (found != 0) {
        salvage_tell(work, SALVAGE_DEDUCED, "l1-offset", found, "by what it names");
    }
    result = load(search, found, entries);
    if (found == 0) {
        memset(work->l1, 0, entries * sizeof(*work->l1));
        memset(work->bad, 1, entries); /* nothing is known */
        search->good = 0;
    }
    return result;
}

static int find_table(struct l1_search *search)
{
    struct salvage_work *work = search->work;
    uint64_t told = work->options->l1_offset != 0 ? work->options->l1_offset
                                                  : load_be64(work->first + HEADER_L1_TABLE_OFFSET);
    uint64_t entries = entries_to_load(work);
    bool possible = told != 0 && told % work->header.cluster_size == 0 && told < work->file_size;
    int result = load(search, possible ? told : 0, entries);

    if (result == 0 && (search->good < search->bad || search->good == 0)) {
        result = salvage_deduce_geometry(work); /* 1: another one */
        if (result == 1) {
            result = salvage_open_entries(work);
            entries = entries_to_load(work);
            possible = told != 0 && told % work->header.cluster_size == 0 && told < work->file_size;
            result = result == 0 ? load(search, possible ? told : 0, entries) : result;
        }
    }
    if (result == 0 && work->options->l1_offset == 0 &&
        (!is_believed(search) || (search->good == 0 && search->bad > 0))) {
        result = salvage_open_entries(work);
        read_snapshots(search);
        return result == 0 ? look_for_table(search, entries) : result;
    }
    if (result == 0) {
        read_snapshots(search);
        salvage_tell(work, work->options->l1_offset != 0 ? SALVAGE_DEDUCED : SALVAGE_CERTAIN,
                     "l1-offset", search->offset, work->options->l1_offset != 0 ? "given" : NULL);
    }
    return result;
}

/* --- Snapshots ----------------------------------------------------------------------------- */

static bool snapshot_entry(const struct salvage_work *work, const struct snapshot *snapshot,
                           uint64_t index, uint64_t *entry)
{
    uint64_t offset;
    uint8_t raw[L1_ENTRY_BYTES];

    if (index >= snapshot->l1_entries ||
        !checked_add(snapshot->l1_offset, index * L1_ENTRY_BYTES, &offset) ||
        !range_within(offset, sizeof(raw), work->file_size) ||
        store_read(work->file, offset, raw, sizeof(raw)) < 0) {
        return false;
    }
    *entry = load_be64(raw);
    return *entry != 0;
}

/* What their tables name is used. */
static int use_snapshots(struct l1_search *search)
{
    struct salvage_work *work = search->work;
    uint64_t looked = 0;

    for (size_t i = 0; search->snapshots != NULL && i < search->snapshots->count; i++) {
        const struct snapshot *snapshot = &search->snapshots->snapshots[i];
        uint64_t entry;

        search->has_vm_state |= snapshot->vm_state_size > 0;
        for (uint64_t k = 0; k < snapshot->l1_entries && looked < ENTRIES_MAX; k++, looked++) {
            if (snapshot_entry(work, snapshot, k, &entry) && judge_entry(work, entry) == -ENOMEM) {
                return -ENOMEM;
            }
        }
    }
    return 0;
}

/* --- Entries that lead nowhere -------------------------------------------------------------- */

static int take(struct l1_search *search, uint64_t index, size_t orphan)
{
    struct salvage_work *work = search->work;
    bool whole;

    work->l1[index] = work->orphans[orphan] | ENTRY_COPIED;
    work->bad[index] = 0;
    search->deduced++;
    (void)salvage_is_table(work, work->orphans[orphan], &whole);
    return salvage_use_table(work, work->orphans[orphan]);
}

static void drop(struct salvage_work *work, size_t orphan)
{
    memmove(&work->orphans[orphan], &work->orphans[orphan + 1],
            (work->orphan_count - orphan - 1) * sizeof(*work->orphans));
    work->orphan_count--;
}

/* The table whose offset differs from what the entry says in a bit or two; their number: none. */
static size_t find_alike(const struct salvage_work *work, uint64_t entry)
{
    size_t found = work->orphan_count;

    for (size_t i = 0; i < work->orphan_count; i++) {
        if (__builtin_popcountll(work->orphans[i] ^ (entry & ~ENTRY_COPIED)) <= 2) {
            if (found != work->orphan_count) {
                return work->orphan_count; /* which of them? */
            }
            found = i;
        }
    }
    return found;
}

static int take_alike(struct l1_search *search)
{
    struct salvage_work *work = search->work;
    int result = 0;

    for (uint64_t i = 0; i < work->header.l1_entries && result == 0; i++) {
        size_t found = work->bad[i] ? find_alike(work, work->l1[i]) : work->orphan_count;

        if (found < work->orphan_count) {
            result = take(search, i, found);
            drop(work, found);
        }
    }
    return result;
}

/*
 * Of the tables that nothing refers to the one that shares most with what a snapshot has in that
 * place: it was copied from that, and changed; their number: none does.
 */
static size_t find_successor(const struct l1_search *search, uint64_t index)
{
    struct salvage_work *work = search->work;
    size_t found = work->orphan_count;
    uint64_t best = 0, entry;

    for (size_t i = search->snapshots != NULL ? search->snapshots->count : 0; i > 0; i--) {
        for (size_t k = 0; k < work->orphan_count; k++) {
            uint64_t alike =
                snapshot_entry(work, &search->snapshots->snapshots[i - 1], index, &entry)
                    ? salvage_alike(work, l1_entry_table(entry), work->orphans[k])
                    : 0;

            if (alike > best) {
                best = alike;
                found = k;
            }
        }
        if (found < work->orphan_count || i + SNAPSHOTS_LOOKED <= search->snapshots->count) {
            break;
        }
    }
    return found;
}

static int take_successors(struct l1_search *search)
{
    struct salvage_work *work = search->work;
    int result = 0;

    for (uint64_t i = 0; i < work->header.l1_entries && result == 0; i++) {
        size_t found = (work->bad[i] || work->l1[i] == 0) && work->orphan_count <= ORPHANS_COMPARED
                           ? find_successor(search, i)
                           : work->orphan_count;

        if (found < work->orphan_count) {
            result = take(search, i, found);
            drop(work, found);
        }
    }
    return result;
}

/* What a snapshot says of that part of its disk. */
static bool take_from_snapshot(struct l1_search *search, uint64_t index)
{
    struct salvage_work *work = search->work;
    uint64_t entry;
    bool whole;

    for (size_t i = search->snapshots != NULL ? search->snapshots->count : 0; i > 0; i--) {
        if (snapshot_entry(work, &search->snapshots->snapshots[i - 1], index, &entry) &&
            (entry & L1_ENTRY_RESERVED) == 0 &&
            salvage_is_table(work, l1_entry_table(entry), &whole)) {
            work->l1[index] = l1_entry_table(entry);
            work->bad[index] = 0;
            search->from_snapshots++;
            return true;
        }
    }
    return false;
}

static uint64_t count_bad(const struct salvage_work *work)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < work->header.l1_entries; i++) {
        count += work->bad[i] != 0;
    }
    return count;
}

/* Disks are mostly filled from their beginning on, so tables lie in the order of what they map. */
static int take_in_order(struct l1_search *search)
{
    struct salvage_work *work = search->work;
    uint64_t places = count_bad(work);
    size_t next = 0;
    int result = 0;

    for (uint64_t i = 0; i < work->header.l1_entries && result == 0; i++) {
        if (!work->bad[i]) {
            continue;
        }
        if (take_from_snapshot(search, i)) {
            places--;
        } else if (next < work->orphan_count) {
            result = take(search, i, next++);
            places--;
        }
    }
    for (uint64_t i = 0; i < work->header.l1_entries && next < work->orphan_count && result == 0;
         i++) {
        if (work->l1[i] == 0 && !work->bad[i]) { /* it seems to be empty: its entry was lost */
            result = take(search, i, next++);
        }
    }
    return result;
}

static int complete(struct l1_search *search)
{
    struct salvage_work *work = search->work;
    int result = 0;

    if (search->good < work->header.l1_entries) { /* something may be missing */
        result = salvage_find_orphans(work);
    }
    if (is_empty(work, 0, work->header.l1_entries)) {
        memset(work->bad, BAD_OR_EMPTY, work->header.l1_entries);
    }
    if (result == 0) {
        result = take_alike(search);
    }
    if (result == 0) {
        result = take_successors(search);
    }
    if (result == 0) {
        result = take_in_order(search);
    }
    for (uint64_t i = 0; i < work->header.l1_entries; i++) {
        if (work->bad[i] == BAD_OR_EMPTY) {
            work->bad[i] = 0;
        } else if (work->bad[i]) {
            work->l1[i] = SALVAGE_LOST;
            search->missing++;
        }
    }
    return result;
}

/* --- The size of the disk -------------------------------------------------------------------- */

/* Bytes of the disk up to the end of the last cluster that has data. */
static uint64_t mapped_end(struct salvage_work *work)
{
    const struct header *header = &work->header;
    uint64_t per_table = UINT64_C(1) << header->l2_bits;
    bool whole;

    for (uint64_t i = header->l1_entries; i > 0; i--) {
        if (work->l1[i - 1] == 0 || work->bad[i - 1] ||
            !salvage_is_table(work, l1_entry_table(work->l1[i - 1]), &whole)) {
            continue;
        }
        for (uint64_t k = per_table; k > 0; k--) {
            uint64_t entry = load_be64(work->table + (k - 1) * header->l2_entry_bytes);

            if (l2_entry_is_compressed(entry) || l2_entry_host_offset(entry) != 0) {
                return ((i - 1) * per_table + k) << header->cluster_bits;
            }
        }
    }
    return 0;
}

static void settle_size(struct l1_search *search)
{
    struct salvage_work *work = search->work;
    uint64_t size = recorded_size(work), end = mapped_end(work);
    uint64_t covered = (uint64_t)work->header.l1_entries
                       << (work->header.cluster_bits + work->header.l2_bits);
    bool given = work->options->virtual_size != 0;

    if (!given && (size == 0 || size > covered ||
                   (end >= size + work->header.cluster_size && !search->has_vm_state))) {
        size = min_u64(max_u64(end, work->header.cluster_size), covered);
        salvage_tell(work, SALVAGE_DEDUCED, "virtual-size", size,
                     "the end of the last cluster with data");
    } else {
        salvage_tell(work, given ? SALVAGE_DEDUCED : SALVAGE_CERTAIN, "virtual-size", size,
                     given ? "given" : NULL);
    }
    work->header.virtual_size = size;
}

/* --- All of it -------------------------------------------------------------------------------- */

int salvage_find_l1(struct salvage_work *work)
{
    struct l1_search search = {.work = work};
    int result = find_table(&search);
    uint64_t good;

    if (result == 0) {
        settle_entries(work);
        result = use_snapshots(&search);
    }
    if (result == 0) {
        result = complete(&search);
    }
    if (result == 0) {
        settle_size(&search);
        good = min_u64(search.good, work->header.l1_entries);
        salvage_tell(work, SALVAGE_CERTAIN, "l1-entries", good, NULL);
        salvage_tell(work, SALVAGE_DEDUCED, "l1-entries", search.deduced,
                     "L2 tables that nothing else names");
        salvage_tell(work, SALVAGE_DEDUCED, "l1-entries", search.from_snapshots,
                     "of a snapshot: what it shows is older");
        salvage_tell(work, SALVAGE_MISSING, "l1-entries", search.missing, NULL);
    }
    snapshot_table_free(search.snapshots);
    return result;
}
