/* SPDX-License-Identifier: MIT */
/*
 * Arithmetic on numbers that came from an image, or from a user: every helper
 * either gives the exact result or says that it does not fit. Nothing wraps.
 */
#ifndef UTIL_CHECKED_H
#define UTIL_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True, and *sum set, when a + b fits. */
static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *sum)
{
    return !__builtin_add_overflow(a, b, sum);
}

/* True, and *product set, when a * b fits. */
static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

static inline bool is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* True, and *rounded set, when value rounded up to a multiple of the power of two fits. */
static inline bool checked_round_up(uint64_t value, uint64_t power_of_two, uint64_t *rounded)
{
    if (!checked_add(value, power_of_two - 1, rounded)) {
        return false;
    }
    *rounded &= ~(power_of_two - 1);
    return true;
}

static inline uint64_t round_down(uint64_t value, uint64_t power_of_two)
{
    return value & ~(power_of_two - 1);
}

/* How many units of `divisor` cover `value`; cannot overflow. */
static inline uint64_t div_round_up(uint64_t value, uint64_t divisor)
{
    return value / divisor + (value % divisor != 0);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/*
 * `bytes` as a size of memory. Where that has 32 bits, more than it can say becomes SIZE_MAX, which
 * no allocation gets: what was to be allocated ends as without memory, never as a buffer too small.
 */
static inline size_t in_memory(uint64_t bytes)
{
    return bytes <= SIZE_MAX ? (size_t)bytes : SIZE_MAX;
}

/* The smaller of two lengths, of which one is that of something in memory. */
static inline size_t min_size(uint64_t a, uint64_t b)
{
    return in_memory(min_u64(a, b));
}

/* True when [offset, offset + length) lies inside [0, limit). */
static inline bool range_within(uint64_t offset, uint64_t length, uint64_t limit)
{
    return offset <= limit && length <= limit - offset;
}

/* True when the two ranges share a byte. An empty range shares none. */
static inline bool ranges_overlap(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length)
{
    if (a_length == 0 || b_length == 0) {
        return false;
    }
    return a < b ? b - a < a_length : a - b < b_length;
}

#endif
