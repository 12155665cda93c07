/* SPDX-License-Identifier: MIT */
/*
 * Counts packed as in a refcount block ("Refcount block entry"): each takes
 * 1 << order bits, order 0 to 6.
 */
#ifndef META_REFCOUNT_BLOCK_H
#define META_REFCOUNT_BLOCK_H

#include "util/bytes.h"

#include <stdint.h>

/* The highest count of that width. */
static inline uint64_t refcount_max(uint32_t order)
{
    return order == 6 ? UINT64_MAX : (UINT64_C(1) << (1U << order)) - 1;
}

static inline uint64_t refcount_load(const void *block, uint64_t index, uint32_t order)
{
    const uint8_t *bytes = block;

    switch (order) {
    case 3:
        return bytes[index];
    case 4:
        return load_be16(bytes + index * 2);
    case 5:
        return load_be32(bytes + index * 4);
    case 6:
        return load_be64(bytes + index * 8);
    default: {
        uint64_t bit = index << order;

        return (bytes[bit / 8] >> (bit % 8)) & refcount_max(order);
    }
    }
}

static inline void refcount_store(void *block, uint64_t index, uint32_t order, uint64_t count)
{
    uint8_t *bytes = block;

    switch (order) {
    case 3:
        bytes[index] = (uint8_t)count;
        break;
    case 4:
        store_be16(bytes + index * 2, (uint16_t)count);
        break;
    case 5:
        store_be32(bytes + index * 4, (uint32_t)count);
        break;
    case 6:
        store_be64(bytes + index * 8, count);
        break;
    default: {
        uint64_t bit = index << order;
        unsigned mask = (unsigned)refcount_max(order) << (bit % 8);

        bytes[bit / 8] = (uint8_t)((bytes[bit / 8] & ~mask) | ((unsigned)count << (bit % 8)));
    }
    }
}

#endif
