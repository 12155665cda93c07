/* SPDX-License-Identifier: MIT */
/*
 * Which L2 table belongs where an L1 entry leads nowhere, or was lost: what the entry looks like,
 * what a snapshot has in its place, between which tables it lies in the file, and what was written
 * together.
 */
#include "config.h"

#include "admin/salvage_internal.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <string.h>

#define ORPHANS_COMPARED                                                                           \
    256                        /* tables that are compared with those of snapshots; more take long \
                                */
#define ORPHANS_PLACED   65536 /* by their neighbours, likewise */
#define PAIRS_MAX        (UINT64_C(1) << 28) /* of entries and tables that are compared bit by bit */
#define BAD_OR_EMPTY     2 /* of an entry: the whole table was empty, which it may have been */
#define SNAPSHOTS_LOOKED 4 /* the last ones */
#define SECTOR_ENTRIES   (512 / L1_ENTRY_BYTES)

static int take(struct salvage_l1 *search, uint64_t index, size_t orphan)
{
    struct salvage_work *work = search->work;
    bool whole;

    work->l1[index] = work->orphans[orphan] | ENTRY_COPIED;
    work->bad[index] = 0;
    search->deduced++;
    (void)salvage_is_table(work, work->orphans[orphan], &whole);
    return salvage_use_table(work, work->orphans[orphan]);
}

/* [first, first + count) of the tables that nothing refers to have their places. */
static void drop(struct salvage_work *work, size_t first, size_t count)
{
    memmove(&work->orphans[first], &work->orphans[first + count],
            (work->orphan_count - first - count) * sizeof(*work->orphans));
    work->orphan_count -= count;
}

static bool is_known(const struct salvage_work *work, uint64_t index)
{
    return work->l1[index] != 0 && !work->bad[index];
}

/* --- By what is left of the entry ------------------------------------------------------- */

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

static int take_alike(struct salvage_l1 *search)
{
    struct salvage_work *work = search->work;
    uint64_t compared = 0;
    int result = 0;

    for (uint64_t i = 0; i < work->header.l1_entries && result == 0; i++) {
        compared += work->bad[i] ? work->orphan_count : 0;
        if (compared > PAIRS_MAX) {
            break;
        }
        /* Of one that names the header nothing is left that tells anything. */
        size_t found = work->bad[i] && l1_entry_table(work->l1[i]) != 0
                           ? find_alike(work, work->l1[i])
                           : work->orphan_count;

        if (found < work->orphan_count) {
            result = take(search, i, found);
            drop(work, found, 1);
        }
    }
    return result;
}

/* --- By snapshots ------------------------------------------------------------------------ */

/*
 * Of the tables that nothing refers to the one that shares most with what a snapshot has in that
 * place: it was copied from that, and changed; their number: none does.
 */
static size_t find_successor(const struct salvage_l1 *search, uint64_t index)
{
    struct salvage_work *work = search->work;
    size_t found = work->orphan_count;
    uint64_t best = 0, entry;

    for (size_t i = work->snapshots != NULL ? work->snapshots->count : 0; i > 0; i--) {
        for (size_t k = 0; k < work->orphan_count; k++) {
            uint64_t alike =
                salvage_snapshot_entry(work, &work->snapshots->snapshots[i - 1], index, &entry)
                    ? salvage_alike(work, l1_entry_table(entry), work->orphans[k])
                    : 0;

            if (alike > best) {
                best = alike;
                found = k;
            }
        }
        if (found < work->orphan_count || i + SNAPSHOTS_LOOKED <= work->snapshots->count) {
            break;
        }
    }
    return found;
}

static int take_successors(struct salvage_l1 *search)
{
    struct salvage_work *work = search->work;
    int result = 0;

    for (uint64_t i = 0; i < work->header.l1_entries && result == 0; i++) {
        size_t found = !is_known(work, i) && work->orphan_count <= ORPHANS_COMPARED
                           ? find_successor(search, i)
                           : work->orphan_count;

        if (found < work->orphan_count) {
            result = take(search, i, found);
            drop(work, found, 1);
        }
    }
    return result;
}

/* What a snapshot says of that part of its disk. */
static void take_from_snapshot(struct salvage_l1 *search, uint64_t index)
{
    struct salvage_work *work = search->work;
    uint64_t entry;
    bool whole;

    for (size_t i = work->snapshots != NULL ? work->snapshots->count : 0; i > 0; i--) {
        if (salvage_snapshot_entry(work, &work->snapshots->snapshots[i - 1], index, &entry) &&
            (entry & L1_ENTRY_RESERVED) == 0 &&
            salvage_is_table(work, l1_entry_table(entry), &whole)) {
            work->l1[index] = l1_entry_table(entry);
            work->bad[index] = 0;
            search->from_snapshots++;
            return;
        }
    }
}

/* An L1 entry that once named a table goes on to: none is empty where a snapshot has one. */
static void take_from_snapshots(struct salvage_l1 *search)
{
    for (uint64_t i = 0; i < search->work->header.l1_entries; i++) {
        if (!is_known(search->work, i)) {
            take_from_snapshot(search, i);
        }
    }
}

/* --- By their neighbours ------------------------------------------------------------------ */

/* Entries, all of which may have been lost, and the tables that may belong there. */
struct gap {
    uint64_t begin, end;         /* entries */
    uint64_t before, behind;     /* offsets of the next tables that are known, or 0, UINT64_MAX */
    bool has_before, has_behind; /* these are named by the next entries */
    size_t first, count;         /* of the tables that nothing refers to */
};

/* Whether the entry, which is empty, is in a sector that has nothing: as a lost one. */
static bool is_in_lost_sector(const struct salvage_work *work, uint64_t index)
{
    uint64_t begin = index - index % SECTOR_ENTRIES;
    uint64_t end = min_u64(begin + SECTOR_ENTRIES, work->header.l1_entries);

    while (begin < end && work->l1[begin] == 0) {
        begin++;
    }
    return begin == end;
}

static bool may_be_lost(const struct salvage_work *work, uint64_t index, bool all)
{
    return work->bad[index] != 0 ||
           (work->l1[index] == 0 && (all || is_in_lost_sector(work, index)));
}

/* How many of the tables that nothing refers to lie before the offset. */
static size_t orphans_before(const struct salvage_work *work, uint64_t offset)
{
    size_t low = 0, high = work->orphan_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (work->orphans[middle] < offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The next gap from entry `from` on; false: there is none. */
static bool next_gap(const struct salvage_work *work, uint64_t from, bool all, struct gap *gap)
{
    uint64_t entries = work->header.l1_entries, at;

    *gap = (struct gap){.begin = from, .behind = UINT64_MAX};
    while (gap->begin < entries && !may_be_lost(work, gap->begin, all)) {
        gap->begin++;
    }
    gap->end = gap->begin;
    while (gap->end < entries && may_be_lost(work, gap->end, all)) {
        gap->end++;
    }
    for (at = gap->begin; at > 0 && gap->before == 0; at--) {
        gap->before = is_known(work, at - 1) ? l1_entry_table(work->l1[at - 1]) : 0;
        gap->has_before = at == gap->begin;
    }
    for (at = gap->end; at < entries && gap->behind == UINT64_MAX; at++) {
        gap->behind = is_known(work, at) ? l1_entry_table(work->l1[at]) : UINT64_MAX;
        gap->has_behind = at == gap->end;
    }
    gap->has_before = gap->has_before && gap->before != 0;
    gap->has_behind = gap->has_behind && gap->behind != UINT64_MAX;
    gap->first = orphans_before(work, gap->before);
    at = orphans_before(work, gap->behind);
    gap->count = at > gap->first ? (size_t)at - gap->first : 0;
    return gap->begin < entries;
}

/* Tables in the order of their offsets, those that were written together with others beside these.
 */
static int fill_gap(struct salvage_l1 *search, const struct gap *gap)
{
    struct salvage_work *work = search->work;
    const uint64_t *tables = &work->orphans[gap->first];
    size_t from_begin = 0, from_end = 0, count = gap->count;
    uint64_t neighbour = gap->before;
    int result = 0;

    if (count < gap->end - gap->begin) {
        while (from_begin < count && (from_begin > 0 || gap->has_before) &&
               salvage_follows(work, neighbour, tables[from_begin])) {
            neighbour = tables[from_begin++];
        }
        neighbour = gap->behind;
        while (from_begin + from_end < count && (from_end > 0 || gap->has_behind) &&
               salvage_follows(work, tables[count - 1 - from_end], neighbour)) {
            neighbour = tables[count - 1 - from_end++];
        }
    }
    for (size_t i = 0; i < count && result == 0; i++) {
        uint64_t index = i < count - from_end ? gap->begin + i : gap->end - (count - i);

        result = take(search, index, gap->first + i);
    }
    drop(work, gap->first, count);
    return result;
}

/* Whether each entry has its table, and the neighbours are known. */
static bool is_exact(const struct gap *gap)
{
    return gap->count == gap->end - gap->begin && (gap->begin == 0 || gap->has_before) &&
           gap->has_behind;
}

/*
 * `all`: also where nothing says that the entry was not empty; `exact`: only where as many tables
 * lie between those of the neighbours as there are entries.
 */
static int take_between(struct salvage_l1 *search, bool all, bool exact)
{
    struct salvage_work *work = search->work;
    struct gap gap;
    int result = 0;

    if (work->orphan_count > ORPHANS_PLACED) {
        return 0;
    }
    for (uint64_t from = 0; work->orphan_count > 0 && result == 0; from = gap.end) {
        if (!next_gap(work, from, all, &gap)) {
            break;
        }
        if (gap.before < gap.behind && gap.count > 0 && gap.count <= gap.end - gap.begin &&
            (!exact || is_exact(&gap))) {
            result = fill_gap(search, &gap);
        }
    }
    return result;
}

/* Disks are mostly filled from their beginning on, so tables lie in the order of what they map. */
static int take_in_order(struct salvage_l1 *search)
{
    struct salvage_work *work = search->work;
    size_t next = 0;
    int result = 0;

    for (int round = 0; round < 2; round++) { /* what is bad, then what seems to be empty */
        for (uint64_t i = 0;
             i < work->header.l1_entries && next < work->orphan_count && result == 0; i++) {
            if (work->bad[i] || (round == 1 && work->l1[i] == 0)) {
                result = take(search, i, next++);
            }
        }
    }
    return result;
}

/* Where all else failed: tables that a snapshot shared, which may be of an older state. */
static int take_shared(struct salvage_l1 *search)
{
    struct salvage_work *work = search->work;
    int result;

    work->shared_too = true;
    result = salvage_find_orphans(work);
    if (result == 0) {
        result = take_alike(search);
    }
    if (result == 0) {
        result = take_between(search, false, false);
    }
    return result;
}

static bool has_lost(const struct salvage_work *work)
{
    return memchr(work->bad, 1, work->header.l1_entries) != NULL;
}

/* Whether a snapshot has the table there, too. */
static bool is_shared(const struct salvage_work *work, uint64_t index)
{
    uint64_t entry, table = l1_entry_table(work->l1[index]);

    for (size_t i = work->snapshots != NULL ? work->snapshots->count : 0; i > 0; i--) {
        if (salvage_snapshot_entry(work, &work->snapshots->snapshots[i - 1], index, &entry) &&
            l1_entry_table(entry) == table) {
            return true;
        }
    }
    return false;
}

/* Whether the entry may well be right, though of the table that it names hardly anything is left.
 */
static bool names_ruin(struct salvage_work *work, uint64_t index)
{
    uint64_t entry = work->l1[index];
    uint64_t table = l1_entry_table(entry), cluster = table >> work->header.cluster_bits;

    return ((entry & ENTRY_COPIED) != 0 || is_shared(work, index)) &&
           (entry & L1_ENTRY_RESERVED) == 0 && table % work->header.cluster_size == 0 &&
           table < work->file_size && check_counts_get(work->uses, cluster) == SALVAGE_FREE &&
           salvage_is_counted(work, cluster);
}

/* What is left of entries that lead nowhere. */
static int give_up(struct salvage_l1 *search)
{
    struct salvage_work *work = search->work;
    int result = 0;

    for (uint64_t i = 0; i < work->header.l1_entries && result == 0; i++) {
        if (work->bad[i] == BAD_OR_EMPTY) {
            work->bad[i] = 0;
        } else if (work->bad[i] && names_ruin(work, i)) {
            work->bad[i] = 0;
            work->lost_tables = true;
            search->ruins++;
            result = check_counts_set(work->uses,
                                      l1_entry_table(work->l1[i]) >> work->header.cluster_bits,
                                      SALVAGE_TABLE);
        } else if (work->bad[i]) {
            work->l1[i] = SALVAGE_LOST;
            work->lost_tables = true;
            search->missing++;
        }
    }
    return result == -ENOMEM ? salvage_no_memory(work) : 0;
}

/* --- All of it ---------------------------------------------------------------------------- */

int salvage_complete_l1(struct salvage_l1 *search)
{
    struct salvage_work *work = search->work;
    int result = 0;

    if (search->good < work->header.l1_entries) { /* something may be missing */
        result = salvage_find_orphans(work);
    }
    if (salvage_is_empty(work, 0, work->header.l1_entries)) {
        memset(work->bad, BAD_OR_EMPTY, work->header.l1_entries);
    }
    if (result == 0) {
        result = take_between(search, true, true);
    }
    if (result == 0) {
        result = take_alike(search);
    }
    if (result == 0) {
        result = take_successors(search);
    }
    if (result == 0) {
        take_from_snapshots(search);
        result = take_between(search, false, false);
    }
    if (result == 0) {
        result = take_between(search, true, false);
    }
    if (result == 0) {
        result = take_in_order(search);
    }
    if (result == 0 && has_lost(work)) {
        result = take_shared(search);
    }
    return result == 0 ? give_up(search) : result;
}
