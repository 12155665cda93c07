/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "breaks.h"

#include "meta/format.h"
#include "tools.h"
#include "util/bytes.h"
#include "util/checked.h"

#include <stdlib.h>
#include <string.h>

/* What a cluster of the image file ever was during the run. */
enum role {
    ROLE_DATA = 1,
    ROLE_HEADER = 2,
    ROLE_L1 = 4,
    ROLE_L2 = 8,
    ROLE_REFCOUNT_TABLE = 16,
    ROLE_REFCOUNT_BLOCK = 32,
    ROLE_BITMAPS = 64, /* the directory */
    ROLE_ANY = 127,
};

struct roles {
    struct disk disk; /* as the log makes it */
    uint32_t bits;
    uint8_t *of; /* each cluster */
    uint64_t clusters;
};

/* --- Roles --------------------------------------------------------------------------------- */

static void give_role(struct roles *roles, uint64_t offset, uint64_t length, enum role role)
{
    uint64_t cluster;

    for (cluster = offset >> roles->bits; cluster << roles->bits < offset + length; cluster++) {
        if (cluster < roles->clusters) {
            roles->of[cluster] |= (uint8_t)role;
        }
    }
}

/* The bitmap directory, where the header has one. */
static void look_for_bitmaps(struct roles *roles)
{
    const uint8_t *header = roles->disk.data;
    uint64_t cluster = UINT64_C(1) << roles->bits, at = load_be32(header + HEADER_HEADER_LENGTH);

    while (at + 8 + BITMAPS_EXTENSION_LENGTH <= cluster && load_be32(header + at) != 0) {
        if (load_be32(header + at) == EXTENSION_BITMAPS) {
            give_role(roles, load_be64(header + at + 8 + BITMAPS_DIRECTORY_OFFSET),
                      load_be64(header + at + 8 + BITMAPS_DIRECTORY_SIZE), ROLE_BITMAPS);
        }
        at += 8 + div_round_up(load_be32(header + at + 4), 8) * 8;
    }
}

/* What the header and the tables say now. */
static void look(struct roles *roles)
{
    const uint8_t *header = roles->disk.data;
    uint64_t cluster = UINT64_C(1) << roles->bits, i;
    uint64_t l1 = load_be64(header + HEADER_L1_TABLE_OFFSET);
    uint64_t l1_entries = load_be32(header + HEADER_L1_SIZE);
    uint64_t table = load_be64(header + HEADER_REFCOUNT_TABLE_OFFSET);
    uint64_t table_size = (uint64_t)load_be32(header + HEADER_REFCOUNT_TABLE_CLUSTERS) * cluster;

    give_role(roles, 0, cluster, ROLE_HEADER);
    if (load_be32(header + HEADER_VERSION) >= 3) {
        look_for_bitmaps(roles);
    }
    give_role(roles, l1, l1_entries * L1_ENTRY_BYTES, ROLE_L1);
    give_role(roles, table, table_size, ROLE_REFCOUNT_TABLE);
    for (i = 0; i < l1_entries; i++) {
        uint64_t l2 = l1_entry_table(load_be64(header + l1 + i * L1_ENTRY_BYTES));

        if (l2 != 0) {
            give_role(roles, l2, cluster, ROLE_L2);
        }
    }
    for (i = 0; i < table_size; i += REFCOUNT_TABLE_ENTRY_BYTES) {
        uint64_t block = load_be64(header + table + i);

        if (block != 0) {
            give_role(roles, block, cluster, ROLE_REFCOUNT_BLOCK);
        }
    }
}

static unsigned role_of(const struct roles *roles, const struct log_entry *entry)
{
    uint64_t cluster = entry->offset >> roles->bits;

    if (entry->kind != LOG_WRITE || cluster >= roles->clusters) {
        return 0;
    }
    return roles->of[cluster] != 0 ? roles->of[cluster] : ROLE_DATA;
}

static void find_roles(struct roles *roles, const struct run *run)
{
    const struct disk *base = &run->base->stack.disks[DISK_IMAGE];
    size_t i;

    disk_init(&roles->disk, DISK_IMAGE, base->data, base->size);
    roles->bits = load_be32(base->data + HEADER_CLUSTER_BITS);
    roles->clusters = (UINT64_C(64) << 20) >> roles->bits;
    roles->of = grab(roles->clusters);
    look(roles);
    for (i = 0; i < run->log.count; i++) {
        const struct log_entry *entry = &run->log.entries[i];

        disk_apply(&roles->disk, entry);
        if ((role_of(roles, entry) & (ROLE_HEADER | ROLE_L1 | ROLE_REFCOUNT_TABLE)) != 0) {
            look(roles);
        }
    }
}

/* --- Another order ------------------------------------------------------------------------- */

/* The end of the sync at or behind `from`; the log's end where there is none. */
static size_t next_sync(const struct crash_log *log, size_t from)
{
    while (from < log->count && log->entries[from].kind != LOG_SYNC_END) {
        from++;
    }
    return from;
}

static bool has_role(const struct crash_log *log, const struct roles *roles, size_t from, size_t to,
                     unsigned wanted)
{
    for (; from < to; from++) {
        if ((role_of(roles, &log->entries[from]) & wanted) != 0) {
            return true;
        }
    }
    return false;
}

static size_t moved(const size_t *place, size_t position)
{
    return position == SIZE_MAX ? SIZE_MAX : place[position];
}

/* The model's positions follow the entries. */
static void follow(struct model *model, const size_t *place)
{
    size_t i;

    for (i = 0; i < model->version_count; i++) {
        model->versions[i].born = moved(place, model->versions[i].born);
        model->versions[i].done = moved(place, model->versions[i].done);
    }
    for (i = 1; i < model->size_count; i++) {
        model->sizes[i].born = moved(place, model->sizes[i].born);
        model->sizes[i].done = moved(place, model->sizes[i].done);
    }
    for (i = 0; i < model->flush_count; i++) {
        model->flushes[i].begun = moved(place, model->flushes[i].begun);
        model->flushes[i].done = moved(place, model->flushes[i].done);
    }
}

/* Puts the entries in this order: order[new] = old. */
static void rearrange(struct run *run, const size_t *order)
{
    struct crash_log *log = &run->log;
    struct log_entry *entries = grab(log->count * sizeof(*entries));
    size_t *place = grab(log->count * sizeof(*place)), i;

    for (i = 0; i < log->count; i++) {
        entries[i] = log->entries[order[i]];
        place[order[i]] = i;
    }
    for (i = 0; i < log->count; i++) {
        if (entries[i].kind == LOG_SYNC_END) {
            entries[i].offset = place[entries[i].offset];
        }
    }
    memcpy(log->entries, entries, log->count * sizeof(*entries));
    follow(&run->model, place);
    free(entries);
    free(place);
}

/*
 * What is written to `late` comes behind the sync that should have been behind
 * it, where after that something is written that relies on it.
 */
static void delay(struct run *run, unsigned late, unsigned relies)
{
    struct crash_log *log = &run->log;
    size_t *order = grab(log->count * sizeof(*order)), at = 0, from = 0, i, pass;
    struct roles roles;

    find_roles(&roles, run);
    while (from < log->count) {
        size_t sync = next_sync(log, from), after = next_sync(log, sync + 1);
        bool moves = after < log->count && has_role(log, &roles, sync + 1, after, relies);

        for (pass = 0; pass < 2; pass++) {
            for (i = from; i <= sync && i < log->count; i++) {
                bool is_late = moves && (role_of(&roles, &log->entries[i]) & late) != 0;

                if (is_late == (pass == 1)) {
                    order[at++] = i;
                }
            }
        }
        from = sync + 1;
    }
    rearrange(run, order);
    disk_release(&roles.disk);
    free(roles.of);
    free(order);
}

/* R7: the last sync before a flush returns is none. */
static void lie(struct crash_log *log)
{
    size_t i;

    for (i = 0; i + 1 < log->count; i++) {
        if (log->entries[i].kind == LOG_SYNC_END && log->entries[i + 1].kind == LOG_MARK) {
            log->entries[i].kind = LOG_MARK;
            log->entries[i].note = "a sync that was none";
        }
    }
}

void breaks_apply(const char *rule, struct run *run)
{
    if (rule == NULL) {
        return;
    }
    if (strcmp(rule, "R1") == 0) {
        delay(run, ROLE_DATA, ROLE_L2);
    } else if (strcmp(rule, "R2") == 0) {
        delay(run, ROLE_REFCOUNT_BLOCK, ROLE_L1 | ROLE_L2);
        delay(run, ROLE_REFCOUNT_BLOCK, ROLE_L1 | ROLE_L2); /* with the pointer to the table */
    } else if (strcmp(rule, "R3") == 0) {
        delay(run, ROLE_L1 | ROLE_L2, ROLE_L1 | ROLE_HEADER);
    } else if (strcmp(rule, "R6") == 0) {
        delay(run, ROLE_BITMAPS, ROLE_ANY);
        delay(run, ROLE_BITMAPS, ROLE_ANY);
        delay(run, ROLE_BITMAPS, ROLE_ANY);
    } else if (strcmp(rule, "R5") == 0) {
        delay(run, ROLE_HEADER, ROLE_ANY);
        delay(run, ROLE_HEADER, ROLE_ANY);
        delay(run, ROLE_HEADER, ROLE_ANY);
    } else if (strcmp(rule, "R7") == 0) {
        lie(&run->log);
    } else {
        die("there is no way to break %s in a log", rule);
    }
}
