/* SPDX-License-Identifier: MIT */
/*
 * A store that does not become longer than it may be: what would have it end behind `max` fails
 * with -ENOSPC, as if the host were full. Whatever is within it can be written at any time, so who
 * has made room for something has the room. All else is that of the store which it is put around.
 * Takes no locks.
 */
#ifndef STORE_LIMITED_H
#define STORE_LIMITED_H

#include "store/store.h"

#include <stdint.h>

/*
 * Puts one around `inner`, which belongs to it from then on. One that is longer already stays as
 * long as it is. 0 or -ENOMEM.
 */
int store_limit(struct store *inner, uint64_t max, struct store **store);

#endif
