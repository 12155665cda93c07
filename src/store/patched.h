/* SPDX-License-Identifier: MIT */
/*
 * A store that reads as another one does, but for ranges that have other bytes, in memory: a
 * damaged image as it should be, for who reads it like any other. Nothing can be written.
 *
 * Ranges may lie behind the end of the store below. What is between that end and the end of this
 * one, and in no range, is lost: reading it is -EIO, so that it is not taken for zeros.
 */
#ifndef STORE_PATCHED_H
#define STORE_PATCHED_H

#include "store/store.h"

/*
 * Takes `inner` over, on success. `unit` is a power of two: the unit that `inner` ends in may be in
 * it in part, and reads as zeros behind its end. 0 or -ENOMEM.
 */
int store_patch(struct store *inner, uint64_t unit, struct store **store);

/*
 * Before others read it: a copy of `bytes` is at `offset` from now on; ranges do not
 * overlap, but the same one may be given again. 0 or -ENOMEM.
 */
int store_patch_add(struct store *store, uint64_t offset, const void *bytes, size_t length);

#endif
