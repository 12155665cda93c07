/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/page_cache.h"

#include <fcntl.h>
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
    *cache = (struct page_cache){.read_ahead = -1, .dirty_share = -1};
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
}

/* Raises the number in such a file; nothing is lost where that is not allowed. */
static void raise_limit(int descriptor, unsigned long value)
{
    char text[32];
    ssize_t length = descriptor >= 0 ? pread(descriptor, text, sizeof(text) - 1, 0) : -1;

    if (length > 0) {
        text[length] = '\0';
        if (strtoul(text, NULL, 10) < value) {
            length = snprintf(text, sizeof(text), "%lu", value);
            (void)!pwrite(descriptor, text, (size_t)length, 0);
        }
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
    raise_limit(cache->dirty_share, PAGE_CACHE_DIRTY_SHARE);
}

void page_cache_release(struct page_cache *cache)
{
    close_limit(&cache->read_ahead);
    close_limit(&cache->dirty_share);
}
