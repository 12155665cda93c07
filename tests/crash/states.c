/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "states.h"

#include "model.h"
#include "util/checked.h"

#include <stdlib.h>
#include <string.h>

#define INDEX_SECTORS ((UINT64_C(256) << 20) / SECTOR)

/* --- What is pending ----------------------------------------------------------------------- */

static bool changes_disk(const struct log_entry *entry)
{
    return entry->kind == LOG_WRITE || entry->kind == LOG_PUNCH || entry->kind == LOG_RESIZE;
}

static struct touched *touch(struct states *states, unsigned disk, uint64_t sector)
{
    struct window *window = &states->window;
    uint32_t *index = &states->index[disk][sector];
    struct touched *touched;

    if (*index == 0) {
        window->touched = room(window->touched, window->touched_count, &window->touched_capacity,
                               sizeof(*window->touched));
        window->touched[window->touched_count++] = (struct touched){.disk = disk, .sector = sector};
        *index = (uint32_t)window->touched_count;
    }
    touched = &window->touched[*index - 1];
    return touched;
}

/* A change of a sector on its way to `contents`, where they stand by sector in the end. */
struct change {
    size_t touched;
    struct content content;
};

struct changes {
    struct change *list;
    size_t count, capacity;
};

static void add_change(struct states *states, struct changes *changes, unsigned disk,
                       uint64_t sector, const uint8_t *bytes, size_t pending, bool truncated)
{
    struct touched *touched = touch(states, disk, sector);
    struct change *change;

    touched->versions++;
    changes->list = room(changes->list, changes->count, &changes->capacity, sizeof(*changes->list));
    change = &changes->list[changes->count++];
    change->touched = (size_t)(touched - states->window.touched);
    change->content = (struct content){.pending = pending, .truncated = truncated};
    memcpy(change->content.bytes, bytes, SECTOR);
}

static void add_size(struct sizes *sizes, size_t pending, uint64_t bytes)
{
    sizes->list = room(sizes->list, sizes->count, &sizes->capacity, sizeof(*sizes->list));
    sizes->list[sizes->count++] = (struct size){pending, bytes};
}

/* The sectors that an entry may change. */
static void range_of(const struct log_entry *entry, const struct disk *disk, uint64_t *from,
                     uint64_t *to)
{
    uint64_t begin = entry->offset, end = entry->offset + entry->length;

    if (entry->kind == LOG_RESIZE) {
        begin = min_u64(entry->length, disk->size);
        end = disk->size; /* what it gains is zeros already */
    } else if (entry->kind == LOG_PUNCH) {
        end = min_u64(end, disk->size);
    }
    *from = begin / SECTOR;
    *to = max_u64(*from, div_round_up(end, SECTOR));
}

/* Does the entry, and notes each sector that is another then. */
static void note_entry(struct states *states, struct changes *changes, size_t entry_index)
{
    const struct log_entry *entry = &states->log->entries[entry_index];
    struct disk *disk = &states->disks[entry->disk];
    struct window *window = &states->window;
    uint64_t from, to, sector, size = disk->size;
    size_t number = window->pending_count, before = changes->count;
    uint8_t *old;

    window->pending = room(window->pending, window->pending_count, &window->pending_capacity,
                           sizeof(*window->pending));
    range_of(entry, disk, &from, &to);
    old = grab((to - from) * SECTOR);
    memcpy(old, disk->data + from * SECTOR, (to - from) * SECTOR);
    disk_apply(disk, entry);
    for (sector = from; sector < to; sector++) {
        const uint8_t *bytes = disk->data + sector * SECTOR;

        if (memcmp(old + (sector - from) * SECTOR, bytes, SECTOR) != 0) {
            add_change(states, changes, entry->disk, sector, bytes, number,
                       entry->kind == LOG_RESIZE);
        }
    }
    free(old);
    if (disk->size != size) {
        add_size(&window->sizes[entry->disk], number, disk->size);
    }
    window->pending[window->pending_count++] = (struct pending){
        .entry = entry_index,
        .changes = changes->count - before,
        .stamped = entry->kind == LOG_WRITE && is_stamped(entry->data, entry->length),
    };
}

/* Puts the changes in order of their sectors; the disks are stable again. */
static void sort_changes(struct states *states, const struct changes *changes)
{
    struct window *window = &states->window;
    size_t i, at = 0;

    while (window->content_capacity < changes->count + window->touched_count + 1) {
        window->contents = room(window->contents, window->content_capacity,
                                &window->content_capacity, sizeof(*window->contents));
    }
    for (i = 0; i < window->touched_count; i++) {
        struct touched *touched = &window->touched[i];

        touched->first = at;
        memcpy(window->contents[at].bytes,
               states->disks[touched->disk].data + touched->sector * SECTOR, SECTOR);
        at += 1 + touched->versions;
        touched->versions = 0;
    }
    for (i = 0; i < changes->count; i++) {
        struct touched *touched = &window->touched[changes->list[i].touched];

        window->contents[touched->first + ++touched->versions] = changes->list[i].content;
    }
}

static void count_combinations(struct window *window)
{
    size_t i;

    window->combinations = 1;
    for (i = 0; i < window->touched_count + DISKS; i++) {
        uint64_t choices =
            i < DISKS ? window->sizes[i].count : window->touched[i - DISKS].versions + 1;

        if (!checked_mul(window->combinations, choices, &window->combinations) ||
            window->combinations > COMBINATIONS_MAX) {
            window->combinations = COMBINATIONS_MAX;
            return;
        }
    }
}

static void forget(struct states *states)
{
    struct window *window = &states->window;
    size_t i;

    for (i = 0; i < window->touched_count; i++) {
        states->index[window->touched[i].disk][window->touched[i].sector] = 0;
    }
    window->touched_count = 0;
    window->pending_count = 0;
    for (i = 0; i < DISKS; i++) {
        window->sizes[i].count = 0;
    }
}

/* The window of a crash right before the entry `crash`. */
static void build(struct states *states, size_t crash)
{
    struct window *window = &states->window;
    struct changes changes = {0};
    size_t i;

    forget(states);
    window->crash = crash;
    for (i = 0; i < DISKS; i++) {
        disk_checkpoint(&states->disks[i]);
        add_size(&window->sizes[i], 0, states->disks[i].size);
    }
    for (i = min_u64(states->covered[0], states->covered[1]); i < crash; i++) {
        const struct log_entry *entry = &states->log->entries[i];

        if (changes_disk(entry) && i >= states->covered[entry->disk]) {
            note_entry(states, &changes, i);
        }
    }
    for (i = 0; i < DISKS; i++) {
        disk_undo(&states->disks[i]);
    }
    sort_changes(states, &changes);
    count_combinations(window);
    free(changes.list);
}

/* --- From window to window ----------------------------------------------------------------- */

void states_begin(struct states *states, const struct crash_log *log, struct disk *disks)
{
    size_t i;

    *states = (struct states){.log = log, .disks = disks};
    for (i = 0; i < DISKS; i++) {
        states->index[i] = grab(INDEX_SECTORS * sizeof(*states->index[i]));
    }
}

void states_end(struct states *states)
{
    size_t i;

    for (i = 0; i < DISKS; i++) {
        free(states->index[i]);
        free(states->window.sizes[i].list);
    }
    free(states->window.pending);
    free(states->window.touched);
    free(states->window.contents);
}

/* The sync has ended: what stands before its beginning is stable. */
static void settle(struct states *states, const struct log_entry *sync)
{
    size_t *covered = &states->covered[sync->disk];

    for (; *covered < sync->offset; (*covered)++) {
        const struct log_entry *entry = &states->log->entries[*covered];

        if (entry->disk == sync->disk && changes_disk(entry)) {
            disk_apply(&states->disks[sync->disk], entry);
        }
    }
}

bool states_next(struct states *states)
{
    const struct crash_log *log = states->log;

    while (states->next <= log->count) {
        size_t at = states->next++;
        const struct log_entry *entry = at < log->count ? &log->entries[at] : NULL;

        /* The window of the last sync's end was looked at: now it has happened. */
        if (at > 0 && log->entries[at - 1].kind == LOG_SYNC_END) {
            settle(states, &log->entries[at - 1]);
        }
        if (entry != NULL && entry->kind != LOG_SYNC_END) {
            continue;
        }
        build(states, at);
        if (states->window.pending_count > 0) {
            return true;
        }
    }
    return false;
}

/* --- Choosing ------------------------------------------------------------------------------ */

typedef bool choose_fn(void *context, size_t pending);

/* Each sector has what the last operation that was chosen left there. */
static void choose_operations(struct window *window, choose_fn *chosen, void *context)
{
    size_t i, j;

    for (i = 0; i < window->touched_count; i++) {
        struct touched *touched = &window->touched[i];

        touched->chosen = 0;
        for (j = 1; j <= touched->versions; j++) {
            if (chosen(context, window->contents[touched->first + j].pending)) {
                touched->chosen = j;
            }
        }
    }
    for (i = 0; i < DISKS; i++) {
        struct sizes *sizes = &window->sizes[i];

        sizes->chosen = 0;
        for (j = 1; j < sizes->count; j++) {
            if (chosen(context, sizes->list[j].pending)) {
                sizes->chosen = j;
            }
        }
    }
}

/* Operations [from, to), or all others. */
struct some {
    const struct window *window;
    size_t from, to;
    bool others;
};

static bool is_of_some(void *context, size_t pending)
{
    const struct some *some = context;

    return (pending >= some->from && pending < some->to) != some->others;
}

static bool is_stamped_operation(void *context, size_t pending)
{
    const struct some *some = context;

    return some->window->pending[pending].stamped != some->others;
}

static bool is_by_chance(void *context, size_t pending)
{
    struct chance chance = *(const struct chance *)context;

    chance.state += pending * UINT64_C(0x632be59bd9b4e019);
    return chance_below(&chance, 2) == 0;
}

static void choose_sizes(struct window *window, struct chance *chance)
{
    size_t i;

    for (i = 0; i < DISKS; i++) {
        struct sizes *sizes = &window->sizes[i];

        sizes->chosen =
            chance_below(chance, 4) > 0 ? sizes->count - 1 : chance_below(chance, sizes->count);
    }
}

/* Each sector by itself changes with the probability of / 8. */
static void choose_sectors(struct window *window, struct chance *chance, unsigned of)
{
    size_t i;

    for (i = 0; i < window->touched_count; i++) {
        struct touched *touched = &window->touched[i];

        touched->chosen =
            chance_below(chance, 8) < of ? 1 + chance_below(chance, touched->versions) : 0;
    }
    choose_sizes(window, chance);
}

/* All that was done before one operation, and that one torn. */
static void choose_prefix(struct window *window, struct chance *chance)
{
    struct some some = {.to = chance_below(chance, window->pending_count)};
    size_t i, j;

    choose_operations(window, is_of_some, &some);
    for (i = 0; i < window->touched_count; i++) {
        struct touched *touched = &window->touched[i];

        for (j = 1; j <= touched->versions; j++) {
            if (window->contents[touched->first + j].pending == some.to &&
                chance_below(chance, 2) == 0) {
                touched->chosen = j;
            }
        }
    }
}

/* All sectors, but one; or none but one. */
static void choose_one_sector(struct window *window, struct chance *chance, bool others)
{
    struct some all = {.others = true};
    struct touched *one;

    all.to = others ? 0 : window->pending_count;
    choose_operations(window, is_of_some, &all);
    choose_sizes(window, chance);
    if (window->touched_count > 0) {
        one = &window->touched[chance_below(chance, window->touched_count)];
        one->chosen =
            others ? chance_below(chance, one->versions) : 1 + chance_below(chance, one->versions);
    }
}

static void choose_combination(struct window *window, uint64_t index)
{
    size_t i;

    for (i = 0; i < DISKS; i++) {
        window->sizes[i].chosen = index % window->sizes[i].count;
        index /= window->sizes[i].count;
    }
    for (i = 0; i < window->touched_count; i++) {
        window->touched[i].chosen = index % (window->touched[i].versions + 1);
        index /= window->touched[i].versions + 1;
    }
}

/* Whether some of the operations wrote guest data, and some did not. */
static bool is_mixed(const struct window *window)
{
    size_t i, stamped = 0;

    for (i = 0; i < window->pending_count; i++) {
        stamped += window->pending[i].stamped;
    }
    return stamped > 0 && stamped < window->pending_count;
}

static void choose_nasty(struct window *window, uint64_t index, struct chance *chance)
{
    size_t n = window->pending_count, turn = (index - 4) / 9 % n;
    struct some some = {.window = window};

    if (index < 2) { /* nothing, all */
        some.to = n;
        some.others = index == 0;
        choose_operations(window, is_of_some, &some);
        return;
    }
    if (index < 4 && is_mixed(window)) { /* data without metadata, and the reverse */
        some.others = index == 2;
        choose_operations(window, is_stamped_operation, &some);
        return;
    }
    if (index < 4) { /* what comes last without what came first */
        some.from = index == 2 ? n - 1 : 1;
        some.to = n;
        choose_operations(window, is_of_some, &some);
        return;
    }
    switch ((index - 4) % 9) {
    case 0: /* only one, from the last on */
        some.from = n - 1 - turn;
        some.to = some.from + 1;
        choose_operations(window, is_of_some, &some);
        break;
    case 1: /* all but one, from the first on */
        some.from = turn;
        some.to = some.from + 1;
        some.others = true;
        choose_operations(window, is_of_some, &some);
        break;
    case 2:
        choose_prefix(window, chance);
        break;
    case 3:
        choose_one_sector(window, chance, true);
        break;
    case 4:
        choose_one_sector(window, chance, false);
        break;
    case 5:
        choose_sectors(window, chance, 4);
        break;
    case 6:
        choose_sectors(window, chance, 1);
        break;
    case 7:
        choose_sectors(window, chance, 7);
        break;
    default:
        choose_operations(window, is_by_chance, chance);
        break;
    }
}

/* The zeros of a truncation are there with its size, and not without. */
static void obey_truncations(struct window *window)
{
    size_t i, j;

    for (i = 0; i < window->touched_count; i++) {
        struct touched *touched = &window->touched[i];
        const struct sizes *sizes = &window->sizes[touched->disk];
        size_t last = sizes->list[sizes->chosen].pending;

        for (j = 1; j <= touched->versions; j++) {
            const struct content *content = &window->contents[touched->first + j];
            bool done = sizes->chosen > 0 && content->pending <= last;

            if (content->truncated && done && touched->chosen < j) {
                touched->chosen = j;
            } else if (content->truncated && !done && touched->chosen >= j) {
                touched->chosen = j - 1;
            }
        }
    }
}

/* --- Making -------------------------------------------------------------------------------- */

static void put(struct states *states, bool chosen)
{
    const struct window *window = &states->window;
    size_t i;

    for (i = 0; i < DISKS; i++) {
        const struct sizes *sizes = &window->sizes[i];

        disk_set_size(&states->disks[i], sizes->list[chosen ? sizes->chosen : 0].bytes);
    }
    for (i = 0; i < window->touched_count; i++) {
        const struct touched *touched = &window->touched[i];
        struct disk *disk = &states->disks[touched->disk];
        uint64_t offset = touched->sector * SECTOR;
        uint64_t inside = offset < disk->size ? min_u64(SECTOR, disk->size - offset) : 0;

        memcpy(disk->data + offset,
               window->contents[touched->first + (chosen ? touched->chosen : 0)].bytes, inside);
        memset(disk->data + offset + inside, 0, SECTOR - inside);
    }
}

void states_make(struct states *states, uint64_t index, uint64_t count, uint64_t seed)
{
    struct window *window = &states->window;
    struct chance chance = chance_from(seed, window->crash, index);

    if (window->combinations <= count) {
        choose_combination(window, index % window->combinations);
    } else {
        choose_nasty(window, index, &chance);
    }
    obey_truncations(window);
    put(states, true);
}

void states_restore(struct states *states)
{
    put(states, false);
}

/* --- Telling ------------------------------------------------------------------------------- */

static void describe_operation(const struct states *states, size_t number, FILE *file)
{
    const struct window *window = &states->window;
    const struct pending *pending = &window->pending[number];
    const struct log_entry *entry = &states->log->entries[pending->entry];
    size_t i, j, there = 0;

    for (i = 0; i < window->touched_count; i++) {
        const struct touched *touched = &window->touched[i];

        for (j = 1; j <= touched->chosen; j++) {
            there += window->contents[touched->first + j].pending == number;
        }
    }
    fprintf(file, "  %5zu %s ", pending->entry, entry->disk == DISK_IMAGE ? "image" : "data file");
    if (entry->kind == LOG_RESIZE) {
        fprintf(file, "resize to 0x%llx", (unsigned long long)entry->length);
    } else {
        fprintf(file, "%s 0x%llx + 0x%llx%s",
                entry->kind == LOG_PUNCH ? "punch"
                : pending->stamped       ? "write data"
                                         : "write",
                (unsigned long long)entry->offset, (unsigned long long)entry->length,
                entry->kind == LOG_PUNCH || pending->stamped ? "" : " metadata");
    }
    fprintf(file, ": %zu of %zu changed sectors arrived\n", there, pending->changes);
}

void states_describe(const struct states *states, FILE *file)
{
    const struct window *window = &states->window;
    size_t i, at = 0;

    fprintf(file,
            "  crash before entry %zu of the log; stable are entries before %zu (image), "
            "%zu (data file); sizes %llu, %llu\n",
            window->crash, states->covered[0], states->covered[1],
            (unsigned long long)window->sizes[0].list[window->sizes[0].chosen].bytes,
            (unsigned long long)window->sizes[1].list[window->sizes[1].chosen].bytes);
    for (i = min_u64(states->covered[0], states->covered[1]); i < window->crash; i++) {
        const struct log_entry *entry = &states->log->entries[i];

        if (entry->kind == LOG_MARK) {
            fprintf(file, "  %5zu %s\n", i, entry->note);
        } else if (entry->kind == LOG_SYNC_BEGIN || entry->kind == LOG_SYNC_END) {
            fprintf(file, "  %5zu sync %s\n", i,
                    entry->kind == LOG_SYNC_BEGIN ? "begins" : "has ended");
        } else if (at < window->pending_count && window->pending[at].entry == i) {
            describe_operation(states, at++, file);
        }
    }
}
