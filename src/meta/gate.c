/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/gate.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Clusters that are remembered together: a bit each. */
#define GROUP_BITS 6
#define GROUP      (UINT64_C(1) << GROUP_BITS)

#define SLOTS_FIRST 64
#define GROWTHS_MAX 56

/* What is known of the clusters of a group. */
struct group {
    _Atomic uint64_t number; /* of the group, plus 1; 0: the slot is free */
    _Atomic uint64_t tables[GATE_TABLES];
};

/*
 * A hash table with open addressing. A slot that is taken is never given up, so
 * a reader needs no lock; where half of the slots are taken a copy of twice the
 * size takes the place of all, and the old ones stay for who looks at them.
 */
struct groups {
    uint64_t slots; /* a power of two */
    uint64_t taken;
    struct group group[];
};

struct gate {
    const struct header *header;
    struct store *file;
    void (*hit)(void *context, uint64_t host_offset, const char *table);
    void *context;
    atomic_bool was_hit;
    struct groups *_Atomic groups;

    pthread_mutex_t mutex; /* guards what follows, and changes of the groups */
    struct groups *retired[GROWTHS_MAX];
    unsigned retired_count;
    bool conflict;
    uint64_t conflict_offset;
    const char *conflict_table;

    /* Around each write of the header; guards the bytes. A leaf but for the store, and a sync. */
    pthread_mutex_t header_mutex;
    uint8_t believed[HEADER_V3_LENGTH]; /* the fields that change, as memory has them */
    atomic_uint unsure;                 /* of these a bit for each word: see gate_settle() */
};

static const char *const table_names[GATE_TABLES] = {
    [GATE_TABLE_L2] = "L2 tables",
    [GATE_TABLE_BLOCK] = "refcount blocks",
    [GATE_TABLE_SNAPSHOTS] = "snapshot tables",
};

static struct groups *groups_create(uint64_t slots)
{
    struct groups *groups =
        calloc(1, in_memory(sizeof(*groups) + slots * sizeof(groups->group[0])));

    if (groups != NULL) {
        groups->slots = slots;
    }
    return groups;
}

/* The fields of the header that change while it is open; of all else nothing is believed. */
static void encode_fields(const struct header *header, uint8_t bytes[HEADER_V3_LENGTH])
{
    store_be64(bytes + HEADER_SIZE, header->virtual_size);
    store_be32(bytes + HEADER_L1_SIZE, header->l1_entries);
    store_be64(bytes + HEADER_L1_TABLE_OFFSET, header->l1_offset);
    store_be64(bytes + HEADER_REFCOUNT_TABLE_OFFSET, header->refcount_table_offset);
    store_be32(bytes + HEADER_REFCOUNT_TABLE_CLUSTERS, header->refcount_table_clusters);
    store_be32(bytes + HEADER_NB_SNAPSHOTS, header->snapshot_count);
    store_be64(bytes + HEADER_SNAPSHOTS_OFFSET, header->snapshots_offset);
    store_be64(bytes + HEADER_INCOMPATIBLE_FEATURES, header->incompatible_features);
    store_be64(bytes + HEADER_AUTOCLEAR_FEATURES, header->autoclear_features);
}

int gate_create(const struct header *header, struct store *file, struct gate **gate)
{
    *gate = calloc(1, sizeof(**gate));
    if (*gate == NULL) {
        return -ENOMEM;
    }
    (*gate)->header = header;
    (*gate)->file = file;
    encode_fields(header, (*gate)->believed);
    atomic_init(&(*gate)->groups, groups_create(SLOTS_FIRST));
    pthread_mutex_init(&(*gate)->mutex, NULL);
    pthread_mutex_init(&(*gate)->header_mutex, NULL);
    if (atomic_load(&(*gate)->groups) == NULL) {
        gate_destroy(*gate);
        *gate = NULL;
        return -ENOMEM;
    }
    return 0;
}

void gate_destroy(struct gate *gate)
{
    if (gate != NULL) {
        while (gate->retired_count > 0) {
            free(gate->retired[--gate->retired_count]);
        }
        free(atomic_load(&gate->groups));
        pthread_mutex_destroy(&gate->mutex);
        pthread_mutex_destroy(&gate->header_mutex);
        free(gate);
    }
}

void gate_set_owner(struct gate *gate,
                    void (*hit)(void *context, uint64_t host_offset, const char *table),
                    void *context)
{
    gate->hit = hit;
    gate->context = context;
}

/* --- What is known of clusters ------------------------------------------------------------- */

/* The slot of the group, or the free one where it would be. */
static struct group *slot_of(struct groups *groups, uint64_t number)
{
    uint64_t slot = number * UINT64_C(0x9e3779b97f4a7c15) >> 20;

    for (;; slot++) {
        struct group *group = &groups->group[slot & (groups->slots - 1)];
        uint64_t found = atomic_load_explicit(&group->number, memory_order_acquire);

        if (found == 0 || found == number + 1) {
            return group;
        }
    }
}

/* Twice as many slots. With the mutex held. */
static int grow(struct gate *gate)
{
    struct groups *old = atomic_load(&gate->groups), *new;
    uint64_t i;

    if (gate->retired_count == GROWTHS_MAX) {
        return -ENOMEM;
    }
    new = groups_create(old->slots * 2);
    if (new == NULL) {
        return -ENOMEM;
    }
    for (i = 0; i < old->slots; i++) {
        const struct group *from = &old->group[i];
        struct group *to;
        unsigned table;

        if (atomic_load(&from->number) == 0) {
            continue;
        }
        to = slot_of(new, atomic_load(&from->number) - 1);
        for (table = 0; table < GATE_TABLES; table++) {
            atomic_store(&to->tables[table], atomic_load(&from->tables[table]));
        }
        atomic_store(&to->number, atomic_load(&from->number));
        new->taken++;
    }
    gate->retired[gate->retired_count++] = old;
    atomic_store(&gate->groups, new);
    return 0;
}

/* The group, made where there is none; NULL when memory ran out. With the mutex held. */
static struct group *make_group(struct gate *gate, uint64_t number)
{
    struct groups *groups = atomic_load(&gate->groups);
    struct group *group = slot_of(groups, number);

    if (atomic_load(&group->number) != 0) {
        return group;
    }
    if (groups->taken >= groups->slots / 2) {
        if (grow(gate) < 0) {
            return NULL;
        }
        groups = atomic_load(&gate->groups);
        group = slot_of(groups, number);
    }
    groups->taken++;
    atomic_store_explicit(&group->number, number + 1, memory_order_release);
    return group;
}

/* With the mutex held. */
static void remember_conflict(struct gate *gate, uint64_t host_offset, const char *table)
{
    if (!gate->conflict && table != NULL) {
        gate->conflict = true;
        gate->conflict_offset = host_offset;
        gate->conflict_table = table;
    }
}

int gate_know(struct gate *gate, enum gate_table table, uint64_t host_offset)
{
    uint64_t cluster = host_offset >> gate->header->cluster_bits;
    const char *other;
    struct group *group;

    pthread_mutex_lock(&gate->mutex);
    if (table != GATE_TABLE_SNAPSHOTS) {
        other = gate_check(gate, GATE_OTHER, host_offset, gate->header->cluster_size);
    } else { /* these are never written, and may be the same for several snapshots */
        other = header_overlap(gate->header, HEADER_TABLE_NONE, host_offset,
                               gate->header->cluster_size);
    }
    remember_conflict(gate, host_offset, other);
    group = make_group(gate, cluster >> GROUP_BITS);
    if (group != NULL) {
        atomic_fetch_or(&group->tables[table], UINT64_C(1) << (cluster % GROUP));
    }
    pthread_mutex_unlock(&gate->mutex);
    return group == NULL ? -ENOMEM : 0;
}

void gate_forget(struct gate *gate, enum gate_table table, uint64_t host_offset)
{
    uint64_t cluster = host_offset >> gate->header->cluster_bits;
    struct group *group;

    pthread_mutex_lock(&gate->mutex);
    group = slot_of(atomic_load(&gate->groups), cluster >> GROUP_BITS);
    if (atomic_load(&group->number) != 0) {
        atomic_fetch_and(&group->tables[table], ~(UINT64_C(1) << (cluster % GROUP)));
    }
    pthread_mutex_unlock(&gate->mutex);
}

bool gate_conflict(struct gate *gate, uint64_t *host_offset, const char **table)
{
    bool conflict;

    pthread_mutex_lock(&gate->mutex);
    conflict = gate->conflict;
    *host_offset = gate->conflict_offset;
    *table = gate->conflict_table;
    pthread_mutex_unlock(&gate->mutex);
    return conflict;
}

/* --- Looking -------------------------------------------------------------------------------- */

/* The table, but `except`, that one of the clusters [first, last] is. */
static const char *table_among(struct gate *gate, unsigned except, uint64_t first, uint64_t last)
{
    struct groups *groups = atomic_load_explicit(&gate->groups, memory_order_acquire);

    while (first <= last) {
        uint64_t end = min_u64(last, first | (GROUP - 1));
        struct group *group = slot_of(groups, first >> GROUP_BITS);
        uint64_t bits = (UINT64_C(2) << (end % GROUP)) - (UINT64_C(1) << (first % GROUP));
        unsigned table;

        if (atomic_load_explicit(&group->number, memory_order_acquire) != 0) {
            for (table = 0; table < GATE_TABLES; table++) {
                if (table != except &&
                    (atomic_load_explicit(&group->tables[table], memory_order_relaxed) & bits) !=
                        0) {
                    return table_names[table];
                }
            }
        }
        if (end == UINT64_MAX) {
            break;
        }
        first = end + 1;
    }
    return NULL;
}

const char *gate_check(struct gate *gate, enum gate_use use, uint64_t host_offset, uint64_t length)
{
    static const enum header_table own[] = {
        [GATE_HEADER] = HEADER_TABLE_HEADER,
        [GATE_L1] = HEADER_TABLE_L1,
        [GATE_REFCOUNT_TABLE] = HEADER_TABLE_REFCOUNT,
        [GATE_REFCOUNT_BLOCK] = HEADER_TABLE_NONE,
        [GATE_L2] = HEADER_TABLE_NONE,
        [GATE_BITMAPS] = HEADER_TABLE_BITMAPS,
        [GATE_OTHER] = HEADER_TABLE_NONE,
    };
    uint32_t bits = gate->header->cluster_bits;
    uint64_t first = host_offset >> bits, last = (host_offset + length - 1) >> bits;
    const char *table;

    if (length == 0) {
        return NULL;
    }
    /* A cluster that a table ends in is no place for anything else. */
    table = header_overlap(gate->header, own[use], first << bits, (last - first + 1) << bits);
    if (table == NULL) {
        table = table_among(gate,
                            use == GATE_L2               ? GATE_TABLE_L2
                            : use == GATE_REFCOUNT_BLOCK ? GATE_TABLE_BLOCK
                                                         : GATE_TABLES,
                            first, last);
    }
    return table;
}

int gate_pass(struct gate *gate, enum gate_use use, uint64_t host_offset, uint64_t length)
{
    const char *table = gate_check(gate, use, host_offset, length);

    if (table == NULL) {
        return 0;
    }
    if (!atomic_exchange(&gate->was_hit, true) && gate->hit != NULL) {
        gate->hit(gate->context, host_offset, table);
    }
    return -EIO;
}

/* --- The header ----------------------------------------------------------------------------- */

#define WORD 4 /* bytes: no field is smaller */

/* A bit for each word that [offset, offset + length) has a part of. */
static unsigned words_of(uint64_t offset, uint64_t length)
{
    uint64_t end = min_u64(offset + length, HEADER_V3_LENGTH);

    return offset >= end ? 0
                         : (unsigned)((UINT64_C(1) << div_round_up(end, WORD)) -
                                      (UINT64_C(1) << offset / WORD));
}

/* Those of the fields that change. */
static unsigned known_words(const struct gate *gate)
{
    unsigned words = words_of(HEADER_SIZE, sizeof(uint64_t)) |
                     words_of(HEADER_L1_SIZE, HEADER_V2_LENGTH - HEADER_L1_SIZE);

    return gate->header->version < 3
               ? words
               : words | words_of(HEADER_INCOMPATIBLE_FEATURES, sizeof(uint64_t)) |
                     words_of(HEADER_AUTOCLEAR_FEATURES, sizeof(uint64_t));
}

/* With the mutex of the header held. */
static int write_header(struct gate *gate, uint64_t offset, const void *data, uint64_t length)
{
    int result = store_write(gate->file, offset, data, in_memory(length));
    uint64_t end = min_u64(offset + length, HEADER_V3_LENGTH);

    if (result < 0) { /* the host may have taken it, or some of it */
        atomic_fetch_or(&gate->unsure, words_of(offset, length) & known_words(gate));
    } else if (offset < end) {
        memcpy(gate->believed + offset, data, in_memory(end - offset));
        atomic_fetch_and(&gate->unsure, ~words_of(offset, length));
    }
    return result;
}

bool gate_is_sure(struct gate *gate, uint64_t offset, uint64_t length)
{
    return (atomic_load(&gate->unsure) & words_of(offset, length)) == 0;
}

/* As gate_settle(), with the mutex of the header held. */
static int settle(struct gate *gate, struct barrier *barrier)
{
    unsigned unsure = atomic_load(&gate->unsure);
    uint64_t offset, end;
    int result = 0;

    for (offset = 0; offset < HEADER_V3_LENGTH && result == 0; offset = end + WORD) {
        for (end = offset; end < HEADER_V3_LENGTH && (unsure & words_of(end, WORD)) != 0;) {
            end += WORD;
        }
        if (offset < end) {
            result =
                store_write(gate->file, offset, gate->believed + offset, in_memory(end - offset));
        }
    }
    if (result == 0) { /* not before: who finds the header sure waits for nothing */
        result = barrier_wait(barrier, barrier_epoch(barrier));
    }
    if (result == 0) {
        atomic_fetch_and(&gate->unsure, ~unsure);
    }
    return result;
}

int gate_settle(struct gate *gate, struct barrier *barrier)
{
    int result = 0;

    if (atomic_load(&gate->unsure) != 0) {
        pthread_mutex_lock(&gate->header_mutex);
        result = settle(gate, barrier);
        pthread_mutex_unlock(&gate->header_mutex);
    }
    return result;
}

int gate_write(struct gate *gate, enum gate_use use, uint64_t host_offset, const void *data,
               uint64_t length)
{
    int result = gate_pass(gate, use, host_offset, length); /* R8 */

    if (result < 0) {
        return result;
    }
    if (use != GATE_HEADER) {
        return store_write(gate->file, host_offset, data, in_memory(length));
    }
    pthread_mutex_lock(&gate->header_mutex);
    result = write_header(gate, host_offset, data, length);
    pthread_mutex_unlock(&gate->header_mutex);
    return result;
}
