/* SPDX-License-Identifier: MIT */
/*
 * What a writer has the header say of the image, and what it may still do with that:
 *
 *     prepared   R6: unknown features are cleared, bitmaps marked in use
 *     dirty      R5: counts, references and COPIED bits may not agree
 *     stopped    damage was met: nothing is written, and the header says "corrupt"
 *     refused    nothing is changed: the counts are too low, or nobody knows what the header says,
 *                since a write of it failed and so did that of what it had been
 */
#include "config.h"

#include "disk/writer_internal.h"

#include <errno.h>

/*
 * Has the header's feature field say `features`, stably, and *known, what memory has of it. It is
 * written also where memory has that already, but a write that failed may have left the file with
 * something else. With prepare_mutex held.
 */
static int write_features(struct writer *writer, enum header_field field, uint64_t features,
                          uint64_t *known)
{
    uint8_t raw[sizeof(features)];
    int result;

    if (features == *known && gate_is_sure(writer->gate, field, sizeof(raw))) {
        return 0;
    }
    store_be64(raw, features);
    result = gate_write(writer->gate, GATE_HEADER, field, raw, sizeof(raw));
    if (result == 0) {
        result = barrier_wait(writer->barrier, barrier_epoch(writer->barrier));
    }
    if (result == 0) {
        *known = features;
    }
    return result;
}

static int write_incompatible(struct writer *writer, uint64_t features)
{
    return write_features(writer, HEADER_INCOMPATIBLE_FEATURES, features,
                          &writer->image->header->incompatible_features);
}

/* --- Before the first change -------------------------------------------------------------- */

/*
 * R6: what this program does not keep up to date is marked so before the first change: unknown
 * features, and the bitmaps where they cannot be looked at one by one.
 */
static int clear_autoclear(struct writer *writer)
{
    struct header *header = writer->image->header;
    bool keeps_bitmaps = writer->options.keeps_bitmaps && header->bitmap_count > 0;
    uint64_t kept;
    bool changes;
    int result = keeps_bitmaps ? 0 : tracking_begin(writer, &keeps_bitmaps);

    kept = header->autoclear_features &
           (AUTOCLEAR_RAW_EXTERNAL_DATA | (keeps_bitmaps ? AUTOCLEAR_BITMAPS : 0));
    if (result < 0 || header->version < 3) {
        return result;
    }
    changes = kept != header->autoclear_features;
    result = write_features(writer, HEADER_AUTOCLEAR_FEATURES, kept, &header->autoclear_features);
    if (result == 0 && changes &&
        !keeps_bitmaps) { /* as when an image is opened that has stale ones */
        header_move_bitmaps(header, 0, 0, 0);
    }
    return result;
}

int writer_prepare(struct writer *writer)
{
    int result = 0;

    pthread_mutex_lock(&writer->prepare_mutex);
    if (!atomic_load(&writer->prepared)) {
        result = clear_autoclear(writer);
        atomic_store(&writer->prepared, result == 0);
    }
    pthread_mutex_unlock(&writer->prepare_mutex);
    return result;
}

/* --- Dirty -------------------------------------------------------------------------------- */

int writer_prepare_allocation(struct writer *writer)
{
    int result = 0;

    if (writer_is_refused(writer)) {
        return -EROFS; /* since the request looked at the mapping */
    }
    if (!writer->lazy || atomic_load(&writer->lazy_prepared)) {
        return 0;
    }
    pthread_mutex_lock(&writer->prepare_mutex);
    if (!atomic_load(&writer->lazy_prepared)) {
        result = write_incompatible(writer, writer->header->incompatible_features |
                                                INCOMPATIBLE_DIRTY); /* R5 */
        if (result == 0) {
            allocator_set_lazy(writer->allocator, true);
            atomic_store(&writer->lazy_prepared, true);
        }
    }
    pthread_mutex_unlock(&writer->prepare_mutex);
    return result;
}

int writer_mark_dirty(struct writer *writer)
{
    int result = 0;

    pthread_mutex_lock(&writer->prepare_mutex);
    if (writer->header->version >= 3) {
        result =
            write_incompatible(writer, writer->header->incompatible_features | INCOMPATIBLE_DIRTY);
    }
    pthread_mutex_unlock(&writer->prepare_mutex);
    return result;
}

int writer_mark_clean(struct writer *writer, bool closing)
{
    bool wanted = !closing && atomic_load(&writer->lazy_prepared); /* R5 */
    int result = 0;

    pthread_mutex_lock(&writer->prepare_mutex);
    if (!wanted && !atomic_load(&writer->corrupt) && !writer->unsettled &&
        !writer_is_refused(writer)) {
        result =
            write_incompatible(writer, writer->header->incompatible_features & ~INCOMPATIBLE_DIRTY);
    }
    pthread_mutex_unlock(&writer->prepare_mutex);
    return result;
}

/* --- Damage ------------------------------------------------------------------------------- */

void writer_stop(struct writer *writer)
{
    if (!atomic_exchange(&writer->corrupt, true)) {
        log_line(writer->image->log, LOG_LEVEL_ERROR,
                 "%s: is damaged: writing stops, reading goes on; unmount and check it",
                 writer->image->path);
        allocator_stop(writer->allocator);
        atomic_store(&writer->corrupt_to_mark, true);
    }
}

/* Version 2 has no bit to say it. */
void writer_mark_corrupt(struct writer *writer)
{
    if (!atomic_load_explicit(&writer->corrupt_to_mark, memory_order_relaxed)) {
        return;
    }
    pthread_mutex_lock(&writer->prepare_mutex);
    if (atomic_exchange(&writer->corrupt_to_mark, false) && writer->header->version >= 3 &&
        write_incompatible(writer, writer->header->incompatible_features | INCOMPATIBLE_CORRUPT) <
            0) {
        atomic_store(&writer->corrupt_to_mark, true); /* the next request tries again */
    }
    pthread_mutex_unlock(&writer->prepare_mutex);
}

/* --- Refusing ----------------------------------------------------------------------------- */

void writer_refuse(struct writer *writer, const char *why, const char *line)
{
    const char *nothing = NULL;

    if (!atomic_compare_exchange_strong(&writer->refused, &nothing, why)) {
        return;
    }
    if (line != NULL) {
        log_line(writer->image->log, LOG_LEVEL_ERROR, "%s", line);
    } else {
        log_line(writer->image->log, LOG_LEVEL_ERROR, "%s: nothing is changed any more: %s",
                 writer->image->path, why);
    }
    if (writer->allocator != NULL) { /* else it was found before anything could be changed */
        allocator_stop(writer->allocator);
    }
}

void writer_doubt_header(struct writer *writer)
{
    writer_refuse(writer,
                  "nobody knows what its header says, since a write of that failed; unmount and "
                  "check it",
                  NULL);
}

int writer_switch_fields(struct writer *writer, enum header_field field, const uint8_t *fields,
                         const uint8_t *before, size_t length, bool *begun)
{
    int result = gate_write(writer->gate, GATE_HEADER, field, fields, length);

    *begun = true;
    if (result == 0) {
        result = barrier_wait(writer->barrier, barrier_epoch(writer->barrier));
    }
    if (result < 0) {
        *begun = gate_write(writer->gate, GATE_HEADER, field, before, length) < 0 ||
                 barrier_wait(writer->barrier, barrier_epoch(writer->barrier)) < 0;
        if (*begun) {
            writer_doubt_header(writer);
        }
    }
    return result;
}
