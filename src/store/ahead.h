/* SPDX-License-Identifier: MIT */
/*
 * A store around one that is far away: what a reader in order will ask for next is read before it
 * does, by threads, into blocks that are kept until it comes.
 *
 *     | taken | taken | ready | being read | being read | wanted |
 *                     ^ the reader                               ^ at most 14 MiB before it
 *
 * A few readings are told apart by where the next read of each is expected, since the requests of
 * one overtake each other by some. How far ahead one is served grows with what it has read. Tables
 * that lie between the data are among what is read ahead, and a row of tables is a reading itself.
 * Who reads here and there gets the store itself, past all this.
 *
 * What is written, or made zeros, through this store is never read older afterwards: the blocks
 * that it touches are forgotten before that call returns. What others write is seen late.
 *
 * Blocks are 16 MiB of memory at most, and given back when nothing was wanted for some seconds;
 * then the threads end, too. There are none before store_may_start_threads(). The mutex is a leaf,
 * and not held while anything is read or copied.
 */
#ifndef STORE_AHEAD_H
#define STORE_AHEAD_H

#include "store/store.h"

#define AHEAD_BLOCK  (UINT64_C(512) << 10) /* bytes */
#define AHEAD_BLOCKS 32

/*
 * *store takes over `inner`, and closes it. -ENOMEM, or why its size cannot be had: it is not taken
 * over then.
 */
int store_read_ahead(struct store *inner, struct store **store);

#endif
