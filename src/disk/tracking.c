/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/tracking.h"

#include "disk/bitmaps_internal.h"
#include "disk/snapshots_internal.h"
#include "disk/tracking_internal.h"
#include "util/checked.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* --- Marking --------------------------------------------------------------------------------- */

static void lose(struct tracking *tracking, struct tracked *tracked)
{
    if (!atomic_exchange(&tracked->lost, true)) {
        log_line(tracking->image->log, LOG_LEVEL_WARNING,
                 "%s: there is no memory for what bitmap '%s' would have to record: it is "
                 "inconsistent from now on",
                 tracking->image->path, tracked->bitmap->name);
    }
}

static void set_in(struct tracking *tracking, const struct group *group, uint64_t from, uint64_t to)
{
    for (size_t i = 0; i < group->count; i++) {
        struct tracked *tracked = &group->tracked[i];

        if (!bits_set(atomic_load_explicit(&tracked->bits, memory_order_acquire), &tracking->memory,
                      from >> tracked->granularity_bits, (to - 1) >> tracked->granularity_bits)) {
            lose(tracking, tracked);
        }
    }
}

void tracking_set(struct tracking *tracking, uint64_t from, uint64_t to)
{
    set_in(tracking, &tracking->recording, from, to);
}

/* --- Loading --------------------------------------------------------------------------------- */

static void release(struct tracked *tracked)
{
    struct bits *bits = atomic_load(&tracked->bits);

    while (bits != NULL) {
        struct bits *older = bits->older;

        bits_free(bits);
        bits = older;
    }
    free(tracked->table);
}

/* 0, or a negative errno with a sentence. */
static int load(struct writer *writer, struct tracking *tracking, const struct bitmap *bitmap,
                struct tracked *tracked, struct error *error)
{
    const struct image *image = writer->image;
    struct bits *bits;
    int result;

    *tracked = (struct tracked){
        .bitmap = bitmap,
        .granularity_bits = (unsigned)__builtin_ctzll(bitmap->granularity),
    };
    result = bitmap_table_read(image->file, image->header, image->path, bitmap, false,
                               &tracked->table, error);
    if (result < 0) {
        return result;
    }
    bits = bits_create(&tracking->memory,
                       div_round_up(bits_for(tracked, image->header->virtual_size), WORD_BITS));
    result = bits == NULL ? -ENOMEM : bits_load(image, tracked, bits, &tracking->memory);
    atomic_store(&tracked->bits, bits);
    if (result < 0) {
        atomic_fetch_add(&tracking->memory, bits != NULL ? (int64_t)bits_taken(bits) : 0);
        release(tracked);
        return error_set(error, -result, "%s: bitmap '%s' cannot be kept in memory: %s",
                         image->path, bitmap->name, strerror(-result));
    }
    return 0;
}

/* Loads those that are true, and enabled or not; what cannot be is inconsistent from here on. */
static int load_group(struct writer *writer, struct tracking *tracking, bool enabled,
                      struct group *group)
{
    struct bitmap_directory *directory = tracking->directory;

    group->tracked = calloc(directory->count + 1, sizeof(*group->tracked));
    if (group->tracked == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < directory->count; i++) {
        const struct bitmap *bitmap = &directory->bitmaps[i];
        struct error error;

        if ((bitmap->flags & BITMAP_FLAG_IN_USE) != 0 ||
            ((bitmap->flags & BITMAP_FLAG_AUTO) != 0) != enabled) {
            continue;
        }
        if (load(writer, tracking, bitmap, &group->tracked[group->count], &error) == 0) {
            tracking->fates[i] = FATE_TRACKED;
            group->count++;
        } else {
            tracking->fates[i] = FATE_INCONSISTENT;
            log_limited(writer->image->log, LOG_LEVEL_WARNING,
                        "%s; it does not record what changes, and is inconsistent from now on",
                        error.text);
        }
    }
    return 0;
}

static void tell_of_inconsistent(const struct writer *writer, const struct tracking *tracking)
{
    for (size_t i = 0; i < tracking->directory->count; i++) {
        if ((tracking->directory->bitmaps[i].flags & BITMAP_FLAG_IN_USE) != 0) {
            log_limited(writer->image->log, LOG_LEVEL_WARNING,
                        "%s: bitmap '%s' is inconsistent: it may lack what has changed; it records "
                        "nothing, and can only be removed (qcow2ctl bitmap --remove)",
                        writer->image->path, tracking->directory->bitmaps[i].name);
        }
    }
}

/* --- In use ---------------------------------------------------------------------------------- */

static int write_directory(struct writer *writer, const struct bitmap_edit *edits, size_t count)
{
    const struct image *image = writer->image;
    struct error error;
    uint8_t *bytes;
    size_t length;
    int result = bitmap_directory_edit(image->file, image->header, image->path, edits, count,
                                       &bytes, &length, &error);

    if (result == 0) {
        /* Nothing but flags changes, of which each lies in one sector. */
        result = gate_write(writer->gate, GATE_BITMAPS, image->header->bitmap_directory_offset,
                            bytes, length);
        free(bytes);
    }
    return result == 0 ? snapshots_sync(writer) : result;
}

/* R6: all that are touched say so, stably. */
static int mark_in_use(struct writer *writer, const struct tracking *tracking)
{
    const struct bitmap_directory *directory = tracking->directory;
    struct bitmap_edit *edits = calloc(directory->count + 1, sizeof(*edits));
    struct bitmap *marked = calloc(directory->count + 1, sizeof(*marked));
    size_t count = 0;
    int result = edits == NULL || marked == NULL ? -ENOMEM : 0;

    for (size_t i = 0; result == 0 && i < directory->count; i++) {
        if (tracking->fates[i] != FATE_UNTOUCHED) {
            marked[count] = directory->bitmaps[i];
            marked[count].flags |= BITMAP_FLAG_IN_USE;
            edits[count] = (struct bitmap_edit){&directory->bitmaps[i], &marked[count]};
            count++;
        }
    }
    if (result == 0 && count > 0) {
        result = write_directory(writer, edits, count);
    }
    free(edits);
    free(marked);
    return result;
}

static int load_all(struct writer *writer, struct tracking **loaded)
{
    uint64_t most = writer->options.bitmaps_memory;
    struct image *image = writer->image;
    struct error error;
    struct tracking *tracking = calloc(1, sizeof(*tracking));
    int result;

    *loaded = NULL;
    if (tracking == NULL) {
        return -ENOMEM;
    }
    tracking->image = image;
    atomic_init(&tracking->memory, (int64_t)min_u64(tracking_memory(most), INT64_MAX));
    result = bitmap_directory_read(image->file, image->header, image->path, &tracking->directory,
                                   &error);
    if (result < 0) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "%s; none of its bitmaps records what changes, and all are inconsistent from now "
                 "on",
                 error.text);
        free(tracking);
        return result == -ENOMEM ? result : 0;
    }
    tracking->fates = calloc(tracking->directory->count + 1, sizeof(*tracking->fates));
    result = tracking->fates == NULL ? -ENOMEM
                                     : load_group(writer, tracking, true, &tracking->recording);
    if (result < 0) {
        tracking_free(tracking);
        return result;
    }
    tell_of_inconsistent(writer, tracking);
    *loaded = tracking;
    return 0;
}

int tracking_begin(struct writer *writer, bool *kept)
{
    int result = 0;

    *kept = false;
    if (writer->header->bitmap_count == 0) {
        return 0;
    }
    if (writer->tracking == NULL) {
        result = load_all(writer, &writer->tracking);
    }
    if (result < 0 || writer->tracking == NULL) {
        return result;
    }
    *kept = true;
    return mark_in_use(writer, writer->tracking);
}

/* --- Another size ---------------------------------------------------------------------------- */

int tracking_prepare_resize(struct writer *writer)
{
    struct tracking *tracking = writer->tracking;
    int result = 0;

    if (tracking == NULL || tracking->has_others) {
        return 0;
    }
    if (tracking->others.tracked == NULL) {
        result = load_group(writer, tracking, false, &tracking->others);
    }
    if (result == 0) {
        result = mark_in_use(writer, tracking);
    }
    tracking->has_others = result == 0;
    return result;
}

/* There are bits for a disk of `size` bytes. */
static void grow_bits(struct writer *writer, struct tracked *tracked, uint64_t size)
{
    struct bits *now = atomic_load(&tracked->bits), *more;
    uint64_t needed = div_round_up(bits_for(tracked, size), WORD_BITS);

    if (needed <= now->words || tracked->lost) {
        return;
    }
    if (needed > BITMAP_SIZE_MAX / sizeof(uint64_t)) { /* no program could load it */
        tracked->lost = true;
        log_line(writer->image->log, LOG_LEVEL_WARNING,
                 "%s: bitmap '%s' would take more than 512 MiB for a disk of %" PRIu64
                 " bytes: it is inconsistent from now on",
                 writer->image->path, tracked->bitmap->name, size);
        return;
    }
    more = bits_create(&writer->tracking->memory, max_u64(needed, now->words * 2));
    if (more == NULL) {
        more = bits_create(&writer->tracking->memory, needed);
    }
    if (more == NULL) {
        tracked->lost = true;
        log_line(writer->image->log, LOG_LEVEL_WARNING,
                 "%s: there is no memory for what bitmap '%s' would have to record of a disk of "
                 "%" PRIu64 " bytes: it is inconsistent from now on",
                 writer->image->path, tracked->bitmap->name, size);
        return;
    }
    more->older = now;
    atomic_store_explicit(&tracked->bits, more, memory_order_release);
}

static void grow_group(struct writer *writer, const struct group *group, uint64_t size)
{
    for (size_t i = 0; i < group->count; i++) {
        grow_bits(writer, &group->tracked[i], size);
    }
}

void tracking_grow(struct writer *writer, uint64_t from, uint64_t size)
{
    struct tracking *tracking = writer->tracking;
    uint64_t before = writer->image->virtual_size;

    if (tracking != NULL) {
        grow_group(writer, &tracking->recording, size);
        grow_group(writer, &tracking->others, size);
    }
    if (tracking != NULL && before < size) {
        set_in(tracking, &tracking->others, before, size);
    }
    tracking_mark(writer, from, size);
}

/* --- Storing --------------------------------------------------------------------------------- */

/* What is to be stored, as far as it has come. */
struct storing {
    struct bitmap_change change;
    struct bitmap_edit *edits;
    struct bitmap *stored;
    const struct tracked **tracked;
    uint64_t **tables;
    size_t count;
    uint64_t *cluster, *before;
};

static bool has_none(struct tracked *tracked, uint64_t first_word, uint64_t words)
{
    for (uint64_t i = first_word; i < first_word + words; i = bits_next_page(i)) {
        if (tracked_may_have(tracked, i)) {
            return false;
        }
    }
    return true;
}

/* The bits of the table's entry, behind the end of the disk none; whether all, or none, are set. */
static void collect(struct tracked *tracked, uint64_t first_word, uint64_t words, uint64_t all_bits,
                    uint64_t *cluster, uint64_t *any, uint64_t *all)
{
    *any = 0;
    *all = UINT64_MAX;
    for (uint64_t i = 0; i < words; i++) {
        uint64_t first = (first_word + i) * WORD_BITS, word = 0;

        if (first < all_bits) {
            word = word_of(tracked, first_word + i);
        }
        if (first < all_bits && all_bits - first < WORD_BITS) {
            word &= (UINT64_C(1) << (all_bits - first)) - 1;
        }
        *any |= word;
        *all &= word;
        cluster[i] = htole64(word);
    }
}

/* Finds or makes the place of a cluster of bits. */
static int store_cluster(struct storing *storing, struct tracked *tracked, uint64_t index,
                         uint64_t *entry)
{
    struct image *image = storing->change.writer->image;
    size_t size = in_memory(image->header->cluster_size);
    uint64_t words = size / sizeof(uint64_t), any, all;
    uint64_t old = index < tracked->bitmap->table_entries ? tracked->table[index] : 0;

    *entry = 0;
    if (has_none(tracked, index * words, words)) {
        return 0;
    }
    collect(tracked, index * words, words, bits_for(tracked, image->header->virtual_size),
            storing->cluster, &any, &all);
    *entry = old;
    if (any == 0) {
        *entry = 0;
        return 0;
    }
    if (all == UINT64_MAX) {
        *entry = BITMAP_TABLE_ENTRY_ALL_ONES;
        return 0;
    }
    if (old != 0 && bits_read_cluster(image->file, size, old, storing->before) == 0 &&
        memcmp(storing->before, storing->cluster, size) == 0) {
        return 0;
    }
    return bitmap_place(&storing->change, storing->cluster, size, entry);
}

static int store_one(struct storing *storing, struct tracked *tracked)
{
    const struct header *header = storing->change.writer->header;
    struct bitmap *stored = &storing->stored[storing->count];
    uint64_t entries = bitmap_table_entries(header, tracked->bitmap->granularity);
    uint64_t *table;
    int result = 0;

    if (tracked->lost || entries == 0 || entries > BITMAP_SIZE_MAX / header->cluster_size) {
        return 0; /* no program could load it */
    }
    table = calloc(in_memory(entries), sizeof(*table));
    *stored = *tracked->bitmap;
    stored->table_entries = (uint32_t)entries;
    storing->edits[storing->count] = (struct bitmap_edit){tracked->bitmap, stored};
    storing->tracked[storing->count] = tracked;
    storing->tables[storing->count++] = table;
    if (table == NULL) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; result == 0 && i < entries; i++) {
        result = store_cluster(storing, tracked, i, &table[i]);
    }
    return result == 0 ? bitmap_place_table(&storing->change, table, stored) : result;
}

static int store_group(struct storing *storing, const struct group *group)
{
    int result = 0;

    for (size_t i = 0; result == 0 && i < group->count; i++) {
        result = store_one(storing, &group->tracked[i]);
    }
    return result;
}

/* *applied: whether the header names what was stored. */
static int store_all(struct storing *storing, const struct tracking *tracking, bool *applied)
{
    struct writer *writer = storing->change.writer;
    int result = store_group(storing, &tracking->recording);

    if (result == 0) {
        result = store_group(storing, &tracking->others);
    }
    if (result == 0 && storing->count > 0) {
        result = bitmap_apply(&storing->change, storing->edits, storing->count);
        *applied = result == 0;
    }
    for (size_t i = 0; result == 0 && i < storing->count; i++) {
        bitmap_drop_table(writer, storing->tracked[i]->bitmap, storing->tracked[i]->table,
                          storing->tables[i], storing->stored[i].table_entries);
    }
    return result;
}

static int store(struct writer *writer, bool *applied, struct error *error)
{
    struct tracking *tracking = writer->tracking;
    size_t most = tracking->directory->count + 1;
    struct storing storing = {
        .change = {.writer = writer, .error = error},
        .edits = calloc(most, sizeof(*storing.edits)),
        .stored = calloc(most, sizeof(*storing.stored)),
        .tracked = calloc(most, sizeof(*storing.tracked)),
        .tables = calloc(most, sizeof(*storing.tables)),
        .cluster = malloc(in_memory(writer_cluster_size(writer))),
        .before = malloc(in_memory(writer_cluster_size(writer))),
    };
    bool enough = storing.edits != NULL && storing.stored != NULL && storing.tracked != NULL &&
                  storing.tables != NULL && storing.cluster != NULL && storing.before != NULL;
    int result =
        bitmap_finish(&storing.change, enough ? store_all(&storing, tracking, applied) : -ENOMEM);

    for (size_t i = 0; i < storing.count; i++) {
        free(storing.tables[i]);
    }
    free(storing.tables);
    free(storing.tracked);
    free(storing.stored);
    free(storing.edits);
    free(storing.cluster);
    free(storing.before);
    return result;
}

static int store_or_tell(struct writer *writer, bool *applied)
{
    struct error error = {0};
    int result;

    *applied = false;
    if (writer->tracking == NULL || atomic_load(&writer->corrupt) || writer_is_refused(writer) ||
        writer->tracking->recording.count + writer->tracking->others.count == 0) {
        return 0;
    }
    result = store(writer, applied, &error);
    if (result < 0) {
        log_line(
            writer->image->log, LOG_LEVEL_WARNING,
            "%s: its persistent bitmaps could not be stored, and are inconsistent on the disk: %s",
            writer->image->path, error.text[0] != '\0' ? error.text : strerror(-result));
    }
    return result;
}

int tracking_store(struct writer *writer)
{
    bool applied;

    return store_or_tell(writer, &applied);
}

int tracking_suspend(struct writer *writer)
{
    bool applied;
    int result = store_or_tell(writer, &applied);

    if (result == 0 || applied) { /* what is in memory is not what is on the disk any more */
        tracking_free(writer->tracking);
        writer->tracking = NULL;
        atomic_store(&writer->prepared, false);
    }
    return result;
}

static void release_group(struct group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        release(&group->tracked[i]);
    }
    free(group->tracked);
}

void tracking_free(struct tracking *tracking)
{
    if (tracking == NULL) {
        return;
    }
    release_group(&tracking->recording);
    release_group(&tracking->others);
    free(tracking->fates);
    bitmap_directory_free(tracking->directory);
    free(tracking);
}
