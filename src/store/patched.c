/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/patched.h"

#include "store/through.h"
#include "util/checked.h"

#include <stdlib.h>

struct range {
    uint64_t offset;
    size_t length;
    uint8_t *bytes;
};

struct patched_store {
    struct through through;
    uint64_t unit;
    struct range *ranges; /* in the order of their offsets */
    size_t count;
};

static struct patched_store *patched_of(struct store *store)
{
    return (struct patched_store *)store;
}

/* The first range that ends behind `offset`; the number of ranges where none does. */
static size_t find(const struct patched_store *patched, uint64_t offset)
{
    size_t low = 0, high = patched->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct range *range = &patched->ranges[middle];

        if (range->offset + range->length <= offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

int store_patch_add(struct store *store, uint64_t offset, const void *bytes, size_t length)
{
    struct patched_store *patched = patched_of(store);
    size_t at = find(patched, offset);
    struct range *ranges, *same = at < patched->count ? &patched->ranges[at] : NULL;
    uint8_t *copy;

    if (same != NULL && same->offset == offset && same->length == length) {
        memcpy(same->bytes, bytes, length);
        return 0;
    }
    ranges = reallocarray(patched->ranges, patched->count + 1, sizeof(*patched->ranges));
    copy = malloc(length);
    if (ranges != NULL) {
        patched->ranges = ranges;
    }
    if (ranges == NULL || copy == NULL) {
        free(copy);
        return -ENOMEM;
    }
    memcpy(copy, bytes, length);
    memmove(&ranges[at + 1], &ranges[at], (patched->count - at) * sizeof(*ranges));
    ranges[at] = (struct range){offset, length, copy};
    patched->count++;
    return 0;
}

/* Where what can be read of the store below ends. */
static int end_of_inner(const struct patched_store *patched, uint64_t *end)
{
    struct store_info info;
    int result = store_info(patched->through.inner, &info);

    if (result == 0 && !checked_round_up(info.size, patched->unit, end)) {
        *end = info.size;
    }
    return result;
}

static int read_inner(const struct patched_store *patched, uint64_t offset, void *buffer,
                      size_t length)
{
    uint64_t end = 0;
    int result = end_of_inner(patched, &end);

    if (result == 0 && !range_within(offset, length, end)) {
        result = -EIO;
    }
    return result == 0 ? store_read(patched->through.inner, offset, buffer, length) : result;
}

static int patched_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    const struct patched_store *patched = patched_of(store);
    size_t at = find(patched, offset);
    uint8_t *to = buffer;
    int result = 0;

    while (length > 0 && result == 0) {
        const struct range *range = at < patched->count ? &patched->ranges[at] : NULL;
        size_t part = length;

        if (range != NULL && range->offset <= offset) {
            part = (size_t)min_u64(part, range->offset + range->length - offset);
            memcpy(to, range->bytes + (offset - range->offset), part);
            at++;
        } else {
            part = range != NULL ? (size_t)min_u64(part, range->offset - offset) : part;
            result = read_inner(patched, offset, to, part);
        }
        offset += part;
        to += part;
        length -= part;
    }
    return result;
}

static int refuse_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    (void)store, (void)offset, (void)buffer, (void)length;
    return -EROFS;
}

static int refuse_range(struct store *store, uint64_t offset, uint64_t length)
{
    (void)store, (void)offset, (void)length;
    return -EROFS;
}

static int refuse_size(struct store *store, uint64_t size)
{
    (void)store, (void)size;
    return -EROFS;
}

static int patched_sync(struct store *store)
{
    (void)store;
    return 0; /* nothing was written */
}

static int patched_info(struct store *store, struct store_info *info)
{
    const struct patched_store *patched = patched_of(store);
    int result = store_info(patched->through.inner, info);

    if (result == 0 && patched->count > 0) {
        const struct range *last = &patched->ranges[patched->count - 1];

        info->size = max_u64(info->size, last->offset + last->length);
    }
    return result;
}

/* Whatever is in memory, or lost, is to be read. */
static int patched_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                          uint64_t *length)
{
    const struct patched_store *patched = patched_of(store);
    size_t at = find(patched, offset);
    uint64_t end = 0;
    int result = end_of_inner(patched, &end);

    if (result < 0) {
        return result;
    }
    *is_data = true;
    *length = limit;
    if (at < patched->count && patched->ranges[at].offset <= offset) {
        *length = min_u64(limit, patched->ranges[at].offset + patched->ranges[at].length - offset);
    } else if (offset < end) {
        limit = min_u64(limit, end - offset);
        if (at < patched->count) {
            limit = min_u64(limit, patched->ranges[at].offset - offset);
        }
        result = store_extent(patched->through.inner, offset, limit, is_data, length);
    }
    return result;
}

static void patched_close(struct store *store)
{
    struct patched_store *patched = patched_of(store);

    for (size_t i = 0; i < patched->count; i++) {
        free(patched->ranges[i].bytes);
    }
    free(patched->ranges);
    store_close(patched->through.inner);
    free(patched);
}

static const struct store_ops patched_ops = {
    .read = patched_read,
    .write = refuse_write,
    .sync = patched_sync,
    .punch = refuse_range,
    .resize = refuse_size,
    .info = patched_info,
    .extent = patched_extent,
    .lost = through_lost,
    .may_start_threads = through_may_start_threads,
    .close = patched_close,
};

int store_patch(struct store *inner, uint64_t unit, struct store **store)
{
    struct patched_store *patched = malloc(sizeof(*patched));

    if (patched == NULL) {
        return -ENOMEM;
    }
    *patched = (struct patched_store){.through = {{.ops = &patched_ops}, inner}, .unit = unit};
    *store = &patched->through.store;
    return 0;
}
