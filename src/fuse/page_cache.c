/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/page_cache.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* The device that a path lies on, without a request to who serves it. */
static bool find_device(const char *path, unsigned *major, unsigned *minor)
{
    struct statx status;

    if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &status) != 0) {
        return false;
    }
    *major = status.stx_dev_major;
    *minor = status.stx_dev_minor;
    return true;
}

void page_cache_init(struct page_cache *cache, const char *mount_point)
{
    *cache = (struct page_cache){.read_ahead = -1, .dirty_share = -1, .dirty_bytes = -1};
    atomic_init(&cache->is_raised, !find_device(mount_point, &cache->major, &cache->minor));
}

/* Before there are threads, and while it can still be done; -1 where that is not allowed. */
static int open_limit(const struct page_cache *cache, const char *name)
{
    char path[64];

    snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/%s", cache->major, cache->minor, name);
    return open(path, O_RDWR | O_CLOEXEC);
}

void page_cache_find(struct page_cache *cache, const char *mount_point)
{
    unsigned before_major = cache->major, before_minor = cache->minor;
    bool found = find_device(mount_point, &cache->major, &cache->minor);

    if (!found || (cache->major == before_major && cache->minor == before_minor)) {
        atomic_store(&cache->is_raised, true); /* gone again already */
        return;
    }
    cache->read_ahead = open_limit(cache, "read_ahead_kb");
    cache->dirty_share = open_limit(cache, "max_ratio");
    cache->dirty_bytes = open_limit(cache, "max_bytes");
}

/* The number in such a file; UINT64_MAX: it cannot be told. */
static uint64_t get_limit(int descriptor)
{
    char text[32];
    ssize_t length = descriptor >= 0 ? pread(descriptor, text, sizeof(text) - 1, 0) : -1;

    if (length <= 0) {
        return UINT64_MAX;
    }
    text[length] = '\0';
    return strtoull(text, NULL, 10);
}

/* Nothing is lost where that is not allowed. */
static void set_limit(int descriptor, uint64_t value)
{
    char text[32];
    int length = snprintf(text, sizeof(text), "%" PRIu64, value);

    (void)!pwrite(descriptor, text, (size_t)length, 0);
}

static void raise_limit(int descriptor, uint64_t value)
{
    if (get_limit(descriptor) < value) {
        set_limit(descriptor, value);
    }
}

/* The two are one limit of the kernel's, which tells it as a share and in bytes. */
static void raise_dirty_limit(const struct page_cache *cache)
{
    uint64_t share = get_limit(cache->dirty_share), bytes = get_limit(cache->dirty_bytes);

    if (share >= PAGE_CACHE_DIRTY_SHARE ||
        (bytes >= PAGE_CACHE_DIRTY_BYTES && bytes != UINT64_MAX)) {
        return;
    }
    set_limit(cache->dirty_share, PAGE_CACHE_DIRTY_SHARE);
    bytes = get_limit(cache->dirty_bytes);
    if (bytes > PAGE_CACHE_DIRTY_BYTES && bytes != UINT64_MAX) {
        set_limit(cache->dirty_bytes, PAGE_CACHE_DIRTY_BYTES);
    }
}

static void close_limit(int *descriptor)
{
    if (*descriptor >= 0) {
        close(*descriptor);
        *descriptor = -1;
    }
}

void page_cache_raise(struct page_cache *cache)
{
    if (atomic_load_explicit(&cache->is_raised, memory_order_relaxed) ||
        atomic_exchange(&cache->is_raised, true)) {
        return;
    }
    raise_limit(cache->read_ahead, PAGE_CACHE_READ_AHEAD);
    raise_dirty_limit(cache);
}

void page_cache_release(struct page_cache *cache)
{
    close_limit(&cache->read_ahead);
    close_limit(&cache->dirty_share);
    close_limit(&cache->dirty_bytes);
}
