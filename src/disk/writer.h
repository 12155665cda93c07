/* SPDX-License-Identifier: MIT */
/*
 * The write side of the active disk: allocation, copy-on-write, zeroing,
 * resizing, flushing. Owns what only a writer needs: refcounts, allocator,
 * commit, and the thread that writes metadata back from time to time.
 *
 * Any thread may call. Requests that give other host clusters to the same guest
 * clusters wait for each other (range_lock.h); all others run side by side.
 *
 * Lock order: a range lock, then a table's mutex, then the allocator's, then
 * the leaves (docs/design.md, section 7).
 */
#ifndef IMAGE_WRITER_H
#define IMAGE_WRITER_H

#include "disk/image.h"
#include "util/error.h"
#include "util/options.h"
#include "util/stop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WRITER_INTERVAL_DEFAULT 5 /* seconds */

struct writer;

/*
 * Whether the counts of an image are compared with its references before it is written. Who says
 * nothing has it done.
 */
enum writer_check {
    WRITER_CHECK_AUTO, /* as a whole where that is quick; else the tables alone */
    WRITER_CHECK_OFF, /* for who writes to no cluster of it, or knows it, or wants to see it fail */
    WRITER_CHECK_ON,
};

struct writer_options {
    bool unsafe;        /* flushes sync nothing (cache=unsafe) */
    bool thrown_away;   /* nobody will ever open the file again: closing writes nothing */
    bool write_through; /* every request is flushed before it returns */
    bool discard;       /* freed clusters give their host space back */
    bool growable;      /* a write past the end makes the disk larger */
    bool no_repair;     /* refuse an image that is marked dirty, rather than repair it */
    bool repair;        /* repair, rather than refuse, counts that are found to be too low */
    enum writer_check check;
    bool keeps_bitmaps;  /* what the disk shows is not changed: its bitmaps go on to be true */
    bool refuse_at_once; /* counts that are too low fail writer_open(), not each write */
    /* Whole clusters that are new are compressed: the name of the type, "" for the image's, or
     * NULL. */
    const char *compress;
    uint64_t bitmaps_memory;           /* bytes for bits of bitmaps; 0: a 16th of the memory */
    struct option_bool lazy_refcounts; /* in place of the image's own bit */
    unsigned interval;                 /* seconds between write-backs of metadata, 0 = never */
    unsigned tables_at_once; /* L2 tables done at once for a snapshot, 0 = for some milliseconds */
    /* Called while an image is being repaired; may be NULL. */
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *progress_context;
};

/*
 * Prepares `image`, which was opened with STORE_WRITE and has its cache, for
 * writing. An image that is marked dirty is repaired; nothing else is changed
 * before the first request. -EROFS with a sentence for an image that must not
 * be written, -EINVAL for options that do not fit it, -EUCLEAN for damage.
 */
int writer_open(struct image *image, const struct writer_options *options, struct writer **writer,
                struct error *error);

/* Starts the thread; to be called after the last fork(). 0 or a negative errno. */
int writer_start(struct writer *writer);

/*
 * Flushes, gives back what was reserved, clears the dirty bit (R5). The writer
 * is gone, also after an error. No request may be under way.
 */
int writer_close(struct writer *writer);

/*
 * Writes a range of the disk: 0 or a negative errno (-ENOSPC past the end of a
 * disk that is not growable); after an error any part of it may be written.
 */
int writer_write(struct writer *writer, uint64_t guest_offset, const void *data, size_t length);

/*
 * What follows may take long. It ends with -EINTR soon after `stop`, which may be
 * NULL, says so: any part of it is done then, each cluster as a whole or not at
 * all. It can be asked for again.
 */

/*
 * Makes a range within the disk read as zeros; with `unmap` its clusters are
 * freed where the format allows that. What a backing image has never shows. What
 * reads as zeros already and takes no place is passed over: no tables are made.
 */
int writer_zero(struct writer *writer, uint64_t guest_offset, uint64_t length, bool unmap,
                const struct stop *stop);

/*
 * Has the image say itself, of subclusters that read as zeros already, that they are zeros: they
 * are then whatever is behind it. The range begins at one, and ends at one or with the disk.
 */
int writer_own_zeros(struct writer *writer, uint64_t guest_offset, uint64_t length,
                     const struct stop *stop);

/*
 * Gives every cluster of a range a place in the file, and the host's space for it; what the disk
 * shows does not change.
 */
int writer_preallocate(struct writer *writer, uint64_t guest_offset, uint64_t length,
                       const struct stop *stop);

/*
 * The same without the host's space, for what reads as zeros and is not encrypted: there is a hole,
 * where the host makes holes.
 */
int writer_preallocate_sparse(struct writer *writer, uint64_t guest_offset, uint64_t length,
                              const struct stop *stop);

/*
 * Makes the disk `size` bytes long, rounded up to a whole sector unless it is growable; what it
 * gains reads as zeros. The header's size is of whole sectors in any case: opened again, a disk
 * that ended within one has zeros up to the end of that. -ENOTSUP where a snapshot does not record
 * its size, as in version 2. A disk that grows and is stopped has its old size. One that gets
 * smaller has its new size first, and 0 is returned: only the space of what is behind it may not
 * be free before it changes its size again.
 */
int writer_resize(struct writer *writer, uint64_t size, const struct stop *stop);

/* The size, in bytes, that writer_resize() gives a disk that is to have `size` bytes. */
uint64_t writer_size_for(const struct writer *writer, uint64_t size);

/*
 * The same where the disk is smaller, to the byte, and nothing where it is not. -ENOSPC in place of
 * -ENOTSUP.
 */
int writer_grow(struct writer *writer, uint64_t size, const struct stop *stop);

/*
 * Has the host reserve the space of a range that was preallocated and reads as
 * zeros; `written`: by writing zeros there. 0; -ENOSPC; -EOPNOTSUPP where the
 * host cannot reserve; any other errno of it.
 */
int writer_reserve(struct writer *writer, uint64_t guest_offset, uint64_t length, bool written);

/*
 * Fills clusters that are reserved, where that is wanted, as the thread does by itself. By one
 * thread at a time.
 */
void writer_fill(struct writer *writer);

/* R7: all that has returned before is stable. */
int writer_flush(struct writer *writer);

/* Whether something has been written since the last flush that succeeded. For a status line. */
bool writer_is_dirty(struct writer *writer);

/* The bytes of tables and refcount blocks that are not written yet. Likewise. */
uint64_t writer_dirty_bytes(struct writer *writer);

#endif
