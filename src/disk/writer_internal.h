/* SPDX-License-Identifier: MIT */
/*
 * What the files of the writer share: writer.c, write.c, header_state.c, plan.c, placing.c,
 * sectors.c, preallocate.c, zero.c, resize.c and snapshots.c.
 */
#ifndef IMAGE_WRITER_INTERNAL_H
#define IMAGE_WRITER_INTERNAL_H

#include "disk/commit.h"
#include "disk/encrypted.h"
#include "disk/sectors.h"
#include "disk/ticker.h"
#include "disk/tracking.h"
#include "disk/view.h"
#include "disk/writer.h"
#include "meta/format.h"
#include "meta/mapping_write.h"
#include "util/range_lock.h"
#include "util/stop.h"

#include <pthread.h>
#include <stdatomic.h>

/*
 * A request of any length is done in parts of so many clusters: small enough that
 * it is not long until what waits for their end can go on, and large enough that
 * what each part costs is nothing. Within a part each cluster asks whether to stop.
 */
#define WRITER_PART_CLUSTERS 4096

/* Which requests that change something wait. */
enum pause {
    PAUSE_NONE,
    PAUSE_ALL,
    PAUSE_BUT_WRITES, /* those that stay within the disk may pass */
};

/* Whether a write of the guest bytes [from, to) may begin; where not it waits for the end. */
typedef bool writer_admit_fn(void *context, uint64_t from, uint64_t to);

struct writer {
    struct image *image;
    struct writer_options options;
    struct view *view; /* of the active disk: what copy-on-write copies */
    const struct header *header;
    struct barrier *barrier;
    struct gate *gate; /* all writes to the image file go through it (R8) */
    struct refcounts *refcounts;
    struct allocator *allocator;
    struct commit *commit;
    struct compressing *compressing; /* NULL: what is written is stored as it is */
    struct inflight inflight;
    struct range_locks ranges;
    struct sectors sectors; /* that are being written; locked only in an encrypted image, within
                               `ranges` or alone */
    /* Changes of entries to zeros that keep their clusters: who writes in place looks again. */
    atomic_uint zeroings_begun, zeroings_ended;
    atomic_uint_fast64_t next_commit;
    atomic_bool changed; /* since the last flush */

    /* What must be stable before the first change (R6) and the first allocation (R5). */
    pthread_mutex_t prepare_mutex; /* guards the header's feature fields, and these two */
    atomic_bool prepared, lazy_prepared;
    struct tracking *tracking; /* NULL: no bitmap records what changes; set before `prepared` */
    bool lazy;
    _Atomic(const char *) refused; /* why nothing is changed any more; NULL: it is */
    bool unsettled;                /* COPIED bits may not be as the counts are: writer_settle() */
    bool compared;                 /* its counts were, with all references, and maybe repaired */
    atomic_bool corrupt;           /* nothing may be written any more */
    atomic_bool corrupt_to_mark;   /* and the header does not say so yet */
    atomic_bool told_of_holes;

    /*
     * One change of size at a time; outside all other locks. image->virtual_size,
     * what may be addressed, changes only while the cluster that the old end lies
     * in is locked, too: who holds that may rely on where the end is.
     */
    pthread_mutex_t resize_mutex;
    /*
     * A growable disk was made smaller, and what it had may still be between its end and the
     * header's size, or come there by a write that began before. Guarded by resize_mutex.
     */
    bool late_writes;

    /* Who changes the image as a whole waits for all requests to end, and keeps new ones out. */
    pthread_mutex_t pause_mutex; /* one pause at a time; outside all other locks */
    pthread_mutex_t paused_mutex;
    pthread_cond_t paused_changed;
    atomic_int paused;    /* enum pause */
    unsigned waiting;     /* for the end of it; guarded by paused_mutex */
    atomic_uint changing; /* requests between the brackets */
    /* While writes pass: see writer_pause_but_writes(); changed only while none is under way. */
    writer_admit_fn *admit;
    void *admit_context;

    /* The thread that flushes each options.interval, where something has changed, and fills runs.
     */
    struct ticker *ticker; /* NULL until writer_start() */
};

static inline uint64_t writer_cluster_size(const struct writer *writer)
{
    return writer->header->cluster_size;
}

static inline uint64_t writer_unit_size(const struct writer *writer)
{
    return UINT64_C(1) << writer->header->subcluster_bits;
}

/* Whether the data file is the disk by itself, whatever the entries say ("raw external data"). */
static inline bool data_file_is_disk(const struct writer *writer)
{
    return writer->header->external_data_file && writer->image->backing == NULL &&
           !image_is_encrypted(writer->image) &&
           (writer->header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0;
}

/* Whether the entry names a host cluster. */
static inline bool entry_has_host(const struct writer *writer, const struct l2_value *value)
{
    return !l2_entry_is_compressed(value->entry) &&
           (l2_entry_host_offset(value->entry) != 0 ||
            (writer->header->external_data_file && l2_entry_is_copied(value->entry)));
}

/* Whether that is its own: it may be written without anybody else seeing it. */
static inline bool entry_owns_host(const struct writer *writer, const struct l2_value *value)
{
    return entry_has_host(writer, value) && l2_entry_is_copied(value->entry);
}

/* The subclusters [first, last] as bits of a bitmap's half. */
static inline uint32_t subcluster_bits_between(uint64_t first, uint64_t last)
{
    return (uint32_t)((((UINT64_C(2) << last) - 1)) & ~((UINT64_C(1) << first) - 1));
}

/* Whether it is only read, though it was opened to be written: see writer_refuse(). */
static inline bool writer_is_refused(const struct writer *writer)
{
    return atomic_load_explicit(&writer->refused, memory_order_relaxed) != NULL;
}

/*
 * From here on each change fails with -EROFS, nothing is freed, and a dirty bit stays, so that it
 * is repaired when it is next written. `why` is said to who asks for a change with a sentence, and
 * is kept; the log says it, or `line` in its place. The first refusal counts. Takes no lock but
 * leaves.
 */
void writer_refuse(struct writer *writer, const char *why, const char *line);

/* The same, where what the header says is not known. */
void writer_doubt_header(struct writer *writer);

/*
 * R3: writes fields of the header, and waits until they are stable. Where that fails `before`, what
 * they were, is written again; and where that cannot be done either nobody knows what the header
 * says: then *begun stays true, nothing is freed that one or the other may name, and the writer
 * changes nothing any more.
 */
int writer_switch_fields(struct writer *writer, enum header_field field, const uint8_t *fields,
                         const uint8_t *before, size_t length, bool *begun);

/*
 * Damage was met: from here on no request changes anything. Takes no lock but leaves; the header
 * says so from the end of the request on (writer_end(), writer_flush()).
 */
void writer_stop(struct writer *writer);

/* The header says so, in version 3. With no lock held but a range lock, or that of resizing. */
void writer_mark_corrupt(struct writer *writer);

/*
 * Counts as under way once that is allowed: of a write of [from, to), or (0, 0) of what else; the
 * generation, which writer_leave() is to have.
 */
unsigned writer_enter(struct writer *writer, uint64_t from, uint64_t to);
void writer_leave(struct writer *writer, unsigned generation);

/*
 * Brackets of every request that changes something: between them it counts as
 * under way (R4). The first sees to R6; the second, given the request's result,
 * flushes where the options or the amount of dirty metadata ask for it, and
 * returns the result of all.
 */
int writer_begin(struct writer *writer, unsigned *generation);
/* The same for one that writes [from, to), which passes where such a one may. */
int writer_begin_write(struct writer *writer, uint64_t from, uint64_t to, unsigned *generation);
int writer_end(struct writer *writer, unsigned generation, int result);

/*
 * To be called of all guest bytes that a request changes, between the brackets, whatever comes of
 * it.
 */
static inline void tracking_mark(struct writer *writer, uint64_t from, uint64_t to)
{
    if (writer->tracking != NULL && from < to) {
        tracking_set(writer->tracking, from, to);
    }
}

/*
 * Keeps every request that changes something from beginning, and waits until none is under way and
 * all that they did is stable. Reading goes on. To be ended with writer_resume(), also after an
 * error.
 */
int writer_pause(struct writer *writer);
void writer_resume(struct writer *writer);

/*
 * In the midst of it: writes within the disk pass that `admit` lets in, called by whoever writes,
 * with nothing held. Or all requests go on: who waited has begun when it returns. Another
 * writer_pause() still waits for the end.
 */
void writer_pause_but_writes(struct writer *writer, writer_admit_fn *admit, void *context);
void writer_pause_nobody(struct writer *writer);
/* All wait again, and what they did is stable: as writer_pause(). */
int writer_pause_again(struct writer *writer);

/*
 * The dirty bit, stably, for as long as counts, references and COPIED bits do not agree; and away
 * again, once they do on the disk, where R5 does not ask for it: not before it is closed. An image
 * in which damage was met keeps it, as does one that was left half changed, or is refused. Nothing
 * in version 2, which has none.
 */
int writer_mark_dirty(struct writer *writer);
int writer_mark_clean(struct writer *writer, bool closing);

/*
 * Does what a change of the snapshots had to leave undone on a host in trouble: COPIED bits that
 * say what the counts are. With no request under way, and nothing unwritten; to be stable before
 * the dirty bit goes.
 */
int writer_settle(struct writer *writer);

/* For who changes many entries between the brackets: a flush, where the cache asks for it. */
int writer_relieve(struct writer *writer);

/* R6: to be called before the first change. */
int writer_prepare(struct writer *writer);

/* R5: to be called before a count rises. */
int writer_prepare_allocation(struct writer *writer);

/*
 * One log line for a request that failed with `result`; for an impossible
 * entry, or R8, the corrupt bit is set and writing stops.
 */
void writer_fault(struct writer *writer, int result, const struct mapping_fault *fault);

/* The references that an old entry held are dropped with the next commit (R4). */
void writer_drop_old(struct writer *writer, const struct l2_value *old);

/* *zero: whether what is mapped in the guest range, also behind the end of the disk, is zeros for
 * certain. */
int writer_reads_zero(struct writer *writer, uint64_t from, uint64_t to, bool *zero);

/* R8: the place of guest data, in `store`, is not that of a table. -EIO with `fault`. */
int writer_check_overlap(struct writer *writer, const struct store *store, uint64_t host_offset,
                         uint64_t length, struct mapping_fault *fault);

/*
 * Writes what begins at guest_offset, where it has no place of its own yet: *done bytes, none where
 * it has one. Without `data` it only gets a place. The caller has locked the range's clusters.
 */
int writer_place(struct writer *writer, uint64_t guest_offset, const uint8_t *data, uint64_t length,
                 uint64_t *done, struct mapping_fault *fault);

/*
 * Writes what begins at guest_offset, where it has no place of its own yet, as far as it gets one
 * in one piece: *done bytes; 0 where somebody else has given it one meanwhile. `data` NULL: it only
 * gets a place, and shows what it did.
 */
int writer_allocate(struct writer *writer, uint64_t guest_offset, const uint8_t *data,
                    uint64_t length, uint64_t *done, struct mapping_fault *fault);

/* The same without data, where zeros that get a place want no space of the host. */
int writer_allocate_sparse(struct writer *writer, uint64_t guest_offset, uint64_t length,
                           uint64_t *done, struct mapping_fault *fault);

/* encrypted_write() and encrypted_update(), while nobody else writes to these sectors. */
int writer_write_sectors(struct writer *writer, const struct encrypted_place *place,
                         const void *data, uint64_t length);
int writer_update_sectors(struct writer *writer, const struct encrypted_place *place,
                          const void *data, uint64_t length);

/* Writes within the disk, between the brackets. */
int writer_write_range(struct writer *writer, uint64_t guest_offset, const uint8_t *data,
                       uint64_t length);

/*
 * Zeros between the brackets. The range may lie behind the end of the disk, for
 * who makes it larger; one that reaches the end may zero more than it says there,
 * where nobody can have written yet.
 */
int writer_zero_range(struct writer *writer, uint64_t from, uint64_t to, bool unmap,
                      const struct stop *stop);

/* One log line, once, where something was to be given back to a host that makes no holes. */
void writer_tell_of_holes(struct writer *writer);

/* Makes the disk at least `size` bytes long, between the brackets. */
int writer_grow_to(struct writer *writer, uint64_t size, const struct stop *stop);

/*
 * Zeros between the end of a disk that was made smaller and the header's size; with no request
 * under way (paused, or closing). What looks at the disk up to the header's size comes behind that.
 */
int writer_clear_late(struct writer *writer);

/* Repairs an image that is marked dirty, as the options say. 0 or a negative errno with a sentence.
 */
int writer_repair(struct writer *writer, struct error *error);

/*
 * Compares the image's counts with its references, as far as the options say. Refuses, or repairs,
 * those that are too low. 0 or a negative errno with a sentence.
 */
int writer_check(struct writer *writer, struct error *error);

/*
 * The same, of what is open by now: no table that is known is counted 0, or used twice. As far as
 * some milliseconds go.
 */
int writer_check_tables(struct writer *writer, struct error *error);

/*
 * For an image that was not compared: what L2 tables that are read from here on name must be
 * counted, or nothing is allocated any more.
 */
void writer_look_at_counts(struct writer *writer);

#endif
