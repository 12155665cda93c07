/* SPDX-License-Identifier: MIT */
/*
 * Reading and writing a descriptor that is O_DIRECT: any offset, length and
 * memory, of which the host takes only aligned ones. Internal to the store.
 *
 *     write  |--####|########|########|##------|     blocks of the host
 *             patch   as it is, no copy   patch      memory aligned
 *             patch      by a bounce      patch      memory not aligned
 *
 * A block that is written in part is read, changed and written back; to read
 * one in part, it is read into a bounce buffer. Every change of the file holds
 * its blocks meanwhile (util/range_lock.h): of two writes in one block, neither
 * may bring back what was there before the other. Reads hold nothing.
 *
 * The last block of a file whose size is no multiple of it is written whole, and
 * the file then cut to the size it is to have, while everything behind it is
 * held as well. The other way, buffered writing of that block alone, would mix
 * page cache and direct I/O in one page, which hosts do not promise to keep
 * together. A crash in between leaves less than a block of zeros behind the end,
 * where zeros are read in any case.
 *
 * Lock: its range locks; no other is taken while one is held.
 */
#ifndef STORE_DIRECT_H
#define STORE_DIRECT_H

#include "util/range_lock.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct direct;

/* `fd` is borrowed, and O_DIRECT. Finds out what the host wants aligned. 0 or a negative errno. */
int direct_create(int fd, bool block_device, struct direct **direct);
void direct_destroy(struct direct *direct);

/* As that of struct store_ops, but zeros for all behind the end; *missing: how many bytes that are.
 */
int direct_read(struct direct *direct, uint64_t offset, void *buffer, size_t length,
                size_t *missing);
/* As that of struct store_ops. */
int direct_write(struct direct *direct, uint64_t offset, const void *buffer, size_t length);

/* Holds the blocks of a range (length UINT64_MAX: to the end of all), to change them otherwise. */
void direct_hold(struct direct *direct, uint64_t offset, uint64_t length, struct range_lock *lock);
void direct_release(struct direct *direct, struct range_lock *lock);

#endif
