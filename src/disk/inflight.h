/* SPDX-License-Identifier: MIT */
/*
 * Which requests are under way: R4 lets a cluster be handed out again only when
 * every request that began before it was dropped has ended.
 *
 *     generation g      requests enter, and count in counts[g % 2]
 *     inflight_flip()   g + 1: from here on they count in the other
 *     inflight_drained  counts[g % 2] is 0: all that began before the flip have ended
 *
 * Entering and leaving cost an atomic addition each, and never wait. Only one
 * thread at a time may flip, and only when the last flip has drained.
 */
#ifndef IMAGE_INFLIGHT_H
#define IMAGE_INFLIGHT_H

#include <stdatomic.h>
#include <stdbool.h>

struct inflight {
    atomic_uint generation;
    _Alignas(64) atomic_uint counts[2];
};

/* Returns what to give to inflight_leave(). */
static inline unsigned inflight_enter(struct inflight *inflight)
{
    for (;;) {
        unsigned generation = atomic_load(&inflight->generation);

        atomic_fetch_add(&inflight->counts[generation % 2], 1);
        if (atomic_load(&inflight->generation) == generation) {
            return generation;
        }
        /* Flipped in between: whoever flipped may not have seen this one. */
        atomic_fetch_sub(&inflight->counts[generation % 2], 1);
    }
}

static inline void inflight_leave(struct inflight *inflight, unsigned generation)
{
    atomic_fetch_sub(&inflight->counts[generation % 2], 1);
}

static inline void inflight_flip(struct inflight *inflight)
{
    atomic_fetch_add(&inflight->generation, 1);
}

/* Whether all requests from before the last flip have ended. */
static inline bool inflight_drained(struct inflight *inflight)
{
    unsigned before = atomic_load(&inflight->generation) - 1;

    return atomic_load(&inflight->counts[before % 2]) == 0;
}

#endif
