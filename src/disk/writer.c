/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/writer.h"

#include "cache/change.h"
#include "disk/compressing.h"
#include "disk/writer_internal.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* --- What all requests share ----------------------------------------------------------------- */

void writer_fault(struct writer *writer, int result, const struct mapping_fault *fault)
{
    log_limited(writer->image->log, LOG_LEVEL_ERROR,
                "%s: guest offset 0x%" PRIx64 " cannot be written (host offset 0x%" PRIx64 "): %s",
                writer->image->path, fault->guest_offset, fault->host_offset,
                fault->text[0] != '\0' ? fault->text : strerror(-result));
    if (fault->impossible) {
        writer_stop(writer);
        writer_mark_corrupt(writer);
    }
}

int writer_begin_write(struct writer *writer, uint64_t from, uint64_t to, unsigned *generation)
{
    *generation = writer_enter(writer, from, to);
    if (writer_is_refused(writer)) {
        return -EROFS;
    }
    if (atomic_load_explicit(&writer->corrupt, memory_order_relaxed)) {
        return -EIO;
    }
    if (!atomic_load_explicit(&writer->prepared, memory_order_acquire)) {
        return writer_prepare(writer);
    }
    return 0;
}

int writer_begin(struct writer *writer, unsigned *generation)
{
    return writer_begin_write(writer, 0, 0, generation);
}

/* Whether dirty slices take so much of the cache that clean ones find no place. */
static bool cache_is_full(const struct writer *writer)
{
    return cache_pool_dirty_bytes(writer->image->cache->l2) >
           writer->image->cache->sizes.l2_dirty_max;
}

int writer_relieve(struct writer *writer)
{
    return cache_is_full(writer) ? commit_flush(writer->commit) : 0;
}

int writer_end(struct writer *writer, unsigned generation, int result)
{
    int flushed;

    /* Not before: a flush in the midst of the request would take this for its own doing. */
    atomic_store(&writer->changed, true);
    writer_leave(writer, generation);
    writer_mark_corrupt(writer);
    if (!writer->options.write_through && !cache_is_full(writer)) {
        return result;
    }
    flushed = commit_flush(writer->commit);
    return result < 0 ? result : flushed;
}

void writer_drop_old(struct writer *writer, const struct l2_value *old)
{
    uint64_t commit = atomic_load(&writer->next_commit), first, last;
    uint32_t bits = writer->header->cluster_bits;

    if (writer->header->external_data_file) {
        return; /* clusters of a data file are not counted */
    }
    if (l2_entry_is_compressed(old->entry)) {
        uint64_t offset = l2_entry_compressed_offset(old->entry, bits);

        first = offset >> bits;
        last = (offset + l2_entry_compressed_size(old->entry, bits) - 1) >> bits;
    } else if (l2_entry_host_offset(old->entry) != 0) {
        first = last = l2_entry_host_offset(old->entry) >> bits;
    } else {
        return;
    }
    /* Without memory to remember it, it is a leak. */
    (void)allocator_drop(writer->allocator, first << bits, last - first + 1, commit);
}

int writer_flush(struct writer *writer)
{
    int result;

    atomic_store(&writer->changed, false);
    result = commit_flush(writer->commit);
    if (result < 0) {
        atomic_store(&writer->changed, true);
    }
    writer_mark_corrupt(writer);
    writer_tell_of_holes(writer);
    return result;
}

void writer_fill(struct writer *writer)
{
    allocator_fill(writer->allocator);
}

bool writer_is_dirty(struct writer *writer)
{
    return atomic_load(&writer->changed);
}

uint64_t writer_dirty_bytes(struct writer *writer)
{
    const struct cache *cache = writer->image->cache;

    return cache_pool_dirty_bytes(cache->l2) + cache_pool_dirty_bytes(cache->refcount);
}

/* --- Opening ------------------------------------------------------------------------------------
 */

static int refuse(const struct image *image, const char *why, struct error *error)
{
    return error_set(error, EROFS, "%s: cannot be written: %s; mount it with -o ro", image->path,
                     why);
}

static int check_writable(const struct image *image, const struct writer_options *options,
                          struct error *error)
{
    const struct header *header = image->header;

    if ((header->incompatible_features & INCOMPATIBLE_CORRUPT) != 0) {
        return refuse(image, "it is marked corrupt", error);
    }
    if (options->lazy_refcounts.set && options->lazy_refcounts.value && header->version < 3) {
        return error_set(error, EINVAL,
                         "%s: lazy refcounts need compatibility level 1.1, this image has "
                         "compat=0.10; leave out lazy-refcounts=on, or upgrade the image with "
                         "qcow2ctl amend -o compat=1.1",
                         image->path);
    }
    return options->compress != NULL
               ? compressing_check(header, options->compress, image->path, error)
               : 0;
}

static void want_fill(void *context)
{
    struct writer *writer = context;

    if (writer->ticker != NULL) {
        ticker_fill(writer->ticker);
    }
}

/* Parts of the snapshot table, or of an L1 table, of a file of `size` bytes. */
static int know_range(struct gate *gate, const struct header *header, uint64_t offset,
                      uint64_t length, uint64_t size)
{
    uint64_t end = offset + length;
    int result = 0;

    if (!range_within(offset, length, size)) {
        return 0; /* refused when somebody looks at it */
    }
    for (; offset < end && result == 0; offset += header->cluster_size) {
        result = gate_know(gate, GATE_TABLE_SNAPSHOTS, offset);
    }
    return result;
}

/* Tells the gate of all that belongs to snapshots; of impossibly many tables, of the first. */
static int know_snapshots(struct writer *writer)
{
    const struct snapshot_table *table = writer->image->snapshots;
    const struct header *header = writer->header;
    uint64_t clusters = 0;
    struct store_info info;
    int result = store_info(writer->image->file, &info);

    if (result == 0 && table->count > 0) {
        result = know_range(writer->gate, header, header->snapshots_offset, table->size, info.size);
    }
    for (size_t i = 0; i < table->count && result == 0; i++) {
        const struct snapshot *snapshot = &table->snapshots[i];
        uint64_t length = (uint64_t)snapshot->l1_entries * L1_ENTRY_BYTES;

        clusters += div_round_up(length, header->cluster_size);
        if (clusters > info.size >> header->cluster_bits) {
            break;
        }
        result = know_range(writer->gate, header, snapshot->l1_offset, length, info.size);
    }
    return result;
}

/* The owner of the gate: it may hold any lock. */
static void gate_hit(void *context, uint64_t host_offset, const char *table)
{
    struct writer *writer = context;

    log_line(writer->image->log, LOG_LEVEL_ERROR,
             "%s: a write to host offset 0x%" PRIx64 " would overwrite the %s", writer->image->path,
             host_offset, table);
    writer_stop(writer);
}

static int open_gate(struct writer *writer)
{
    int result = gate_create(writer->header, writer->image->file, &writer->gate);

    if (result == 0) {
        gate_set_owner(writer->gate, gate_hit, writer);
        result = know_snapshots(writer);
    }
    return result;
}

static int open_parts(struct writer *writer, struct error *error)
{
    struct image *image = writer->image;
    struct refcounts_source counts = {
        .header = image->header,
        .file = image->file,
        .pool = image->cache->refcount,
        .barrier = writer->barrier,
        .gate = writer->gate,
        .owner = image->number,
    };
    struct allocator_source allocator = {
        .header = image->header,
        .file = image->file,
        .gate = writer->gate,
        .barrier = writer->barrier,
        .freed = mapping_forget_table,
        .freed_context = image->active,
        .fill_wanted = want_fill,
        .fill_context = writer,
        .discard = writer->options.discard,
        .device = image->is_device,
        .size_max = image->overlay_max,
    };
    struct commit_source commit = {
        .mapping = image->active,
        .gate = writer->gate,
        .l2 = image->cache->l2,
        .barrier = writer->barrier,
        .inflight = &writer->inflight,
        .next_commit = &writer->next_commit,
    };
    int result;

    result = refcounts_open(&counts, image->path, &writer->refcounts, error);
    if (result < 0) {
        return result;
    }
    allocator.refcounts = writer->refcounts;
    result = allocator_create(&allocator, &writer->allocator);
    if (result == 0) {
        commit.allocator = writer->allocator;
        result = commit_create(&commit, &writer->commit);
    }
    if (result == 0) {
        result = mapping_set_writer(image->active, writer->allocator, writer->barrier, writer->gate,
                                    &writer->next_commit);
    }
    if (result == 0 && writer->options.compress != NULL) {
        result = compressing_create(image->header, &writer->compressing);
    }
    return result;
}

static int open_all(struct writer *writer, struct error *error)
{
    struct image *image = writer->image;
    int result = view_open_active(image, &writer->view);

    if (result == 0) {
        result =
            barrier_create(image->file, image->data_file, writer->options.unsafe, &writer->barrier);
    }
    if (result == 0) {
        result = writer_repair(writer, error);
    }
    if (result == 0) {
        result = writer_check(writer, error);
    }
    if (result == 0) {
        result = open_gate(writer);
    }
    if (result == 0) {
        result = open_parts(writer, error);
    }
    if (result == 0) {
        result = writer_check_tables(writer, error);
    }
    if (result == 0 && writer->options.check != WRITER_CHECK_OFF && !writer->compared) {
        writer_look_at_counts(writer);
    }
    return result;
}

static void destroy(struct writer *writer)
{
    writer->image->inflight = NULL;
    writer->image->sectors = NULL;
    mapping_set_look(writer->image->active, NULL, NULL);
    compressing_destroy(writer->compressing);
    tracking_free(writer->tracking);
    commit_destroy(writer->commit);
    allocator_destroy(writer->allocator);
    refcounts_close(writer->refcounts);
    gate_destroy(writer->gate);
    barrier_destroy(writer->barrier);
    view_close(writer->view);
    sectors_destroy(&writer->sectors);
    range_locks_destroy(&writer->ranges);
    pthread_mutex_destroy(&writer->prepare_mutex);
    pthread_mutex_destroy(&writer->resize_mutex);
    pthread_mutex_destroy(&writer->pause_mutex);
    pthread_mutex_destroy(&writer->paused_mutex);
    pthread_cond_destroy(&writer->paused_changed);
    free(writer);
}

static struct writer *create(struct image *image, const struct writer_options *options)
{
    struct writer *writer = calloc(1, sizeof(*writer));

    if (writer == NULL) {
        return NULL;
    }
    writer->image = image;
    writer->options = *options;
    writer->header = image->header;
    writer->lazy = options->lazy_refcounts.set
                       ? options->lazy_refcounts.value
                       : (image->header->compatible_features & COMPATIBLE_LAZY_REFCOUNTS) != 0;
    atomic_init(&writer->next_commit, 1);
    range_locks_init(&writer->ranges);
    sectors_init(&writer->sectors);
    pthread_mutex_init(&writer->prepare_mutex, NULL);
    pthread_mutex_init(&writer->resize_mutex, NULL);
    pthread_mutex_init(&writer->pause_mutex, NULL);
    pthread_mutex_init(&writer->paused_mutex, NULL);
    pthread_cond_init(&writer->paused_changed, NULL);
    return writer;
}

int writer_open(struct image *image, const struct writer_options *options, struct writer **writer,
                struct error *error)
{
    struct writer *opened;
    int result;

    *writer = NULL;
    result = check_writable(image, options, error);
    if (result < 0) {
        return result;
    }
    opened = create(image, options);
    if (opened == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", image->path);
    }
    result = open_all(opened, error);
    if (result < 0) {
        destroy(opened);
        if (result == -EINVAL) { /* damage, then: the options were looked at before */
            result = -EUCLEAN;
            error->code = EUCLEAN;
        }
        return result == -ENOMEM ? error_set(error, ENOMEM, "%s: out of memory", image->path)
                                 : result;
    }
    image->inflight = &opened->inflight;
    image->sectors = &opened->sectors;
    *writer = opened;
    return 0;
}

static void tick(void *context)
{
    struct writer *writer = context;

    if (writer_is_dirty(writer)) {
        (void)writer_flush(writer); /* the next fsync will report it */
    } else {
        (void)commit_reap(writer->commit);
    }
}

static void fill(void *context)
{
    struct writer *writer = context;

    writer_fill(writer);
}

int writer_start(struct writer *writer)
{
    const struct ticker_calls calls = {.tick = tick, .fill = fill, .context = writer};

    return ticker_start(writer->options.interval, &calls, &writer->ticker);
}

/*
 * No request is left, so all that was dropped is free once it is stable. Where damage was met, what
 * was written is flushed, and no more: see allocator_stop().
 */
static int close_image(struct writer *writer)
{
    int late = writer_clear_late(writer), result = commit_flush(writer->commit);

    result = result == 0 ? late : result; /* what was written is flushed whatever became of that */
    if (result == 0) {
        (void)tracking_store(writer); /* where it fails they stay in use, and the log says so */
    }
    if (result == 0) {
        result = commit_reap(writer->commit);
    }
    if (result == 0) {
        result = allocator_close(writer->allocator);
    }
    if (result == 0 && !atomic_load(&writer->corrupt)) {
        result = writer_settle(writer);
    }
    if (result == 0) {
        allocator_set_lazy(writer->allocator, false); /* every count goes to the disk now */
        result = commit_flush(writer->commit);
    }
    return result == 0 ? writer_mark_clean(writer, true) : result; /* R5 */
}

int writer_close(struct writer *writer)
{
    int result;

    ticker_stop(writer->ticker);
    writer->ticker = NULL; /* what is allocated from here on, as for bitmaps, is not filled ahead */
    view_end_prefetch(writer->view); /* its threads count as requests (R4): close_image() */
    result = writer->options.thrown_away ? 0 : close_image(writer);
    writer_tell_of_holes(writer);
    if (result < 0) {
        log_line(writer->image->log, LOG_LEVEL_ERROR,
                 "%s: could not be closed properly: %s; what was flushed is safe, check the image "
                 "before it is used again",
                 writer->image->path, strerror(-result));
    }
    destroy(writer);
    return result;
}
