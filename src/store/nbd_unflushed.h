/* SPDX-License-Identifier: MIT */
/*
 * What a server has answered and not made stable yet (R7).
 *
 * With a connection that is lost the server may have been lost, and with it each write that no
 * flush has covered: it may have forgotten them, and a flush on another connection would succeed
 * all the same. One that was under way may even be done later, over what is written meanwhile on
 * another connection. So a loss while anything is unflushed, or a write is under way, ends all
 * writing: it is *broken* from then on, writes and flushes fail, and so do reads of what was not
 * flushed, since nobody knows which bytes they would get. What was flushed is read on. A loss while
 * all is flushed and nothing is under way changes nothing: whoever serves next has it all.
 *
 *     write    |--under way--| ..... unflushed ..... |
 *     flush                         |--under way-----|      a loss before here breaks it
 *
 * The ranges are kept as bits of granules (at least 64 KiB; 128 KiB of memory at most for each of
 * two sets): those that no flush has begun for, and those of the flush that is under way. A write
 * joins the first when it is answered, so that a flush which began before covers it by no mistake.
 *
 * Any thread may call; it has a mutex of its own, and calls nobody under it. Internal to the store.
 */
#ifndef STORE_NBD_UNFLUSHED_H
#define STORE_NBD_UNFLUSHED_H

#include <stdbool.h>
#include <stdint.h>

struct nbd_unflushed;

/* For an export of `size` bytes. NULL when memory ran out. */
struct nbd_unflushed *nbd_unflushed_create(uint64_t size);
/* `unflushed` may be NULL here, and in what follows: for an export that is only read. */
void nbd_unflushed_destroy(struct nbd_unflushed *unflushed);

/* A write is sent; each has an end. */
void nbd_unflushed_write_begins(struct nbd_unflushed *unflushed);
void nbd_unflushed_write_ends(struct nbd_unflushed *unflushed, uint64_t offset, uint64_t length);

/*
 * A flush begins, of all writes that have ended; one at a time. When it has ended with success they
 * are flushed; a failure breaks it (the server may have dropped what it could not write).
 */
void nbd_unflushed_flush_begins(struct nbd_unflushed *unflushed);
void nbd_unflushed_flush_ends(struct nbd_unflushed *unflushed, bool success);

/* A connection is lost: before the writes that were under way on it end. */
void nbd_unflushed_lost(struct nbd_unflushed *unflushed);

/* Whether a loss would break it now. */
bool nbd_unflushed_at_stake(struct nbd_unflushed *unflushed);
bool nbd_unflushed_is_broken(struct nbd_unflushed *unflushed);
/* Whether all of the range that was ever written is flushed; a write that is under way is not. */
bool nbd_unflushed_is_stable(struct nbd_unflushed *unflushed, uint64_t offset, uint64_t length);
/* Whether it is broken, and a part of the range is among what may have been forgotten. */
bool nbd_unflushed_is_doubtful(struct nbd_unflushed *unflushed, uint64_t offset, uint64_t length);

#endif
