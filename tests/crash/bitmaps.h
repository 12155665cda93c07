/* SPDX-License-Identifier: MIT */
/*
 * What bitmaps an image may have at a crash: those from before a change of them that was under way,
 * or those from behind it. And of those that record what is written, whether they miss something.
 */
#ifndef CRASH_BITMAPS_H
#define CRASH_BITMAPS_H

#include "disk/image.h"

#include <stdbool.h>
#include <stddef.h>

#define BITMAP_STATES 64

struct bitmap_states {
    char *text[BITMAP_STATES]; /* as bitmaps_describe() says it; NULL: a change failed, who knows */
    size_t begun[BITMAP_STATES], done[BITMAP_STATES]; /* in the log; of the first both are 0 */
    size_t count;
};

/* Names, flags, granularities and bits, to be freed; NULL where they cannot be read. */
char *bitmaps_describe(const struct image *image);

/* A state that came to be between these two marks of the log; the text is owned from here on. */
void bitmap_states_add(struct bitmap_states *states, char *text, size_t begun, size_t done);
void bitmap_states_release(struct bitmap_states *states);

/* Whether the image may have these bitmaps right before the entry `crash` of the log. */
bool bitmap_states_allow(const struct bitmap_states *states, size_t crash, const char *text);

/* A disk, when its enabled bitmaps were empty, and now; sizes in bytes. */
struct recorded {
    const uint8_t *before, *now;
    uint64_t before_size, now_size;
    uint64_t least_size; /* that it had meanwhile */
};

/* NULL, or what is wrong with a bitmap that claims to be true, in `text`. *claim: how many do. */
const char *bitmaps_check(const struct image *image, const struct recorded *recorded, size_t *claim,
                          char *text, size_t text_size);

#endif
