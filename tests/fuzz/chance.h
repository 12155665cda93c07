/* SPDX-License-Identifier: MIT */
/* Numbers that look random, the same for the same seed everywhere (SplitMix64). */
#ifndef FUZZ_CHANCE_H
#define FUZZ_CHANCE_H

#include <stddef.h>
#include <stdint.h>

struct chance {
    uint64_t state; /* the seed at first */
};

static inline uint64_t chance_u64(struct chance *chance)
{
    uint64_t mixed = chance->state += UINT64_C(0x9e3779b97f4a7c15);

    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ mixed >> 31;
}

/* 0 to `bound` - 1; `bound` > 0. */
static inline uint64_t chance_below(struct chance *chance, uint64_t bound)
{
    return chance_u64(chance) % bound;
}

static inline void chance_fill(struct chance *chance, uint8_t *buffer, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        buffer[i] = (uint8_t)chance_u64(chance);
    }
}

#endif
