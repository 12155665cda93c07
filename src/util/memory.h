/* SPDX-License-Identifier: MIT */
/* How much memory there is, for defaults that depend on it; and memory that is mapped at once. */
#ifndef UTIL_MEMORY_H
#define UTIL_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the machine's memory, or less where a control group of this process may have less. */
uint64_t memory_size(void);

/*
 * The same, for tests: `machine` bytes; `groups`, what /proc/self/cgroup holds, and where the
 * tree of groups is.
 */
uint64_t memory_size_in(uint64_t machine, const char *groups, const char *root);

/*
 * Before all of these `bytes` are filled, where a start is waited for: their pages are mapped in
 * one call, not by a fault for each, which in a virtual machine costs ten times as much and more.
 * Where that cannot be done nothing happens.
 */
void memory_map(void *memory, size_t bytes);

/*
 * The same for what every start touches of the code of this program, of the C library, and of what
 * links them. A fork() leaves the child without it.
 */
void memory_map_code(void);

/* The same for the heap while it is small. Before a fork() it only makes more to be copied. */
void memory_map_heap(void);

/*
 * After work that took so many bytes of the heap: where that is much, the kernel gets back what of
 * it was freed, which the C library would keep for the next time.
 */
void memory_trim(size_t bytes);

#endif
