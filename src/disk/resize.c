/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/look.h"
#include "disk/writer_internal.h"

#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/*
 * The header's size is made of whole sectors; QEMU would not see the rest of one. What a growable
 * disk shows is as long as a file would be: until it is opened again, it may end within the last
 * sector. From there on to the header's size there are zeros.
 */
#define SECTOR UINT64_C(512)

static uint64_t round_up_to_sector(uint64_t size)
{
    return div_round_up(size, SECTOR) * SECTOR;
}

/* Nobody gives clusters a place while the disk changes its size. */
static const struct range_lock whole_disk = {.first = 0, .last = UINT64_MAX};

static int sync_all(struct writer *writer)
{
    return barrier_wait(writer->barrier, barrier_epoch(writer->barrier));
}

/*
 * The header's field, stable when it returns. Where that fails the file may have the new size all
 * the same: then it is to have the old one again, now, or before anything is flushed (R7).
 */
static int write_size(struct writer *writer, uint64_t size)
{
    uint8_t raw[sizeof(size)];
    int result = tracking_prepare_resize(writer);

    store_be64(raw, size);
    if (result == 0) {
        result = gate_write(writer->gate, GATE_HEADER, HEADER_SIZE, raw, sizeof(raw));
    }
    if (result == 0) {
        result = sync_all(writer);
    }
    if (result == 0) {
        writer->image->header->virtual_size = size;
    } else {
        (void)gate_settle(writer->gate, writer->barrier);
    }
    return result;
}

/*
 * A raw data file is as long as the disk; any other is not shorter. What it
 * has behind the end of a disk of `old_size` bytes is cut off first.
 */
static int resize_data_file(struct writer *writer, uint64_t old_size, uint64_t size)
{
    struct image *image = writer->image;
    struct store_info info;
    int result;

    if (!image->header->external_data_file) {
        return 0;
    }
    result = store_info(image->data_file, &info);
    if (result < 0) {
        return result;
    }
    if ((image->header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) == 0) {
        return info.size >= size ? 0 : store_resize(image->data_file, size);
    }
    if (info.size > min_u64(old_size, size)) {
        result = store_resize(image->data_file, min_u64(old_size, size));
    }
    return result == 0 && old_size < size ? store_resize(image->data_file, size) : result;
}

/* --- What lies behind the end of the disk ------------------------------------------------- */

/* The cluster at `from`, or as much from there on as has nothing; *next: where it ends. */
static int drop_next(struct writer *writer, struct look *look, uint64_t from, uint64_t to,
                     uint64_t *next, struct mapping_fault *fault)
{
    struct mapping *mapping = writer->image->active;
    uint64_t cluster = writer_cluster_size(writer);
    const struct l2_value none = {0};
    struct extent extent;
    struct l2_value old;
    int result = mapping_lookup(mapping, from, look_begin(look, to - from), &extent, fault);

    *next = from + cluster;
    if (result == 0) {
        look_end(look, extent.length);
        result = mapping_get(mapping, from, &old, fault);
    }
    if (result == 0 && old.entry == 0 && old.bitmap == 0) {
        if (extent.kind == EXTENT_UNALLOCATED) { /* whole L2 tables may be passed over at once */
            *next = max_u64(*next, from + round_down(extent.length, cluster));
        }
        return 0;
    }
    if (result == 0) {
        result = mapping_set(mapping, from, &none, 1, 0, fault);
    }
    if (result == 0) {
        writer_drop_old(writer, &old);
        result = writer_relieve(writer);
    }
    return result;
}

/*
 * Unmaps the clusters [from, to), which lie behind the end of the disk. A write in place that began
 * before may come late, after the disk has grown again: in clusters that nobody has then, or in a
 * data file that is the disk, where it is seen. So there it counts as zeros, and is done once more
 * (write.c).
 */
static int drop_clusters(struct writer *writer, uint64_t from, uint64_t to, const struct stop *stop)
{
    struct mapping_fault fault = {0};
    unsigned zeroing = data_file_is_disk(writer);
    struct look look;
    int result = 0;

    look_init(&look);
    atomic_fetch_add(&writer->zeroings_begun, zeroing);
    while (from < to && result == 0) {
        result = stop_requested(stop) ? -EINTR : drop_next(writer, &look, from, to, &from, &fault);
    }
    atomic_fetch_add(&writer->zeroings_ended, zeroing);
    if (result < 0 && result != -EINTR) {
        writer_fault(writer, result, &fault);
    }
    return result;
}

/* --- Growing ----------------------------------------------------------------------------- */

/*
 * What the disk gains reads as zeros: not as what the backing image has there,
 * nor as what an earlier, longer disk left in the last cluster.
 */
static int hide_old_data(struct writer *writer, uint64_t old_size, uint64_t size,
                         const struct stop *stop)
{
    uint64_t cluster = writer_cluster_size(writer);
    uint64_t end = min_u64(size, div_round_up(old_size, cluster) * cluster);
    const struct image *backing = writer->image->backing;
    int result = writer_zero_range(writer, old_size, end, false, stop);

    if (result == 0 && backing != NULL && backing->virtual_size > end) {
        result = writer_zero_range(writer, end, min_u64(size, backing->virtual_size), true, stop);
    }
    return result;
}

/* Places for the L1 entries that the larger disk needs. */
static int grow_l1(struct writer *writer, uint64_t size)
{
    uint64_t entries = header_l1_entries_for(writer->header, size);
    int result;

    if (entries <= writer->header->l1_entries) {
        return 0;
    }
    result = writer_prepare_allocation(writer);
    if (result == 0) {
        result = commit_flush(writer->commit); /* no L1 entry is on its way to the old table */
    }
    return result == 0 ? mapping_grow(writer->image->active, writer->image->header, entries)
                       : result;
}

/* What must be there before anything behind the old end can have a place. */
static int make_room(struct writer *writer, uint64_t old_size, uint64_t size,
                     const struct stop *stop)
{
    uint64_t cluster = writer_cluster_size(writer);
    struct range_lock lock = whole_disk;
    int result;

    range_lock_take(&writer->ranges, &lock);
    result = grow_l1(writer, size);
    if (result == 0) {
        /* Left behind when the disk was made smaller, and that came to no end. */
        result = drop_clusters(writer, div_round_up(old_size, cluster) * cluster,
                               div_round_up(size, cluster) * cluster, stop);
    }
    if (result == 0) {
        result = resize_data_file(writer, old_size, size);
    }
    range_lock_release(&writer->ranges, &lock);
    return result;
}

/* A growing failed before anything could name the new size: a raw data file is not to show it. */
static void cut_raw_data_file(struct writer *writer, uint64_t size)
{
    struct image *image = writer->image;
    struct store_info info;

    if (image->header->external_data_file &&
        (image->header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0 &&
        store_info(image->data_file, &info) == 0 && info.size > size) {
        (void)store_resize(image->data_file, size); /* the next growing cuts it, too */
    }
}

/* From here on the disk may be addressed up to `size`. */
static void publish_size(struct writer *writer, uint64_t size)
{
    uint64_t old_size = writer->image->virtual_size, end = old_size >> writer->header->cluster_bits;
    struct range_lock lock = {.first = end, .last = end};

    tracking_grow(writer, old_size, size);
    range_lock_take(&writer->ranges, &lock);
    atomic_store(&writer->image->virtual_size, size);
    range_lock_release(&writer->ranges, &lock);
}

/* Room up to the end of the sector that `size` lies in, and nothing there that shows. */
static int prepare_to_grow(struct writer *writer, uint64_t size, const struct stop *stop)
{
    uint64_t header_size = writer->header->virtual_size, rounded = round_up_to_sector(size);
    uint64_t from = writer->late_writes ? writer->image->virtual_size : header_size;
    int result = make_room(writer, header_size, rounded, stop);

#ifdef QCOW2FS_BREAK_GROW
    publish_size(writer, size); /* for tests/races/races-grow alone, which must see it */
#endif
    if (result == 0) {
        result = hide_old_data(writer, from, rounded, stop);
    }
    if (result == 0) {
        result = commit_flush(writer->commit); /* before the header's size shows it */
    }
    if (result < 0) {
        cut_raw_data_file(writer, header_size);
    } else if (rounded > header_size) {
        result = write_size(writer, rounded);
    }
    return result;
}

/*
 * The new size comes last: a write behind the old end that were let in before
 * could be acknowledged, and then be zeroed, or lie behind the end again when
 * something fails.
 */
static int grow(struct writer *writer, uint64_t size, const struct stop *stop)
{
    int result = 0;

    if (size > writer->header->virtual_size || writer->late_writes) {
        result = prepare_to_grow(writer, size, stop);
    }
    if (result == 0) {
        publish_size(writer, size);
    }
    return result;
}

/* Whether a snapshot does not record how large the disk was: its own size would change, too. */
static bool size_is_fixed(const struct image *image)
{
    const struct snapshot_table *table = image->snapshots;

    for (size_t i = 0; i < table->count; i++) {
        if (image->header->version < 3 || !table->snapshots[i].records_disk_size) {
            return true;
        }
    }
    return false;
}

/* What the header says of a disk of `size` bytes; of one that it names to the byte, that. */
static uint64_t size_in_header(const struct writer *writer, uint64_t size)
{
    uint64_t now = writer->header->virtual_size;

    return size <= now ? min_u64(round_up_to_sector(size), now) : round_up_to_sector(size);
}

static bool is_size_refused(const struct writer *writer, uint64_t size)
{
    return size_in_header(writer, size) != writer->header->virtual_size &&
           size_is_fixed(writer->image);
}

int writer_grow_to(struct writer *writer, uint64_t size, const struct stop *stop)
{
    int result = 0;

    pthread_mutex_lock(&writer->resize_mutex);
    if (size > INT64_MAX - SECTOR) {
        result = -EFBIG;
    } else if (size > writer->image->virtual_size) {
        result = is_size_refused(writer, size) ? -ENOSPC : grow(writer, size, stop);
    }
    pthread_mutex_unlock(&writer->resize_mutex);
    return result;
}

int writer_grow(struct writer *writer, uint64_t size, const struct stop *stop)
{
    unsigned generation;
    int result = writer_begin(writer, &generation);

    if (result == 0) {
        result = writer_grow_to(writer, size, stop);
    }
    return writer_end(writer, generation, result);
}

/* --- Shrinking ------------------------------------------------------------------------------ */

/*
 * Drops all that is mapped behind the end, also what an earlier shrink left there.
 * What is stopped has done what was asked for: only space is not given back yet.
 */
static int drop_rest(struct writer *writer, uint64_t size, const struct stop *stop)
{
    const struct header *header = writer->header;
    uint64_t cluster = writer_cluster_size(writer);
    uint64_t end = (uint64_t)header->l1_entries << header_l1_entry_bits(header);
    int result = drop_clusters(writer, div_round_up(size, cluster) * cluster, end, stop);

    if (result != -EINTR) {
        return result;
    }
    log_line(writer->image->log, LOG_LEVEL_WARNING,
             "%s: the disk has %" PRIu64 " bytes now, but freeing what was behind them was "
             "interrupted: that is done when it next changes its size",
             writer->image->path, size);
    return 0;
}

static int shrink(struct writer *writer, uint64_t size, const struct stop *stop)
{
    uint64_t old_size = writer->header->virtual_size;
    uint64_t rounded = size_in_header(writer, size);
    struct range_lock lock = whole_disk;
    int result;

    range_lock_take(&writer->ranges, &lock);
    /* The size first: after a crash, what lies behind the end is unreachable, and no more. */
    result = stop_requested(stop) ? -EINTR : 0;
    if (result == 0 && rounded != old_size) {
        result = write_size(writer, rounded);
    }
    if (result == 0) {
        atomic_store(&writer->image->virtual_size, size);
        atomic_fetch_add(&writer->image->cuts, 1);
        tracking_mark(writer, size, rounded); /* whole sectors: the rest of the last one is zeros */
        writer->late_writes = writer->options.growable;
        result = drop_rest(writer, rounded, stop);
    }
    range_lock_release(&writer->ranges, &lock);
    if (result == 0) {
        result = resize_data_file(writer, old_size, rounded);
    }
    return result == 0 ? commit_flush(writer->commit) : result;
}

uint64_t writer_size_for(const struct writer *writer, uint64_t size)
{
    return writer->options.growable ? size : round_up_to_sector(size);
}

static int resize(struct writer *writer, uint64_t size, const struct stop *stop)
{
    const struct image *image = writer->image;

    if (size > INT64_MAX - SECTOR) {
        return -EFBIG;
    }
    size = writer_size_for(writer, size);
    if (size == image->virtual_size) {
        return 0;
    }
    if (is_size_refused(writer, size)) {
        return -ENOTSUP;
    }
    return size > image->virtual_size ? grow(writer, size, stop) : shrink(writer, size, stop);
}

/*
 * A write in place that began before the disk was made smaller may come to its end as late as when
 * no request is under way any more.
 */
int writer_clear_late(struct writer *writer)
{
    int result = 0;

    pthread_mutex_lock(&writer->resize_mutex);
    if (writer->late_writes) {
        result = writer_zero_range(writer, writer->image->virtual_size,
                                   writer->header->virtual_size, false, NULL);
        if (result == 0) {
            result = commit_flush(writer->commit);
        }
        writer->late_writes = result < 0;
    }
    pthread_mutex_unlock(&writer->resize_mutex);
    return result;
}

static int clear_late_now(struct writer *writer)
{
    int result = writer_pause(writer);

    if (result == 0) {
        result = writer_clear_late(writer);
    }
    writer_resume(writer);
    return result;
}

int writer_resize(struct writer *writer, uint64_t size, const struct stop *stop)
{
    unsigned generation;
    bool to_clear = false;
    int result = writer_begin(writer, &generation);

    if (result == 0) {
        pthread_mutex_lock(&writer->resize_mutex);
        result = resize(writer, size, stop);
        to_clear = writer->late_writes;
        pthread_mutex_unlock(&writer->resize_mutex);
    }
    result = writer_end(writer, generation, result);
    return result == 0 && to_clear ? clear_late_now(writer) : result;
}
