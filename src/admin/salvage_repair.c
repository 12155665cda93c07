/* SPDX-License-Identifier: MIT */
/*
 * Entries of L2 tables that are damaged, or were lost: what a snapshot has in their place, and
 * which clusters are left between those of their neighbours.
 */
#include "config.h"

#include "admin/salvage_internal.h"

#include "meta/format.h"
#include "store/patched.h"
#include "util/checked.h"

#include <errno.h>
#include <string.h>

#define SECTOR         512
#define ASKED_MAX      (UINT64_C(1) << 22) /* entries of snapshots that are looked at */
#define TABLES_BETWEEN 3                   /* an L2 table, a refcount block */
#define SEARCHED_MAX   (UINT64_C(1) << 26) /* clusters that are looked at for left ones */
#define BLOCK_COST     64 /* bytes of a refcount block that take as long as one of these */

struct repair {
    struct salvage_work *work;
    uint64_t index;  /* of the L1 entry */
    uint64_t offset; /* of the table */
    uint64_t inside; /* entries that are in the file */
    uint64_t before; /* host offset of the last entry of the table before it; 0: it has none */
    uint64_t behind; /* of the first one of the next table, likewise */
    bool changed;
    uint64_t deduced, older, missing;
};

/* A run of entries that are empty or damaged. */
struct run {
    uint64_t begin, end;     /* entries */
    uint64_t before, behind; /* host offsets of those around it, or 0 */
    bool fits;               /* it was lost as a whole, and what is left there is its */
    bool scattered;          /* but not in one piece: whatever is left between, in that order */
};

/* --- One entry ------------------------------------------------------------------------- */

/* Whether nobody has the cluster, though it is in use. */
static bool is_left(struct salvage_work *work, uint64_t host)
{
    uint64_t cluster = host >> work->header.cluster_bits;

    return host != 0 && host % work->header.cluster_size == 0 && host < work->file_size &&
           check_counts_get(work->uses, cluster) == SALVAGE_FREE &&
           salvage_is_counted(work, cluster);
}

/* What has two users though it says that it is one's alone is wrong in one of these. */
static bool is_doubtful(const struct salvage_work *work, uint64_t entry)
{
    return l2_entry_is_copied(entry) &&
           check_counts_get(work->uses, l2_entry_host_offset(entry) >> work->header.cluster_bits) !=
               SALVAGE_USED;
}

static uint64_t host_at(const struct repair *repair, uint64_t index)
{
    return l2_entry_host_offset(load_be64(salvage_entry_at(repair->work, index)));
}

/* Whether the entry goes on where one beside it ends: of two that name a cluster it is the right
 * one. */
static bool is_in_line(const struct repair *repair, uint64_t index)
{
    uint64_t size = repair->work->header.cluster_size, host = host_at(repair, index);

    return (index > 0 && host_at(repair, index - 1) + size == host) ||
           (index + 1 < repair->inside && host_at(repair, index + 1) == host + size);
}

static enum salvage_entry kind_at(const struct repair *repair, uint64_t index)
{
    uint64_t entry = load_be64(salvage_entry_at(repair->work, index));
    enum salvage_entry kind =
        index < repair->inside ? salvage_judge(repair->work, entry) : SALVAGE_ENTRY_BAD;

    return kind == SALVAGE_ENTRY_DATA && is_doubtful(repair->work, entry) &&
                   !is_in_line(repair, index)
               ? SALVAGE_ENTRY_BAD
               : kind;
}

static int set_entry(struct repair *repair, uint64_t index, uint64_t host)
{
    struct salvage_work *work = repair->work;
    uint8_t *raw = salvage_entry_at(work, index);

    store_be64(raw, host | ENTRY_COPIED);
    if (work->header.extended_l2) {
        uint64_t bitmap = load_be64(raw + L2_ENTRY_BYTES);

        if (bitmap_allocated(bitmap) == 0 ||
            (bitmap_allocated(bitmap) & bitmap_zero(bitmap)) != 0) {
            store_be64(raw + L2_ENTRY_BYTES, UINT32_MAX);
        }
    }
    repair->changed = true;
    repair->deduced++;
    return salvage_use_data(work, host >> work->header.cluster_bits);
}

/* --- What snapshots have ----------------------------------------------------------------- */

/* The entry that a snapshot has in the place of this one. False: none, or an empty one. */
static bool snapshot_entry(const struct repair *repair, size_t snapshot, uint64_t index,
                           uint8_t raw[L2_ENTRY_BYTES_EXTENDED])
{
    struct salvage_work *work = repair->work;
    uint64_t entry, offset, bytes = work->header.l2_entry_bytes;

    if (!salvage_snapshot_entry(work, &work->snapshots->snapshots[snapshot], repair->index,
                                &entry)) {
        return false;
    }
    offset = l1_entry_table(entry) + index * bytes;
    return l1_entry_table(entry) != repair->offset &&
           range_within(offset, bytes, work->file_size) &&
           store_read(work->file, offset, raw, (size_t)bytes) == 0 && load_be64(raw) != 0;
}

/* The last snapshot's that has one; whose cluster `shared` snapshots have there. */
static bool older_entry(const struct repair *repair, uint64_t index,
                        uint8_t raw[L2_ENTRY_BYTES_EXTENDED], uint64_t *shared)
{
    const struct snapshot_table *snapshots = repair->work->snapshots;
    uint8_t other[L2_ENTRY_BYTES_EXTENDED];
    size_t count = snapshots != NULL ? snapshots->count : 0;
    bool found = false;

    *shared = 0;
    repair->work->asked += count;
    for (size_t i = repair->work->asked <= ASKED_MAX ? count : 0; i > 0; i--) {
        if (!snapshot_entry(repair, i - 1, index, found ? other : raw)) {
            continue;
        }
        *shared += !found ||
                   l2_entry_host_offset(load_be64(other)) == l2_entry_host_offset(load_be64(raw));
        found = true;
    }
    return found;
}

/*
 * Takes a snapshot's entry. `exact`: only where the cluster has one reference more than snapshots
 * have to it there, which is that of the entry that was lost. 1: it was taken; 0.
 */
static int take_older(struct repair *repair, uint64_t index, bool exact)
{
    struct salvage_work *work = repair->work;
    uint8_t raw[L2_ENTRY_BYTES_EXTENDED];
    enum salvage_entry kind;
    uint64_t shared, count, entry;

    if (!older_entry(repair, index, raw, &shared)) {
        return 0;
    }
    entry = load_be64(raw) & ~ENTRY_COPIED;
    kind = salvage_judge(work, entry);
    count = salvage_count(work, l2_entry_host_offset(entry) >> work->header.cluster_bits);
    if (exact ? kind != SALVAGE_ENTRY_DATA || count == SALVAGE_COUNT_UNKNOWN || count <= shared
              : kind != SALVAGE_ENTRY_DATA && kind != SALVAGE_ENTRY_OTHER) {
        return 0;
    }
    store_be64(raw, entry);
    memcpy(salvage_entry_at(work, index), raw, (size_t)work->header.l2_entry_bytes);
    repair->changed = true;
    repair->deduced += exact;
    repair->older += !exact;
    return 1;
}

/* Whether the entry is in a sector of the table that has nothing: as one that was lost. */
static bool is_in_empty_sector(const struct repair *repair, uint64_t index)
{
    uint64_t in_sector = SECTOR / repair->work->header.l2_entry_bytes;
    uint64_t begin = index - index % in_sector, end = begin + in_sector;

    while (begin < end && load_be64(salvage_entry_at(repair->work, begin)) == 0) {
        begin++;
    }
    return begin == end;
}

/* Before anything else of the table is changed. */
static void take_exact(struct repair *repair)
{
    struct salvage_work *work = repair->work;
    uint64_t in_sector = SECTOR / work->header.l2_entry_bytes;
    bool empty = false;

    for (uint64_t i = 0; work->snapshots != NULL && i < repair->inside; i++) {
        if (i % in_sector == 0) {
            empty = is_in_empty_sector(repair, i);
        }
        if (empty || kind_at(repair, i) == SALVAGE_ENTRY_BAD) {
            (void)take_older(repair, i, true);
        }
    }
}

/* --- Runs of entries ----------------------------------------------------------------------- */

/* Whether the clusters from `host` on, as many as the run has entries, are all left. */
static bool are_left(const struct repair *repair, uint64_t host, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!is_left(repair->work, host + i * repair->work->header.cluster_size)) {
            return false;
        }
    }
    return true;
}

/* The next cluster behind `host` that is left, and before `end`; 0: none. */
static uint64_t next_left(struct salvage_work *work, uint64_t host, uint64_t end)
{
    do {
        host += work->header.cluster_size;
        work->searched++;
    } while (host < end && !is_left(work, host) && work->searched <= SEARCHED_MAX);
    return host < end && work->searched <= SEARCHED_MAX ? host : 0;
}

static bool are_all_bad(const struct repair *repair, const struct run *run)
{
    uint64_t index = run->begin;

    while (index < run->end && kind_at(repair, index) == SALVAGE_ENTRY_BAD) {
        index++;
    }
    return index == run->end;
}

/* Whether exactly as many clusters are left between those of its neighbours, among those of others.
 */
static bool is_scattered(const struct repair *repair, const struct run *run)
{
    struct salvage_work *work = repair->work;
    uint64_t count = run->end - run->begin, host = run->before;

    work->searched += work->header.cluster_size / BLOCK_COST;
    if (salvage_count(work, run->before >> work->header.cluster_bits) == SALVAGE_COUNT_UNKNOWN) {
        return false;
    }
    for (uint64_t i = 0; i < count; i++) {
        host = next_left(work, host, run->behind);
        if (host == 0) {
            return false;
        }
    }
    return next_left(work, host, run->behind) == 0 && work->searched <= SEARCHED_MAX;
}

/*
 * Whether entries that may be empty were lost: as many clusters are left between those of their
 * neighbours; or, where there is one neighbour alone, beside it, and whole sectors of the table are
 * empty. Not where a whole table was lost: what is left may be its.
 */
static bool is_lost_run(const struct repair *repair, struct run *run)
{
    uint64_t size = repair->work->header.cluster_size, count = run->end - run->begin;
    uint64_t in_sector = SECTOR / repair->work->header.l2_entry_bytes;
    bool sectors =
        run->begin % in_sector == 0 && run->end % in_sector == 0 && !repair->work->lost_tables;

    if (run->before != 0 && run->behind != 0) {
        uint64_t first = run->before + size;

        if (run->behind == first + count * size) {
            return are_left(repair, first, count);
        }
        run->scattered = run->before < run->behind && (sectors || are_all_bad(repair, run)) &&
                         is_scattered(repair, run);
        return run->scattered;
    }
    if (run->before != 0 && sectors) {
        return are_left(repair, run->before + size, count);
    }
    if (run->behind > count * size && sectors) {
        return are_left(repair, run->behind - count * size, count);
    }
    return false;
}

static struct run look_at_run(const struct repair *repair, uint64_t begin, uint64_t end)
{
    struct run run = {.begin = begin, .end = end};

    if (begin == 0) {
        run.before = repair->before;
    } else if (kind_at(repair, begin - 1) == SALVAGE_ENTRY_DATA) {
        run.before = host_at(repair, begin - 1);
    }
    if (end == salvage_entries_of(repair->work)) {
        run.behind = repair->behind;
    } else if (kind_at(repair, end) == SALVAGE_ENTRY_DATA) {
        run.behind = host_at(repair, end);
    }
    run.fits = is_lost_run(repair, &run);
    return run;
}

/* Nothing tells which cluster it named. */
static void give_up(struct repair *repair, uint64_t index)
{
    if (index >= repair->inside) {
        store_be64(salvage_entry_at(repair->work, index), SALVAGE_LOST);
        repair->changed = true;
        repair->missing++;
    } else {
        repair->missing +=
            salvage_judge(repair->work, load_be64(salvage_entry_at(repair->work, index))) ==
            SALVAGE_ENTRY_BAD;
    }
}

static int repair_entry(struct repair *repair, struct run *run, uint64_t index)
{
    struct salvage_work *work = repair->work;
    uint64_t size = work->header.cluster_size, back = (run->end - index) * size;
    uint64_t forward = run->before != 0 ? run->before + (index - run->begin + 1) * size : 0;
    uint64_t backward = run->behind > back ? run->behind - back : 0;

    if (!run->fits && kind_at(repair, index) != SALVAGE_ENTRY_BAD) {
        return 0; /* it may well be empty */
    }
    if (run->scattered) {
        run->before = next_left(work, run->before, run->behind);
        return run->before != 0 ? set_entry(repair, index, run->before) : 0;
    }
    if (!run->fits && index < repair->inside && is_left(work, host_at(repair, index))) {
        return set_entry(repair, index, host_at(repair, index)); /* but for its reserved bits */
    }
    if (is_left(work, forward)) {
        return set_entry(repair, index, forward);
    }
    if (is_left(work, backward)) {
        return set_entry(repair, index, backward);
    }
    if (take_older(repair, index, false) == 0) {
        give_up(repair, index);
    }
    return 0;
}

/* --- Single entries ------------------------------------------------------------------------ */

/* Whether the entry names what lies behind the file, and exactly one cluster is left where it
 * should. */
static bool is_far_out(const struct repair *repair, uint64_t index)
{
    uint64_t size = repair->work->header.cluster_size;

    return salvage_judge(repair->work, load_be64(salvage_entry_at(repair->work, index))) ==
               SALVAGE_ENTRY_OUTSIDE &&
           kind_at(repair, index - 1) == SALVAGE_ENTRY_DATA &&
           kind_at(repair, index + 1) == SALVAGE_ENTRY_DATA &&
           host_at(repair, index + 1) == host_at(repair, index - 1) + 2 * size &&
           is_left(repair->work, host_at(repair, index - 1) + size);
}

/* A subcluster cannot have data and be zeros: then all have data, since the cluster is there. */
static void mend_bitmap(struct repair *repair, uint64_t index)
{
    uint8_t *raw = salvage_entry_at(repair->work, index);
    uint64_t bitmap = load_be64(raw + L2_ENTRY_BYTES);

    if ((bitmap_allocated(bitmap) & bitmap_zero(bitmap)) != 0 &&
        kind_at(repair, index) == SALVAGE_ENTRY_DATA) {
        store_be64(raw + L2_ENTRY_BYTES, UINT32_MAX);
        repair->changed = true;
        repair->deduced++;
    }
}

static int mend_single(struct repair *repair)
{
    struct salvage_work *work = repair->work;
    int result = 0;

    for (uint64_t i = 1; i + 1 < repair->inside && result == 0; i++) {
        if (is_far_out(repair, i)) {
            result = set_entry(repair, i, host_at(repair, i - 1) + work->header.cluster_size);
        }
    }
    for (uint64_t i = 0; work->header.extended_l2 && i < repair->inside; i++) {
        mend_bitmap(repair, i);
    }
    return result;
}

/* The table in work->table. */
static int repair_table(struct repair *repair)
{
    struct salvage_work *work = repair->work;
    uint64_t size = work->header.cluster_size, entries = salvage_entries_of(work), i = 0;
    int result = 0;

    repair->inside = min_u64(size, work->file_size - repair->offset) / work->header.l2_entry_bytes;
    take_exact(repair);
    result = mend_single(repair);
    while (i < entries && result == 0) {
        uint64_t begin = i;
        struct run run;

        while (i < entries && (kind_at(repair, i) == SALVAGE_ENTRY_EMPTY ||
                               kind_at(repair, i) == SALVAGE_ENTRY_BAD)) {
            i++;
        }
        if (i == begin) {
            i++;
            continue;
        }
        run = look_at_run(repair, begin, i);
        for (uint64_t k = begin; k < i && result == 0; k++) {
            result = repair_entry(repair, &run, k);
        }
    }
    if (result == 0 && repair->changed && work->patches + size <= SALVAGE_PATCHES_MAX) {
        work->patches += size;
        result = store_patch_add(work->patched, repair->offset, work->table, in_memory(size)) < 0
                     ? salvage_no_memory(work)
                     : 0;
    }
    return result;
}

/* --- All tables --------------------------------------------------------------------------------
 */

/* Whether the cluster is a table, which may lie between the data of two. */
static bool is_between(const struct salvage_work *work, uint64_t host)
{
    return host > 0 && host < work->file_size &&
           check_counts_get(work->uses, host >> work->header.cluster_bits) == SALVAGE_TABLE;
}

/*
 * The cluster that an entry of another table names as data, or the farthest table in the direction
 * of `step` that lies beside it; 0: none.
 */
static uint64_t neighbour(const struct salvage_work *work, uint64_t l1_index, uint64_t index,
                          uint64_t step)
{
    uint64_t table, entry, host;
    uint8_t raw[L2_ENTRY_BYTES];

    if (l1_index >= work->header.l1_entries || work->bad[l1_index] || work->l1[l1_index] == 0) {
        return 0;
    }
    table = l1_entry_table(work->l1[l1_index]) + index * work->header.l2_entry_bytes;
    if (!range_within(table, sizeof(raw), work->file_size) ||
        store_read(work->file, table, raw, sizeof(raw)) < 0) {
        return 0;
    }
    entry = load_be64(raw);
    if (salvage_judge(work, entry) != SALVAGE_ENTRY_DATA || is_doubtful(work, entry)) {
        return 0;
    }
    host = l2_entry_host_offset(entry);
    for (int i = 0; i < TABLES_BETWEEN && is_between(work, host + step); i++) {
        host += step;
    }
    return host;
}

int salvage_repair_entries(struct salvage_work *work)
{
    uint64_t size = work->header.cluster_size, last = salvage_entries_of(work) - 1;
    uint64_t deduced = 0, older = 0, missing = 0;
    int result = 0;

    for (uint64_t i = 0; i < work->header.l1_entries && result == 0; i++) {
        struct repair repair = {.work = work, .index = i, .offset = l1_entry_table(work->l1[i])};
        bool whole;

        if (work->bad[i] || repair.offset == 0 || repair.offset >= work->file_size ||
            work->header.external_data_file) {
            continue;
        }
        repair.before = i > 0 ? neighbour(work, i - 1, last, size) : 0;
        repair.behind = neighbour(work, i + 1, 0, -size);
        (void)salvage_is_table(work, repair.offset, &whole); /* also where it is hardly one */
        if (work->is_hole && work->snapshots == NULL && repair.before == 0 && repair.behind == 0) {
            continue; /* nothing tells that it had anything */
        }
        result = repair_table(&repair);
        deduced += repair.deduced;
        older += repair.older;
        missing += repair.missing;
    }
    salvage_tell(work, SALVAGE_DEDUCED, "l2-entries", deduced,
                 "by the clusters of their neighbours, and what snapshots share");
    salvage_tell(work, SALVAGE_DEDUCED, "l2-entries", older,
                 "of a snapshot: what it shows is older");
    salvage_tell(work, SALVAGE_MISSING, "l2-entries", missing, NULL);
    return result;
}
