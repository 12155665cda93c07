/* SPDX-License-Identifier: MIT */
/*
 * What the files of the bits of bitmaps share: tracking.c (who marks), changed.c (who looks),
 * bits.c.
 */
#ifndef DISK_TRACKING_INTERNAL_H
#define DISK_TRACKING_INTERNAL_H

#include "disk/image.h"
#include "disk/tracking.h"
#include "meta/bitmap.h"
#include "util/checked.h"
#include "util/memory.h"

#include <stdatomic.h>
#include <stddef.h>

#define WORD_BITS       UINT64_C(64)
#define BITS_PAGE_WORDS UINT64_C(512)

/*
 * The bits of one bitmap. A disk that grows gets more of them: an array of its own for all of it,
 * in front of the older ones, in which who looked before it was there may still set something. A
 * bit is set where it is in any.
 *
 * Of a large array only those pages exist, and count, in which a bit was ever set: `touched` has a
 * bit for each. So the room that bitmaps have is for what has changed, not for what the disks have.
 */
struct bits {
    struct bits *older;
    _Atomic uint64_t *touched; /* NULL: small, all of it counts */
    uint64_t words;
    _Atomic uint64_t word[];
};

struct tracked {
    const struct bitmap *bitmap; /* as the directory had it */
    uint64_t *table;             /* as it is on the disk; host byte order */
    unsigned granularity_bits;
    atomic_bool lost; /* there was no memory for more bits; for good */
    struct bits *_Atomic bits;
};

/* What becomes of one. */
enum fate {
    FATE_UNTOUCHED, /* it is disabled, or was inconsistent before */
    FATE_TRACKED,
    FATE_INCONSISTENT,
};

struct group {
    struct tracked *tracked;
    size_t count;
};

struct tracking {
    struct bitmap_directory *directory; /* as it was before the first change */
    enum fate *fates;                   /* of each of its bitmaps */
    struct group recording;             /* they are enabled; nothing changes in it but bits */
    struct group others; /* disabled ones that are to have another size; guarded by resize_mutex */
    bool has_others;
    _Atomic int64_t memory; /* bytes that are left for bits */
    const struct image *image;
};

/* Bytes that bits of bitmaps may take: so many as were asked for, or 0. */
static inline uint64_t tracking_memory(uint64_t asked)
{
    return asked != 0 ? asked : max_u64(memory_size() / 16, UINT64_C(64) << 20);
}

/* Whether a bit was ever set in the page that has that word. */
static inline bool bits_may_have(const struct bits *bits, uint64_t index)
{
    uint64_t page = index / BITS_PAGE_WORDS;

    return index < bits->words &&
           (bits->touched == NULL ||
            (atomic_load_explicit(&bits->touched[page / WORD_BITS], memory_order_relaxed) >>
                 page % WORD_BITS &
             1) != 0);
}

static inline bool tracked_may_have(struct tracked *tracked, uint64_t index)
{
    const struct bits *bits = atomic_load(&tracked->bits);

    while (bits != NULL && !bits_may_have(bits, index)) {
        bits = bits->older;
    }
    return bits != NULL;
}

/* The first word of the page behind the one that has that word. */
static inline uint64_t bits_next_page(uint64_t index)
{
    return (index / BITS_PAGE_WORDS + 1) * BITS_PAGE_WORDS;
}

static inline uint64_t word_of(struct tracked *tracked, uint64_t index)
{
    uint64_t word = 0;

    for (struct bits *bits = atomic_load(&tracked->bits); bits != NULL; bits = bits->older) {
        if (index < bits->words) {
            word |= atomic_load_explicit(&bits->word[index], memory_order_relaxed);
        }
    }
    return word;
}

static inline uint64_t bits_for(const struct tracked *tracked, uint64_t size)
{
    return div_round_up(size, UINT64_C(1) << tracked->granularity_bits);
}

/* An array with none set, in `memory`, which has what is left of it; NULL: there is none. */
struct bits *bits_create(_Atomic int64_t *memory, uint64_t words);
void bits_free(struct bits *bits); /* may be NULL; what it has taken stays counted */

/* Bytes that it has taken so far. */
uint64_t bits_taken(const struct bits *bits);

/* Sets bits, as far as there are such. Any thread. False: not all, there was no memory. */
bool bits_set(struct bits *bits, _Atomic int64_t *memory, uint64_t first, uint64_t last);

/* The same for a whole word, which may have others already. */
bool bits_add_word(struct bits *bits, _Atomic int64_t *memory, uint64_t index, uint64_t word);

/* Sets those that the table of `tracked` names. 0 or a negative errno. */
int bits_load(const struct image *image, const struct tracked *tracked, struct bits *bits,
              _Atomic int64_t *memory);

/* The cluster of bits that an entry of the table stands for. Likewise. */
int bits_read_cluster(struct store *file, size_t size, uint64_t entry, void *cluster);

#endif
