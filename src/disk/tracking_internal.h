/* SPDX-License-Identifier: MIT */
/* What the files of the bits of bitmaps share: tracking.c (who marks), changed.c (who looks). */
#ifndef DISK_TRACKING_INTERNAL_H
#define DISK_TRACKING_INTERNAL_H

#include "disk/image.h"
#include "disk/tracking.h"
#include "meta/bitmap.h"
#include "util/checked.h"
#include "util/memory.h"

#include <stdatomic.h>
#include <stddef.h>

#define WORD_BITS UINT64_C(64)

/*
 * The bits of one bitmap. A disk that grows gets more of them: an array of its own for all of it,
 * in front of the older ones, in which who looked before it was there may still set something. A
 * bit is set where it is in any.
 */
struct bits {
    struct bits *older;
    uint64_t words;
    _Atomic uint64_t word[];
};

struct tracked {
    const struct bitmap *bitmap; /* as the directory had it */
    uint64_t *table;             /* as it is on the disk; host byte order */
    unsigned granularity_bits;
    bool lost; /* there was no memory for more bits; guarded by resize_mutex */
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
    uint64_t memory; /* bytes that are left for bits */
};

/* Bytes that bits of bitmaps may take: so many as were asked for, or 0. */
static inline uint64_t tracking_memory(uint64_t asked)
{
    return asked != 0 ? asked : max_u64(memory_size() / 16, UINT64_C(64) << 20);
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

/* The bits that the table of `tracked` names. 0 or a negative errno. */
int tracking_load_bits(const struct image *image, const struct tracked *tracked, struct bits *bits);

#endif
