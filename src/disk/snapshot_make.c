/* SPDX-License-Identifier: MIT */
/*
 * A snapshot of the disk as it is when all that had begun is done and stable. From there on writes
 * pass again. What they may not do is change what the snapshot is to have, and that is kept as
 * between any two states: an L2 table, and what it names, has one reference more, and COPIED bits
 * say so. Tables become shared one after the other, some at once; who writes where one is not yet
 * does that one first.
 *
 *     L1   [ shared | shared | by this thread | not yet | by a writer | not yet ... ]
 *
 * When all are, requests wait once more until the header names the snapshot. Whatever else changes
 * the disk (zeros, another size) waits all the while.
 */
#include "config.h"

#include "disk/snapshots_internal.h"

#include "disk/references.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum state {
    NOT_YET,
    UNDER_WAY, /* somebody does it */
    SHARED,
};

struct sharing {
    struct writer *writer;
    uint64_t *l1, entries; /* of the snapshot; host byte order */
    uint32_t table_bits;   /* of the guest bytes that a table maps */
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t changed;
    atomic_uchar *states; /* enum state of each entry; SHARED is read without it */
    int result;           /* of the first that failed: no more are done */
    bool touched;         /* counts were raised, and maybe COPIED bits cleared */
};

static int open_sharing(struct sharing *sharing, struct writer *writer)
{
    const struct header *header = writer->header;
    uint64_t entries;

    *sharing = (struct sharing){
        .writer = writer,
        .table_bits = header->cluster_bits,
        .l1 = mapping_copy_l1(writer->image->active, &entries),
    };
    for (uint64_t size = header->cluster_size; size > header->l2_entry_bytes; size /= 2) {
        sharing->table_bits++;
    }
    sharing->entries = entries;
    sharing->states = calloc(in_memory(entries + 1), sizeof(*sharing->states));
    pthread_mutex_init(&sharing->mutex, NULL);
    pthread_cond_init(&sharing->changed, NULL);
    return sharing->l1 == NULL || sharing->states == NULL ? -ENOMEM : 0;
}

static void close_sharing(struct sharing *sharing)
{
    pthread_cond_destroy(&sharing->changed);
    pthread_mutex_destroy(&sharing->mutex);
    free(sharing->states);
    free(sharing->l1);
}

/*
 * All of it or, but for leaks and COPIED bits, nothing: *made references. Nobody changes these
 * tables.
 */
static int share_tables(const struct sharing *sharing, uint64_t first, uint64_t count,
                        uint64_t *made)
{
    struct writer *writer = sharing->writer;
    const uint64_t *l1 = sharing->l1 + first;
    int result = references_add(writer, l1, count, made);

    if (result < 0) {
        (void)references_remove(writer, l1, count, *made);
        return result;
    }
    if (*made > 0) { /* an empty disk of some size has many L1 entries, and none is set */
        result = snapshots_sync(writer); /* R2: before a COPIED bit says that it is shared */
    }
    if (result == 0) {
        result = references_clear_copied(writer, l1, count);
    }
    if (result < 0) {
        (void)references_remove(writer, l1, count, UINT64_MAX);
        return result;
    }
    for (uint64_t i = 0; i < count; i++) {
        mapping_set_copied(writer->image->active, first + i, false);
    }
    return 0;
}

static void set_states(struct sharing *sharing, uint64_t first, uint64_t count, enum state state)
{
    for (uint64_t i = first; i < first + count; i++) {
        atomic_store(&sharing->states[i], (unsigned char)state);
    }
}

/* With the mutex held, which it gives up meanwhile. */
static void do_tables(struct sharing *sharing, uint64_t first, uint64_t count)
{
    uint64_t made;
    int result;

    set_states(sharing, first, count, UNDER_WAY);
    pthread_mutex_unlock(&sharing->mutex);
    result = share_tables(sharing, first, count, &made);
    pthread_mutex_lock(&sharing->mutex);
    sharing->touched = sharing->touched || made > 0;
    set_states(sharing, first, count, result == 0 ? SHARED : NOT_YET);
    if (result < 0 && sharing->result == 0) {
        sharing->result = result;
    }
    pthread_cond_broadcast(&sharing->changed);
}

/* How many from there on nobody has begun, up to `most`. With the mutex held. */
static uint64_t count_not_yet(const struct sharing *sharing, uint64_t first, uint64_t most)
{
    uint64_t count = 0;

    while (count < most && first + count < sharing->entries &&
           atomic_load(&sharing->states[first + count]) == NOT_YET) {
        count++;
    }
    return count;
}

/* All tables, and those that others have begun. */
static int share_all(struct sharing *sharing)
{
    uint64_t step = snapshots_tables_at_once(sharing->writer);
    int result;

    pthread_mutex_lock(&sharing->mutex);
    for (uint64_t i = 0; i < sharing->entries && sharing->result == 0;) {
        uint64_t count = count_not_yet(sharing, i, step);

        if (count > 0) {
            do_tables(sharing, i, count);
        } else if (atomic_load(&sharing->states[i]) == UNDER_WAY) {
            pthread_cond_wait(&sharing->changed, &sharing->mutex);
        } else {
            i++;
        }
    }
    result = sharing->result;
    pthread_mutex_unlock(&sharing->mutex);
    return result;
}

/* A write: what its tables map is shared before it begins. */
static bool admit(void *context, uint64_t from, uint64_t to)
{
    struct sharing *sharing = context;
    uint64_t last = (to - 1) >> sharing->table_bits;
    int result = 0;

    for (uint64_t i = from >> sharing->table_bits; i <= last && result == 0; i++) {
        if (i >= sharing->entries) {
            return false;
        }
        if (atomic_load(&sharing->states[i]) == SHARED) {
            continue;
        }
        pthread_mutex_lock(&sharing->mutex);
        while (sharing->result == 0 && atomic_load(&sharing->states[i]) == UNDER_WAY) {
            pthread_cond_wait(&sharing->changed, &sharing->mutex);
        }
        if (sharing->result == 0 && atomic_load(&sharing->states[i]) == NOT_YET) {
            do_tables(sharing, i, 1);
        }
        result = sharing->result;
        pthread_mutex_unlock(&sharing->mutex);
    }
    return result == 0;
}

/*
 * Nothing has come to name what was shared: nobody shares it any more. With all requests kept out.
 * Where what they did could not be `written` the tables of the disk are not those of the file, and
 * COPIED bits cannot be changed there: that has to wait.
 */
static void take_back(struct sharing *sharing, bool written)
{
    if (!sharing->touched) {
        return;
    }
    for (uint64_t i = 0; i < sharing->entries; i++) {
        if (atomic_load(&sharing->states[i]) != SHARED) {
            sharing->l1[i] = 0;
        }
    }
    (void)references_remove(sharing->writer, sharing->l1, sharing->entries, UINT64_MAX);
    if (written) {
        (void)snapshots_correct_copied(sharing->writer);
    } else {
        sharing->writer->unsettled = true;
    }
}

/* --- The entry that names it ------------------------------------------------------------------ */

/* One more than the highest number among the ids, as QEMU does. */
static void next_id(const struct snapshot_table *table, char *text, size_t size)
{
    uint64_t highest = 0;

    for (size_t i = 0; i < table->count; i++) {
        uint64_t id = strtoull(table->snapshots[i].id, NULL, 10);

        highest = id == UINT64_MAX ? highest : max_u64(highest, id);
    }
    snprintf(text, size, "%" PRIu64, highest + 1);
}

static int add_entry(struct writer *writer, const char *name, const struct timespec *when,
                     const struct allocation *copy, uint64_t entries, bool *begun,
                     struct error *error)
{
    char id[32];
    struct snapshot snapshot = {
        .id = id,
        .name = (char *)(uintptr_t)name,
        .l1_offset = copy->host_offset,
        .l1_entries = (uint32_t)entries,
        .disk_size = writer->header->virtual_size, /* of whole sectors */
        .icount = UINT64_MAX,
        .date_sec = (uint32_t)when->tv_sec,
        .date_nsec = (uint32_t)when->tv_nsec,
    };
    const struct snapshot_edit edit = {
        .added = &snapshot, .removed = SNAPSHOT_NONE, .renamed = SNAPSHOT_NONE};

    next_id(writer->image->snapshots, id, sizeof(id));
    return snapshots_edit_table(writer, &edit, begun, error);
}

/* The copy of the L1 table, without COPIED bits, counted on the disk. */
static int place_copy(const struct sharing *sharing, struct allocation *copy)
{
    struct writer *writer = sharing->writer;
    uint64_t bytes = sharing->entries * L1_ENTRY_BYTES;
    uint64_t *raw = calloc(1, in_memory(bytes + 1));
    int result = raw == NULL ? -ENOMEM : 0;

    for (uint64_t i = 0; i < sharing->entries && result == 0; i++) {
        store_be64((uint8_t *)&raw[i], sharing->l1[i] & ~ENTRY_COPIED);
    }
    if (result == 0) {
        result = snapshots_place(writer, raw, bytes, copy);
    }
    if (result == 0) {
        result = allocator_write_back(writer->allocator);
        if (result < 0) {
            allocator_return(writer->allocator, copy->host_offset, copy->clusters);
        }
    }
    free(raw);
    return result;
}

/* With all requests kept out, and all tables shared. */
static int name_it(struct sharing *sharing, const char *name, const struct timespec *when,
                   bool *begun, struct error *error)
{
    struct writer *writer = sharing->writer;
    struct allocation copy;
    int result = mapping_write_l1(writer->image->active);

    if (result == 0) {
        result = place_copy(sharing, &copy);
    }
    if (result < 0) {
        return result;
    }
    result = add_entry(writer, name, when, &copy, sharing->entries, begun, error);
    if (*begun) { /* named, or maybe: R2 */
        snapshots_know(writer, copy.host_offset, copy.clusters << writer->header->cluster_bits,
                       true);
    } else {
        allocator_return(writer->allocator, copy.host_offset, copy.clusters);
    }
    return result;
}

int snapshots_make_now(struct writer *writer, const char *name, struct error *error)
{
    struct sharing sharing;
    struct timespec when;
    bool begun = false;
    int result = open_sharing(&sharing, writer), flushed;

    clock_gettime(CLOCK_REALTIME, &when);
    if (result == 0) {
        result = writer_mark_dirty(writer);
    }
    if (result == 0) {
        result = writer_prepare_allocation(writer);
    }
    if (result == 0) {
        writer_pause_but_writes(writer, admit, &sharing);
        result = share_all(&sharing);
        flushed = writer_pause_again(writer);
        result = result == 0 ? flushed : result;
        if (result == 0) {
            result = name_it(&sharing, name, &when, &begun, error);
        }
        if (!begun) {
            take_back(&sharing, flushed == 0);
        }
    }
    close_sharing(&sharing);
    return result;
}
