/* SPDX-License-Identifier: MIT */
/*
 * How much of a mount the kernel's page cache may read ahead, and how much of it
 * may wait there to be written: /sys/class/bdi/MAJOR:MINOR. What a FUSE mount
 * begins with is meant for servers that nobody trusts, and makes large requests
 * of ours rare. Only the administrator (of the machine, not of a container) may
 * raise it; without that right everything works, but sequentially more slowly.
 */
#ifndef FUSE_PAGE_CACHE_H
#define FUSE_PAGE_CACHE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What is read ahead of a sequential reader, KiB, where that was less. */
#define PAGE_CACHE_READ_AHEAD 1024

/*
 * Percent of the dirty pages that the machine allows which may be those of the mount, and up to how
 * many bytes that is raised, where the kernel can be told (Linux 6.2; it keeps a share of what it
 * allows then): who reads past the page cache waits for all that is being written back.
 */
#define PAGE_CACHE_DIRTY_SHARE 5
#define PAGE_CACHE_DIRTY_BYTES (UINT64_C(80) << 20)

struct page_cache {
    unsigned major, minor;                    /* the mount's device */
    int read_ahead, dirty_share, dirty_bytes; /* the files of these, or -1 */
    atomic_bool is_raised;                    /* or there is nothing to raise */
};

/* Nothing is mounted yet; `mount_point` is where it will be. */
void page_cache_init(struct page_cache *cache, const char *mount_point);

/* It is: finds out which device that made, and opens its files. Asks the mount nothing, which
 * nobody answers yet. */
void page_cache_find(struct page_cache *cache, const char *mount_point);

/*
 * Raises the limits, once; later calls do nothing. To be called when the kernel
 * has taken our answer to its INIT, for that sets them, and before the answer
 * to an open: a file's read-ahead is decided then.
 */
void page_cache_raise(struct page_cache *cache);

/* Closes the files. */
void page_cache_release(struct page_cache *cache);

#endif
