/* SPDX-License-Identifier: MIT */
/* How much memory there is, for defaults that depend on it. */
#ifndef UTIL_MEMORY_H
#define UTIL_MEMORY_H

#include <stdint.h>

/* Bytes of the machine's memory, or less where a control group of this process may have less. */
uint64_t memory_size(void);

/*
 * The same, for tests: `machine` bytes; `groups`, what /proc/self/cgroup holds, and where the
 * tree of groups is.
 */
uint64_t memory_size_in(uint64_t machine, const char *groups, const char *root);

#endif
