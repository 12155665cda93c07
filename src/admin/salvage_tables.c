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
#define LOST_MAX    4096 /* bytes within a table that are looked past for more of it */

#define QEMU_L1_CLUSTER 3 /* of a new image */

/* --- Reading one --------------------------------------------------------------------------- */

/* 1: names an L2 table, which is used from here on; 0: empty; -1: leads nowhere; or -ENOMEM. */
static int judge_entry(struct salvage_work *work, uint64_t entry)
{
    uint64_t table = l1_entry_table(entry);
    bool whole;

    if (entry == 0) {
        return 0;
    }
    if ((entry & L1_ENTRY_RESERVED) != 0 || table >= work->file_size ||
        check_counts_get(work->uses, table >> work->header.cluster_bits) == SALVAGE_TABLE ||
        !salvage_is_table(work, table, &whole)) {
        return -1;
    }
    return salvage_use_table(work, table) < 0 ? -ENOMEM : 1;
}

/* The entries at `offset`, as far as they are in the file; of the rest nothing is known. */
static int read_entries(struct salvage_work *work, uint64_t offset, uint64_t entries)
{
    uint8_t *raw = calloc(in_memory(entries + 1), L1_ENTRY_BYTES);
    uint64_t inside = offset < work->file_size
                          ? min_u64(entries, (work->file_size - offset) / L1_ENTRY_BYTES)
                          : 0;

    free(work->l1);
    free(work->bad);
    work->l1 = calloc(in_memory(entries + 1), sizeof(*work->l1));
    work->bad = calloc(in_memory(entries + 1), 1);
    work->header.l1_entries = (uint32_t)entries;
    if (raw == NULL || work->l1 == NULL || work->bad == NULL) {
        free(raw);
        return salvage_no_memory(work);
    }
    if (inside > 0 && store_read(work->file, offset, raw, in_memory(inside * L1_ENTRY_BYTES)) < 0) {
        inside = 0;
    }
    for (uint64_t i = 0; i < entries; i++) {
        work->l1[i] = i < inside ? load_be64(raw + i * L1_ENTRY_BYTES) : 0;
        work->bad[i] = i >= inside;
    }
    free(raw);
    return 0;
}

/* Whether the table that the entry names was in a part of the file that was cut off. */
static bool is_cut_off(const struct salvage_work *work, uint64_t entry)
{
    uint64_t table = l1_entry_table(entry);

    return (entry & L1_ENTRY_RESERVED) == 0 && table % work->header.cluster_size == 0 &&
           table >= work->file_size && table / 64 < work->file_size;
}

/* The clusters of an L1 table, or of that of snapshots, are neither L2 tables nor data. */
static int use_clusters(struct salvage_work *work, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset < work->file_size ? offset + min_u64(bytes, work->file_size - offset) : 0;
    int result = 0;

    for (uint64_t at = offset; at < end && result != -ENOMEM; at += work->header.cluster_size) {
        uint64_t cluster = at >> work->header.cluster_bits;

        if (check_counts_get(work->uses, cluster) == SALVAGE_FREE) {
            result = check_counts_set(work->uses, cluster, SALVAGE_USED);
        }
    }
    return result == -ENOMEM ? salvage_no_memory(work) : 0;
}

static int load(struct salvage_l1 *search, uint64_t offset, uint64_t entries)
{
    struct salvage_work *work = search->work;
    int result = read_entries(work, offset, entries);

    search->offset = offset;
    search->good = search->bad = 0;
    if (offset == 0 && result == 0) { /* nobody knows where it is */
        memset(work->l1, 0, work->header.l1_entries * sizeof(*work->l1));
        memset(work->bad, 1, work->header.l1_entries);
        search->bad = work->header.l1_entries;
        return 0;
    }
    result = result == 0 ? use_clusters(work, offset, entries * L1_ENTRY_BYTES) : result;
    for (uint64_t i = 0; i < entries && result == 0; i++) {
        int judged = work->bad[i] ? -1 : judge_entry(work, work->l1[i]);

        result = judged == -ENOMEM ? -ENOMEM : 0;
        work->bad[i] = judged == -1;
        search->good += judged == 1;
        search->bad += judged == -1 && !is_cut_off(work, work->l1[i]);
    }
    return result;
}

static bool is_believed(const struct salvage_l1 *search)
{
    return search->offset != 0 && search->good >= search->bad;
}

/* --- How many entries ---------------------------------------------------------------------- */

uint64_t salvage_recorded_size(const struct salvage_work *work)
{
    return work->options->virtual_size != 0 ? work->options->virtual_size
                                            : load_be64(work->first + HEADER_SIZE);
}

static uint64_t needed_entries(const struct salvage_work *work)
{
    uint64_t size = salvage_recorded_size(work);
    uint64_t needed = header_l1_entries_for(&work->header, size);

    return size <= INT64_MAX && needed <= ENTRIES_MAX ? needed : 0;
}

bool salvage_is_empty(const struct salvage_work *work, uint64_t begin, uint64_t end)
{
    while (begin < end && work->l1[begin] == 0 && !work->bad[begin]) {
        begin++;
    }
    return begin >= end;
}

static bool has_bad(const struct salvage_work *work, uint64_t begin, uint64_t end)
{
    return begin < end && memchr(work->bad + begin, 1, in_memory(end - begin)) != NULL;
}

/* Whether the header says how many entries there are, and that can be: more than the file has room
 * for only where the size of the disk says as much. */
static bool is_told(const struct salvage_work *work)
{
    uint64_t told = load_be32(work->first + HEADER_L1_SIZE);

    return told != 0 && told <= ENTRIES_MAX &&
           (told * L1_ENTRY_BYTES < work->file_size || needed_entries(work) > 0);
}

/* Where the size of the disk, and that of the table, say different things. */
static void settle_entries(struct salvage_work *work)
{
    uint64_t needed = needed_entries(work);
    uint64_t told = load_be32(work->first + HEADER_L1_SIZE), loaded = work->header.l1_entries;

    if (work->options->virtual_size != 0) {
        work->header.l1_entries = (uint32_t)needed;
    } else if (!is_told(work)) {
        while (work->header.l1_entries > max_u64(needed, 1) &&
               (salvage_is_empty(work, work->header.l1_entries - 1, loaded) ||
                (needed > 0 && work->bad[work->header.l1_entries - 1]))) {
            work->header.l1_entries--;
            loaded = work->header.l1_entries;
        }
    } else if (needed > 0 && told > needed && has_bad(work, needed, loaded)) {
        work->header.l1_entries = (uint32_t)needed;
    } else if (needed > told && told > 0 &&
               (salvage_is_empty(work, told, loaded) || has_bad(work, told, loaded))) {
        work->header.l1_entries = (uint32_t)told;
    }
}

static uint64_t entries_to_load(const struct salvage_work *work)
{
    uint64_t told = load_be32(work->first + HEADER_L1_SIZE), needed = needed_entries(work);
    uint64_t most = div_round_up(work->file_size, sizeof(uint64_t)); /* no more than the file has */

    if (!is_told(work)) {
        told = work->header.cluster_size / L1_ENTRY_BYTES; /* nobody knows: see settle_entries() */
    }
    if (work->options->virtual_size != 0) {
        return max_u64(needed, 1);
    }
    return max_u64(min_u64(max_u64(told, needed), most), 1);
}

/* As many as can be read. */
static void read_snapshots(struct salvage_l1 *search)
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
                                     &work->snapshots, &ignored);
        work->snapshot_count = work->snapshots != NULL ? (uint32_t)work->snapshots->count : 0;
    }
}

/* --- Where it is --------------------------------------------------------------------------- */

/* What a cluster says as a part of an L1 table: how many of its entries name an L2 table. */
struct candidate {
    uint64_t offset;
    uint64_t owned; /* one that has something for itself, as the active state has */
    uint64_t all;   /* 0: it is none */
};

static bool is_better(const struct candidate *one, const struct candidate *other)
{
    return one->owned != other->owned ? one->owned > other->owned : one->all > other->all;
}

/* What an L1 entry would name there; asked for a cluster again, it is not read again. */
static enum salvage_look look_at(struct salvage_work *work, uint64_t table)
{
    uint64_t cluster = table >> work->header.cluster_bits;
    enum salvage_look look;
    bool whole, any;

    if (table == 0 || table % work->header.cluster_size != 0 || table >= work->file_size) {
        return SALVAGE_LOOK_NOTHING;
    }
    look = (enum salvage_look)check_counts_get(work->looks, cluster);
    if (look != SALVAGE_LOOK_UNKNOWN) {
        return look;
    }
    any = salvage_is_table(work, table, &whole);
    look = whole ? SALVAGE_LOOK_TABLE : SALVAGE_LOOK_NOTHING;
    if (any && !whole) {
        work->shared_too = true;
        (void)salvage_is_table(work, table, &whole);
        work->shared_too = false;
        look = whole ? SALVAGE_LOOK_SHARED : SALVAGE_LOOK_HARDLY;
    }
    (void)check_counts_set(work->looks, cluster, look); /* without memory it is looked at again */
    return look;
}

static struct candidate judge_cluster(struct salvage_work *work, uint64_t offset, uint64_t entries)
{
    struct candidate found = {.offset = offset};
    uint64_t wrong = 0;
    size_t length = (size_t)min_u64(work->header.cluster_size, entries * L1_ENTRY_BYTES);
    uint8_t *raw = malloc(length);

    length = (size_t)min_u64(length, work->file_size - offset);
    if (raw == NULL || store_read(work->file, offset, raw, length) < 0) {
        free(raw);
        return found;
    }
    for (size_t at = 0; at + L1_ENTRY_BYTES <= length && wrong <= 8 + found.all;
         at += L1_ENTRY_BYTES) {
        uint64_t entry = load_be64(raw + at);
        enum salvage_look look = (entry & L1_ENTRY_RESERVED) == 0
                                     ? look_at(work, l1_entry_table(entry))
                                     : SALVAGE_LOOK_NOTHING;
        bool is_table = look == SALVAGE_LOOK_TABLE || look == SALVAGE_LOOK_SHARED;

        if (entry == 0) {
            continue;
        }
        found.all += is_table;
        wrong += !is_table;
        found.owned += look == SALVAGE_LOOK_TABLE && (entry & ENTRY_COPIED) != 0;
    }
    free(raw);
    found.all = found.all > wrong ? found.all : 0;
    return found;
}

bool salvage_names_tables_alone(struct salvage_work *work, uint64_t offset, uint64_t entries)
{
    uint64_t size = work->header.cluster_size, tables = 0;
    size_t length = in_memory(div_round_up(entries * L1_ENTRY_BYTES, size) * size);
    uint8_t *raw = malloc(length);
    bool alone = raw != NULL && store_read(work->file, offset, raw, length) == 0;

    for (size_t at = 0; at < length && alone; at += L1_ENTRY_BYTES) {
        uint64_t entry = load_be64(raw + at);
        enum salvage_look look = (entry & L1_ENTRY_RESERVED) == 0
                                     ? look_at(work, l1_entry_table(entry))
                                     : SALVAGE_LOOK_NOTHING;
        bool is_table = look == SALVAGE_LOOK_TABLE || look == SALVAGE_LOOK_SHARED;

        tables += is_table;
        alone =
            entry == 0 || (at < entries * L1_ENTRY_BYTES && (is_table || is_cut_off(work, entry)));
    }
    free(raw);
    return alone && tables > 0;
}

static bool is_snapshots(const struct salvage_work *work, uint64_t offset)
{
    for (size_t i = 0; work->snapshots != NULL && i < work->snapshots->count; i++) {
        if (work->snapshots->snapshots[i].l1_offset == offset) {
            return true;
        }
    }
    return false;
}

/*
 * How many clusters on the table goes on from the one at `offset`, which is part of it, in steps of
 * `step` bytes: the next one that is, behind those that were lost; 0: it ends here.
 */
static uint64_t goes_on(struct salvage_work *work, uint64_t offset, uint64_t step)
{
    uint64_t size = work->header.cluster_size, most = 1 + LOST_MAX / size;

    for (uint64_t i = 1; i <= most; i++) {
        uint64_t at = offset + i * step; /* modulo 2^64 where it goes back */
        struct candidate found;

        if (at < size || at >= work->file_size) {
            return 0;
        }
        found = judge_cluster(work, at, size / L1_ENTRY_BYTES);
        if (i == 1 ? found.all > 0 : found.owned > 0) {
            return i;
        }
    }
    return 0;
}

/* Where the table begins of which the cluster is a part; and how many clusters it has, in *count.
 */
static uint64_t find_ends(struct salvage_work *work, uint64_t offset, uint64_t *count)
{
    uint64_t size = work->header.cluster_size, begin = offset, last = offset, more;

    while ((more = goes_on(work, begin, -size)) > 0) {
        begin -= more * size;
    }
    while (last - begin < HEADER_L1_SIZE_MAX && (more = goes_on(work, last, size)) > 0) {
        last += more * size;
    }
    *count = (last - begin) / size + 1;
    return begin;
}

/*
 * Where the table begins whose first clusters were lost: QEMU makes it behind the header, the
 * refcount table and one refcount block, and what lies between there and `begin` nobody has.
 */
static uint64_t find_lost_begin(struct salvage_work *work, uint64_t begin)
{
    uint64_t size = work->header.cluster_size, first = QEMU_L1_CLUSTER * size;

    if (begin <= first || begin - first > LOST_MAX) {
        return begin;
    }
    for (uint64_t at = first; at < begin; at += size) {
        bool whole;

        if (check_counts_get(work->uses, at >> work->header.cluster_bits) != SALVAGE_FREE ||
            (salvage_is_table(work, at, &whole) && whole)) {
            return begin;
        }
    }
    return first;
}

/* Whether nothing tells how many entries there are. */
static bool is_size_unknown(const struct salvage_work *work)
{
    return needed_entries(work) == 0 && !is_told(work);
}

/* The table whose place the header does not tell: around the cluster with most entries that name
 * one. */
static int look_for_table(struct salvage_l1 *search, uint64_t entries, bool owned)
{
    struct salvage_work *work = search->work;
    struct candidate best = {.offset = 0};
    uint64_t size = work->header.cluster_size, count = 1;

    for (uint64_t offset = size; offset < work->file_size; offset += size) {
        struct candidate found;
        uint64_t hole = salvage_hole(work, offset);

        if (hole > size) {
            offset += round_down(hole, size) - size;
            continue;
        }
        found = is_snapshots(work, offset) ? best : judge_cluster(work, offset, entries);
        if (found.all > 0 && (found.owned > 0 || !owned) && is_better(&found, &best) &&
            salvage_is_counted(work, offset >> work->header.cluster_bits)) {
            best = found;
        }
    }
    if (best.offset != 0) {
        if (entries * L1_ENTRY_BYTES >= size) {
            uint64_t begin = find_ends(work, best.offset, &count);

            best.offset = find_lost_begin(work, begin);
            count += (begin - best.offset) / size;
        }
        if (is_size_unknown(work)) {
            entries = count * size / L1_ENTRY_BYTES;
        }
        salvage_tell(work, SALVAGE_DEDUCED, "l1-offset", best.offset, "by what it names");
    }
    return load(search, best.offset, entries);
}

static int find_table(struct salvage_l1 *search)
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
        return result == 0 ? look_for_table(search, entries, possible) : result;
    }
    if (result == 0) {
        read_snapshots(search);
        salvage_tell(work, work->options->l1_offset != 0 ? SALVAGE_DEDUCED : SALVAGE_CERTAIN,
                     "l1-offset", search->offset, work->options->l1_offset != 0 ? "given" : NULL);
    }
    return result;
}

/* --- Snapshots ----------------------------------------------------------------------------- */

bool salvage_snapshot_entry(const struct salvage_work *work, const struct snapshot *snapshot,
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

/* Their tables are used, and what these name. */
static int use_snapshots(struct salvage_l1 *search)
{
    struct salvage_work *work = search->work;
    uint64_t looked = 0;

    if (work->snapshot_count > 0 &&
        use_clusters(work, load_be64(work->first + HEADER_SNAPSHOTS_OFFSET),
                     work->snapshots->size) < 0) {
        return -ENOMEM;
    }
    for (size_t i = 0; work->snapshots != NULL && i < work->snapshots->count; i++) {
        const struct snapshot *snapshot = &work->snapshots->snapshots[i];
        uint64_t entry;

        search->has_vm_state |= snapshot->vm_state_size > 0;
        for (uint64_t k = 0; k < snapshot->l1_entries && looked < ENTRIES_MAX; k++, looked++) {
            if ((k * L1_ENTRY_BYTES % work->header.cluster_size == 0 &&
                 use_clusters(work, snapshot->l1_offset + k * L1_ENTRY_BYTES, 1) < 0) ||
                (salvage_snapshot_entry(work, snapshot, k, &entry) &&
                 judge_entry(work, entry) == -ENOMEM)) {
                return -ENOMEM;
            }
        }
    }
    return 0;
}

/* Of what the snapshot table no longer tells. */
static int use_lost_snapshots(struct salvage_l1 *search)
{
    struct salvage_work *work = search->work;
    uint32_t told = load_be32(work->first + HEADER_NB_SNAPSHOTS);
    int result;

    if (told <= work->snapshot_count || told > SNAPSHOTS_MAX) {
        return 0;
    }
    result = salvage_find_copies(work);
    return result == 0 ? use_snapshots(search) : result;
}

/* --- All of it -------------------------------------------------------------------------------- */

int salvage_find_l1(struct salvage_work *work)
{
    struct salvage_l1 search = {.work = work};
    int result = find_table(&search);
    uint64_t good;

    if (result == 0) {
        settle_entries(work);
        result = use_snapshots(&search);
    }
    if (result == 0) {
        result = use_lost_snapshots(&search);
    }
    if (result == 0) {
        result = salvage_complete_l1(&search);
    }
    if (result == 0) {
        result = salvage_settle_size(&search);
        good = min_u64(search.good, work->header.l1_entries);
        salvage_tell(work, SALVAGE_CERTAIN, "l1-entries", good, NULL);
        salvage_tell(work, SALVAGE_DEDUCED, "l1-entries", search.deduced,
                     "L2 tables that nothing else names");
        salvage_tell(work, SALVAGE_DEDUCED, "l1-entries", search.from_snapshots,
                     "of a snapshot: what it shows is older");
        salvage_tell(work, SALVAGE_DEDUCED, "l1-entries", search.ruins,
                     "L2 tables of which hardly anything is left");
        salvage_tell(work, SALVAGE_MISSING, "l1-entries", search.missing, NULL);
    }
    return result;
}
