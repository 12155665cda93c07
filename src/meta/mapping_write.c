/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/mapping_write.h"

#include "cache/change.h"
#include "meta/format.h"
#include "meta/mapping_internal.h"
#include "util/checked.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define L1_CHUNK 126 /* indexes: a chunk takes 1 KiB */

/* Two tables that fall on one mutex wait for each other, for as long as entries are changed. */
#define TABLE_MUTEXES 64

/* L1 indexes, in a list that can be given back without memory for it. */
struct l1_chunk {
    struct l1_chunk *next;
    size_t count;
    uint64_t indexes[L1_CHUNK];
};

static void free_chunks(struct l1_chunk *chunk)
{
    while (chunk != NULL) {
        struct l1_chunk *next = chunk->next;

        free(chunk);
        chunk = next;
    }
}

struct mapping_writer {
    struct allocator *allocator;
    struct barrier *barrier;
    struct gate *gate;
    atomic_uint_fast64_t *next_commit;
    pthread_mutex_t tables[TABLE_MUTEXES]; /* by L1 index: changes of that table */

    pthread_mutex_t l1_mutex; /* guards where the header says that the L1 table is */
    struct allocation unsure; /* where it may say so on the disk, and shall not; 0 clusters: none */

    pthread_mutex_t mutex; /* guards what follows; a leaf */
    struct l1_changes changed;
};

struct gate *mapping_gate(const struct mapping *mapping)
{
    return mapping->writer->gate;
}

/* Tells the gate of the L2 tables. */
static int know_tables(const struct mapping *mapping, struct gate *gate)
{
    uint64_t i;

    for (i = 0; i < mapping->l1_entries; i++) {
        uint64_t table = l1_entry_table(mapping_l1(mapping, i));
        int result = 0;

        if (table != 0 && table % mapping->source.header->cluster_size == 0) {
            result = gate_know(gate, GATE_TABLE_L2, table);
        }
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

int mapping_set_writer(struct mapping *mapping, struct allocator *allocator,
                       struct barrier *barrier, struct gate *gate,
                       atomic_uint_fast64_t *next_commit)
{
    struct mapping_writer *writer = calloc(1, sizeof(*writer));
    size_t i;

    if (writer == NULL) {
        return -ENOMEM;
    }
    writer->allocator = allocator;
    writer->barrier = barrier;
    writer->gate = gate;
    writer->next_commit = next_commit;
    for (i = 0; i < TABLE_MUTEXES; i++) {
        pthread_mutex_init(&writer->tables[i], NULL);
    }
    pthread_mutex_init(&writer->l1_mutex, NULL);
    pthread_mutex_init(&writer->mutex, NULL);
    mapping_writer_free(mapping->writer);
    mapping->writer = writer;
    return know_tables(mapping, gate);
}

void mapping_writer_free(struct mapping_writer *writer)
{
    size_t i;

    if (writer == NULL) {
        return;
    }
    for (i = 0; i < TABLE_MUTEXES; i++) {
        pthread_mutex_destroy(&writer->tables[i]);
    }
    pthread_mutex_destroy(&writer->mutex);
    pthread_mutex_destroy(&writer->l1_mutex);
    free_chunks(writer->changed.chunks);
    free(writer);
}

int mapping_reload(struct mapping *mapping, const char *name, struct error *error)
{
    const struct header *header = mapping->source.header;
    struct mapping *fresh;
    _Atomic uint64_t *old = mapping->l1;
    int result;

    result =
        mapping_open(&mapping->source, name, header->l1_offset, header->l1_entries, &fresh, error);
    if (result < 0) {
        return result;
    }
    atomic_store(&mapping->l1, atomic_load(&fresh->l1));
    atomic_store(&mapping->l1_entries, atomic_load(&fresh->l1_entries));
    atomic_store(&fresh->l1, old);
    mapping_close(fresh);
    return 0;
}

/* --- L1 entries that the disk does not have yet ------------------------------------------ */

/* With the mutex held. */
static int append_l1_change(struct mapping_writer *writer, uint64_t index, uint64_t epoch)
{
    struct l1_changes *changed = &writer->changed;
    struct l1_chunk *chunk = changed->chunks;

    if (chunk == NULL || chunk->count == L1_CHUNK) {
        chunk = malloc(sizeof(*chunk));
        if (chunk == NULL) {
            return -ENOMEM;
        }
        *chunk = (struct l1_chunk){.next = changed->chunks};
        changed->chunks = chunk;
    }
    chunk->indexes[chunk->count++] = index;
    changed->count++;
    changed->epoch = max_u64(changed->epoch, epoch);
    return 0;
}

/*
 * Sets the entry in memory, and has the next commit write it. Both under the
 * mutex: a commit that took the note alone would write the old entry, and the
 * new one would never reach the disk.
 */
static int change_l1(struct mapping *mapping, uint64_t index, uint64_t entry, uint64_t epoch)
{
    struct mapping_writer *writer = mapping->writer;
    int result;

    pthread_mutex_lock(&writer->mutex);
    result = append_l1_change(writer, index, epoch);
    if (result == 0) {
        mapping_set_l1(mapping, index, entry);
    }
    pthread_mutex_unlock(&writer->mutex);
    return result;
}

void mapping_take_l1_changes(struct mapping *mapping, struct l1_changes *changes)
{
    struct mapping_writer *writer = mapping->writer;

    pthread_mutex_lock(&writer->mutex);
    *changes = writer->changed;
    writer->changed = (struct l1_changes){0};
    pthread_mutex_unlock(&writer->mutex);
}

static int write_l1_entry(struct mapping *mapping, uint64_t index)
{
    uint8_t entry[L1_ENTRY_BYTES];

    store_be64(entry, mapping_l1(mapping, index));
    return gate_write(mapping->writer->gate, GATE_L1,
                      mapping->source.header->l1_offset + index * sizeof(entry), entry,
                      sizeof(entry));
}

int mapping_write_l1_changes(struct mapping *mapping, const struct l1_changes *changes)
{
    const struct l1_chunk *chunk;
    size_t i;

    for (chunk = changes->chunks; chunk != NULL; chunk = chunk->next) {
        for (i = 0; i < chunk->count; i++) {
            int result = write_l1_entry(mapping, chunk->indexes[i]);

            if (result < 0) {
                return result;
            }
        }
    }
    return 0;
}

/* Puts what was taken behind what has come since. */
static void give_back(struct mapping_writer *writer, struct l1_changes *changes)
{
    struct l1_chunk **last = &writer->changed.chunks;

    pthread_mutex_lock(&writer->mutex);
    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = changes->chunks;
    writer->changed.count += changes->count;
    writer->changed.epoch = max_u64(writer->changed.epoch, changes->epoch);
    pthread_mutex_unlock(&writer->mutex);
}

void mapping_release_l1_changes(struct mapping *mapping, struct l1_changes *changes, bool again)
{
    if (again) {
        give_back(mapping->writer, changes);
    } else {
        free_chunks(changes->chunks);
    }
    *changes = (struct l1_changes){0};
}

/* --- A longer L1 table ------------------------------------------------------------------- */

/* A copy of the L1 table with more entries; NULL when memory ran out. */
static _Atomic uint64_t *longer_l1(const struct mapping *mapping, uint64_t entries)
{
    _Atomic uint64_t *l1 = calloc(in_memory(entries), sizeof(*l1));
    uint64_t i;

    for (i = 0; l1 != NULL && i < mapping->l1_entries; i++) {
        atomic_init(&l1[i], mapping_l1(mapping, i));
    }
    return l1;
}

/* Writes the table to its new place, whole clusters, and waits until it is stable. */
static int write_l1(struct mapping *mapping, const _Atomic uint64_t *l1, uint64_t entries,
                    const struct allocation *place)
{
    uint64_t size = place->clusters << mapping->source.header->cluster_bits, i;
    uint8_t *raw = calloc(1, in_memory(size));
    int result;

    if (raw == NULL) {
        return -ENOMEM;
    }
    for (i = 0; i < entries; i++) {
        store_be64(raw + i * L1_ENTRY_BYTES, l1[i]);
    }
    result = gate_write(mapping->writer->gate, GATE_OTHER, place->host_offset, raw, size);
    free(raw);
    return result < 0
               ? result
               : barrier_wait(mapping->writer->barrier, barrier_epoch(mapping->writer->barrier));
}

static int write_l1_place(struct mapping *mapping, uint64_t entries, uint64_t host_offset)
{
    uint8_t fields[HEADER_REFCOUNT_TABLE_OFFSET - HEADER_L1_SIZE];

    store_be32(fields, (uint32_t)entries);
    store_be64(fields + (HEADER_L1_TABLE_OFFSET - HEADER_L1_SIZE), host_offset);
    return gate_write(mapping->writer->gate, GATE_HEADER, HEADER_L1_SIZE, fields, sizeof(fields));
}

/* As mapping_settle(), with the mutex held. */
static int settle(struct mapping *mapping)
{
    struct mapping_writer *writer = mapping->writer;
    const struct header *header = mapping->source.header;
    int result;

    if (writer->unsure.clusters == 0) {
        return 0;
    }
    result = write_l1_place(mapping, header->l1_entries, header->l1_offset);
    if (result == 0) { /* R4: before its clusters can be anything else */
        result = barrier_wait(writer->barrier, barrier_epoch(writer->barrier));
    }
    if (result == 0) {
        allocator_return(writer->allocator, writer->unsure.host_offset, writer->unsure.clusters);
        writer->unsure.clusters = 0;
    }
    return result;
}

int mapping_settle(struct mapping *mapping)
{
    int result;

    pthread_mutex_lock(&mapping->writer->l1_mutex);
    result = settle(mapping);
    pthread_mutex_unlock(&mapping->writer->l1_mutex);
    return result;
}

/* R3: the header names the new table, and that is stable, before the old one is free. */
static int switch_l1(struct mapping *mapping, struct header *header, uint64_t entries,
                     const struct allocation *place)
{
    struct mapping_writer *writer = mapping->writer;
    int result = write_l1_place(mapping, entries, place->host_offset);

    if (result < 0) { /* but the disk may have a part of it */
        writer->unsure = *place;
        (void)settle(mapping);
        return result;
    }
    /* Should this fail, the header on the disk may name it for ever: it keeps its clusters (R2). */
    result = barrier_wait(writer->barrier, barrier_epoch(writer->barrier));
    if (result == 0) {
        header_move_l1(header, place->host_offset, (uint32_t)entries);
    }
    return result;
}

/* Makes the new table, and has the header name it. With the mutex held. */
static int move_l1(struct mapping *mapping, struct header *header, const _Atomic uint64_t *l1,
                   uint64_t entries)
{
    struct mapping_writer *writer = mapping->writer;
    uint64_t clusters = div_round_up(entries * L1_ENTRY_BYTES, header->cluster_size);
    struct allocation place;
    int result = settle(mapping);

    if (result == 0) {
        result = allocator_take_exactly(writer->allocator, clusters, &place);
    }
    if (result < 0) {
        return result;
    }
    result = write_l1(mapping, l1, entries, &place);
    if (result < 0) {
        allocator_return(writer->allocator, place.host_offset, clusters);
        return result;
    }
    return switch_l1(mapping, header, entries, &place);
}

int mapping_grow(struct mapping *mapping, struct header *header, uint64_t needed)
{
    struct mapping_writer *writer = mapping->writer;
    uint64_t old_offset = header->l1_offset, old_entries = mapping->l1_entries, entries;
    uint64_t limit = HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES;
    _Atomic uint64_t *l1;
    int result;

    if (needed > limit || mapping->retired_count == L1_GROWTHS_MAX) {
        return -EFBIG;
    }
    entries = min_u64(limit, max_u64(needed, old_entries + old_entries / 2));
    l1 = longer_l1(mapping, entries);
    if (l1 == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_lock(&writer->l1_mutex);
    result = move_l1(mapping, header, l1, entries);
    pthread_mutex_unlock(&writer->l1_mutex);
    if (result < 0) {
        free((void *)(uintptr_t)l1);
        return result;
    }
    mapping->retired_l1[mapping->retired_count++] = mapping->l1;
    atomic_store(&mapping->l1, l1);
    atomic_store(&mapping->l1_entries, entries);
    (void)allocator_drop(writer->allocator, old_offset,
                         div_round_up(old_entries * L1_ENTRY_BYTES, header->cluster_size),
                         atomic_load(writer->next_commit)); /* R4 */
    return 0;
}

/* --- L2 tables of our own ------------------------------------------------------------------ */

void mapping_forget_table(void *context, uint64_t host_offset)
{
    struct mapping *mapping = context;
    uint64_t end = host_offset + mapping->source.header->cluster_size;

    for (; host_offset < end; host_offset += mapping->slice_size) {
        cache_pool_drop(mapping->l2, (struct cache_key){.owner = mapping->source.owner,
                                                        .host_offset = host_offset});
    }
}

/* Writes the first content of a new table: that of `shared`, or (0) no entry at all. */
static int write_table(struct mapping *mapping, uint64_t shared, const struct allocation *new)
{
    uint64_t size = mapping->source.header->cluster_size;
    uint8_t *table;
    int result = 0;

    /* Of others that are fresh a damaged image may have entries that are still written through. */
    if (shared == 0 && new->untouched) {
        return 0; /* it reads as zeros */
    }
    table = calloc(1, in_memory(size));
    if (table == NULL) {
        return -ENOMEM;
    }
    if (shared != 0) {
        result = store_read(mapping->source.file, shared, table, in_memory(size));
    }
    if (result == 0) {
        result = gate_write(mapping->writer->gate, GATE_OTHER, new->host_offset, table, size);
    }
    free(table);
    return result;
}

/* own_table(): R8, see set_some(). */
#define CLUSTER_IN_USE (-ENOTUNIQ)

/* R8: whether a cluster that was handed out is a table all the same. */
static bool is_in_use(struct mapping *mapping, uint64_t host_offset)
{
    uint64_t size = mapping->source.header->cluster_size;

    return gate_check(mapping->writer->gate, GATE_OTHER, host_offset, size) != NULL ||
           mapping_table_at(mapping, host_offset, size);
}

/* The L1 entry names the new table, in memory, and the gate knows it. */
static int name_table(struct mapping *mapping, uint64_t l1_index, const struct allocation *new)
{
    struct mapping_writer *writer = mapping->writer;
    int result = gate_know(writer->gate, GATE_TABLE_L2, new->host_offset);

    if (result == 0) {
        result = change_l1(mapping, l1_index, new->host_offset | ENTRY_COPIED,
                           max_u64(new->epoch, barrier_epoch(writer->barrier)));
        if (result < 0) {
            gate_forget(writer->gate, GATE_TABLE_L2, new->host_offset);
        }
    }
    return result;
}

/*
 * Gives the L1 entry a table that belongs to it alone, if it has none. R3: the
 * disk learns of it in mapping_write_l1_changes(). With the table's mutex held.
 */
static int own_table(struct mapping *mapping, uint64_t l1_index)
{
    struct mapping_writer *writer = mapping->writer;
    uint64_t old = mapping_l1(mapping, l1_index);
    struct allocation new;
    int result;

    if (l1_entry_table(old) != 0 && gate_check(writer->gate, GATE_L2, l1_entry_table(old),
                                               mapping->source.header->cluster_size) != NULL) {
        return CLUSTER_IN_USE; /* R8: what it names is another table */
    }
    if (l1_entry_table(old) != 0 && (old & ENTRY_COPIED) != 0) {
        return 0;
    }
    result = allocator_take(writer->allocator, 1, &new);
    if (result < 0) {
        return result;
    }
    if (is_in_use(mapping, new.host_offset)) {
        return CLUSTER_IN_USE; /* R8; it is not given back: that would destroy what is there */
    }
    result = write_table(mapping, l1_entry_table(old), &new);
    if (result == 0) {
        result = name_table(mapping, l1_index, &new);
    }
    if (result < 0) {
        allocator_return(writer->allocator, new.host_offset, 1);
        return result;
    }
    if (l1_entry_table(old) != 0) {
        gate_forget(writer->gate, GATE_TABLE_L2, l1_entry_table(old));
        (void)allocator_drop(writer->allocator, l1_entry_table(old), 1,
                             atomic_load(writer->next_commit)); /* R4 */
    }
    return 0;
}

/* --- Entries ---------------------------------------------------------------------------------- */

/* Entries of one slice that change together. */
struct entry_change {
    const struct header *header;
    const struct l2_value *values;
    size_t count;
    uint64_t offset; /* of the first, in the slice, bytes */
};

static void apply_entries(void *context, void *data)
{
    const struct entry_change *change = context;
    uint8_t *raw = (uint8_t *)data + change->offset;
    size_t i;

    for (i = 0; i < change->count; i++, raw += change->header->l2_entry_bytes) {
        store_be64(raw, change->values[i].entry);
        if (change->header->extended_l2) {
            store_be64(raw + L2_ENTRY_BYTES, change->values[i].bitmap);
        }
    }
}

/* Changes entries of one slice, in a table of our own. */
static int set_in_slice(struct mapping *mapping, uint64_t guest_offset,
                        const struct l2_value *values, size_t count, uint64_t epoch)
{
    const struct header *header = mapping->source.header;
    struct slice_place place = mapping_slice_place(
        mapping, l1_entry_table(mapping_l1(mapping, guest_offset >> header_l1_entry_bits(header))),
        guest_offset);
    struct entry_change entries = {
        .header = header,
        .values = values,
        .count = count,
        .offset = place.entry_offset,
    };
    struct cache_change change = {
        .offset = in_memory(place.entry_offset),
        .length = count * header->l2_entry_bytes,
        .epoch = epoch,
        .apply = apply_entries,
        .context = &entries,
    };

    return cache_pool_change(mapping->l2, place.source.key, in_memory(mapping->slice_size),
                             mapping_fill_slice, &place.source, &change);
}

/* Sets the entries as far as they lie in one slice; *done: how many that were. */
static int set_some(struct mapping *mapping, uint64_t guest_offset, const struct l2_value *values,
                    size_t count, uint64_t epoch, size_t *done)
{
    const struct header *header = mapping->source.header;
    uint64_t l1_index = guest_offset >> header_l1_entry_bits(header);
    uint64_t slice_entries = mapping->slice_size / header->l2_entry_bytes;
    uint64_t index = (guest_offset >> header->cluster_bits) & (slice_entries - 1);
    pthread_mutex_t *mutex = &mapping->writer->tables[l1_index % TABLE_MUTEXES];
    int result;

    *done = min_size(count, slice_entries - index);
    pthread_mutex_lock(mutex);
    result = own_table(mapping, l1_index);
    if (result == 0) {
        result = set_in_slice(mapping, guest_offset, values, *done, epoch);
    }
    pthread_mutex_unlock(mutex);
    return result;
}

int mapping_set(struct mapping *mapping, uint64_t guest_offset, const struct l2_value *values,
                size_t count, uint64_t epoch, struct mapping_fault *fault)
{
    const struct header *header = mapping->source.header;

    assert(guest_offset % header->cluster_size == 0);
    while (count > 0) {
        size_t done;
        int result = set_some(mapping, guest_offset, values, count, epoch, &done);

        if (result < 0) {
            fault->guest_offset = guest_offset;
            fault->host_offset = 0;
            fault->impossible = result == CLUSTER_IN_USE;
            snprintf(fault->text, sizeof(fault->text), "its L2 entry cannot be changed: %s",
                     fault->impossible
                         ? "a cluster is a table of another kind, or one without a count"
                         : strerror(-result));
            return fault->impossible ? -EIO : result;
        }
        guest_offset += (uint64_t)done << header->cluster_bits;
        values += done;
        count -= done;
    }
    return 0;
}

int mapping_get(struct mapping *mapping, uint64_t guest_offset, struct l2_value *value,
                struct mapping_fault *fault)
{
    size_t got;

    return mapping_get_some(mapping, guest_offset, value, 1, &got, fault);
}

bool mapping_table_at(struct mapping *mapping, uint64_t host_offset, uint64_t length)
{
    uint64_t at = round_down(host_offset, mapping->slice_size);
    struct cache_key first = {.owner = mapping->source.owner, .host_offset = at};

    return cache_pool_has_any(mapping->l2, first, host_offset + length - at, mapping->slice_size);
}
