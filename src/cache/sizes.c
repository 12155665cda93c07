/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "cache/sizes.h"

#include "util/checked.h"
#include "util/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>

#define MIB (UINT64_C(1) << 20)

/* What lies between the least that works and the most that is of use; bytes. */
struct bounds {
    uint64_t l2_min, l2_full;
    uint64_t refcount_min, refcount_full;
};

/* A sum or product too large to be said is larger than any budget; that is all that matters. */
static uint64_t saturating_add(uint64_t a, uint64_t b)
{
    uint64_t sum;

    return checked_add(a, b, &sum) ? sum : UINT64_MAX;
}

static uint64_t saturating_mul(uint64_t a, uint64_t b)
{
    uint64_t product;

    return checked_mul(a, b, &product) ? product : UINT64_MAX;
}

static uint64_t saturating_round_up(uint64_t value, uint64_t power_of_two)
{
    uint64_t rounded;

    return checked_round_up(value, power_of_two, &rounded) ? rounded : UINT64_MAX;
}

uint64_t cache_l2_full_size(const struct cache_geometry *image)
{
    return saturating_mul(div_round_up(image->virtual_size, image->cluster_size),
                          image->l2_entry_bytes);
}

uint64_t cache_refcount_full_size(const struct cache_geometry *image)
{
    uint64_t clusters = div_round_up(image->file_size, image->cluster_size);
    uint64_t bits = saturating_mul(clusters, image->refcount_bits);

    return saturating_round_up(div_round_up(bits, 8), image->cluster_size);
}

static int resolve_entry_size(const struct cache_options *options,
                              const struct cache_geometry *active, uint64_t *entry_size,
                              struct error *error)
{
    uint64_t value = options->l2_entry_size.value;

    if (!options->l2_entry_size.set) {
        *entry_size = min_u64(CACHE_L2_ENTRY_DEFAULT, active->cluster_size);
        return 0;
    }
    if (!is_power_of_two(value) || value < CACHE_L2_ENTRY_MIN || value > active->cluster_size) {
        return error_set(error, EINVAL,
                         "l2-cache-entry-size is %" PRIu64 "; it must be a power of two from "
                         "%" PRIu64 " to the cluster size of the image, %" PRIu64,
                         value, CACHE_L2_ENTRY_MIN, active->cluster_size);
    }
    *entry_size = value;
    return 0;
}

static int resolve_clean_interval(const struct cache_options *options, unsigned *seconds,
                                  struct error *error)
{
    uint64_t value = options->clean_interval.value;

    if (!options->clean_interval.set) {
        *seconds = CACHE_CLEAN_DEFAULT;
        return 0;
    }
    if (value > UINT_MAX) {
        return error_set(error, EINVAL,
                         "cache-clean-interval is %" PRIu64 " seconds; it must be at most %u, "
                         "or 0 for never",
                         value, UINT_MAX);
    }
    *seconds = (unsigned)value;
    return 0;
}

static struct bounds bounds_of(const struct cache_geometry *images, size_t count,
                               uint64_t entry_size)
{
    struct bounds bounds = {
        .l2_min = CACHE_L2_MIN_ENTRIES * entry_size,
        .refcount_min = CACHE_REFCOUNT_MIN_CLUSTERS * images[0].cluster_size,
    };

    for (size_t i = 0; i < count; i++) {
        uint64_t slice = min_u64(entry_size, images[i].cluster_size);
        uint64_t l2 = saturating_round_up(cache_l2_full_size(&images[i]), slice);

        bounds.l2_full = saturating_add(bounds.l2_full, l2);
        bounds.refcount_full =
            saturating_add(bounds.refcount_full, cache_refcount_full_size(&images[i]));
    }
    /* The minima are what works at all; an image too small to use them does not change that. */
    bounds.l2_full = max_u64(bounds.l2_full, bounds.l2_min);
    bounds.refcount_full = max_u64(bounds.refcount_full, bounds.refcount_min);
    return bounds;
}

/* One of the two sizes against the one that bounds both. */
static int check_part(const char *name, const struct option_number *part,
                      const struct option_number *whole, struct error *error)
{
    if (!part->set || !whole->set || part->value <= whole->value) {
        return 0;
    }
    return error_set(error, EINVAL,
                     "%s (%" PRIu64 ") is larger than cache-size (%" PRIu64 "), which bounds the "
                     "L2 cache and the refcount cache together; lower the one or raise the other",
                     name, part->value, whole->value);
}

static int check_combination(const struct cache_options *options, struct error *error)
{
    int result;

    if (options->size.set && options->l2_size.set && options->refcount_size.set) {
        return error_set(error, EINVAL,
                         "cache-size, l2-cache-size and refcount-cache-size are given, and two of "
                         "them decide the third; leave one out");
    }
    result = check_part("l2-cache-size", &options->l2_size, &options->size, error);
    if (result != 0) {
        return result;
    }
    return check_part("refcount-cache-size", &options->refcount_size, &options->size, error);
}

/* cache-size alone: L2 tables first, as refcounts are needed for writing only. */
static void split(uint64_t whole, const struct bounds *bounds, struct cache_sizes *sizes)
{
    if (whole >= saturating_add(bounds->l2_full, bounds->refcount_min)) {
        sizes->l2_budget = bounds->l2_full;
        sizes->refcount_budget = whole - bounds->l2_full;
    } else {
        sizes->refcount_budget = min_u64(whole, bounds->refcount_min);
        sizes->l2_budget = whole - sizes->refcount_budget;
    }
}

static uint64_t clamp(uint64_t value, uint64_t least, uint64_t most)
{
    return max_u64(least, min_u64(value, most));
}

/* A part of the memory, in whole MiB. */
static uint64_t share_of(uint64_t memory, uint64_t share, uint64_t least, uint64_t most)
{
    return clamp(round_down(memory / share, MIB), least, most);
}

uint64_t cache_l2_default(uint64_t memory)
{
    return share_of(memory, CACHE_L2_MEMORY_SHARE, CACHE_L2_DEFAULT_MIN, CACHE_L2_DEFAULT_MAX);
}

uint64_t cache_data_default(uint64_t memory)
{
    return share_of(memory, CACHE_DATA_MEMORY_SHARE, CACHE_DATA_DEFAULT_MIN,
                    CACHE_DATA_DEFAULT_MAX);
}

/* As asked for, before the bounds are applied. The combination has been checked. */
static void share_out(const struct cache_options *options, const struct bounds *bounds,
                      struct cache_sizes *sizes)
{
    uint64_t whole = options->size.value;

    sizes->l2_budget =
        options->l2_size.set ? options->l2_size.value : cache_l2_default(memory_size());
    sizes->refcount_budget =
        options->refcount_size.set ? options->refcount_size.value : bounds->refcount_min;
    if (!options->size.set) {
        return;
    }
    if (options->l2_size.set) {
        sizes->refcount_budget = whole - sizes->l2_budget;
    } else if (options->refcount_size.set) {
        sizes->l2_budget = whole - sizes->refcount_budget;
    } else {
        split(whole, bounds, sizes);
    }
}

/*
 * The budgets of L2 tables and of refcounts, for entries of sizes->l2_entry_size.
 * Returns whether that of L2 tables is all that the images can use: no entry is
 * then ever dropped for another, so larger ones cost nothing, and are fewer to
 * search among and to keep.
 */
static bool resolve_budgets(const struct cache_options *options,
                            const struct cache_geometry *images, size_t count,
                            struct cache_sizes *sizes)
{
    struct bounds bounds = bounds_of(images, count, sizes->l2_entry_size);

    share_out(options, &bounds, sizes);
    sizes->l2_budget = clamp(sizes->l2_budget, bounds.l2_min, bounds.l2_full);
    sizes->refcount_budget =
        clamp(sizes->refcount_budget, bounds.refcount_min, bounds.refcount_full);
    return sizes->l2_budget == bounds.l2_full;
}

/*
 * Of entries that are never dropped: a power of two up to the cluster size. Where a server is
 * asked, many small ones would each wait for it.
 */
static uint64_t best_entry_size(const struct cache_geometry *images, size_t count,
                                const struct cache_sizes *sizes)
{
    uint64_t size =
        sizes->l2_budget > CACHE_L2_DEFAULT_MIN ? CACHE_L2_ENTRY_LARGE : sizes->l2_entry_size;

    for (size_t i = 0; i < count; i++) {
        size = max_u64(size, images[i].preferred);
    }
    return min_u64(size, images[0].cluster_size);
}

/*
 * Half, so that clean slices find a place as well. On a server a flush is dear, and slices are few
 * and large: where all of them have a place all may be dirty, up to a size that a flush, which
 * copies what is changed meanwhile, may take a second time.
 */
static uint64_t l2_dirty_max(const struct cache_sizes *sizes, const struct cache_geometry *written,
                             bool is_covered)
{
    uint64_t half = sizes->l2_budget / 2;
    uint64_t all = min_u64(sizes->l2_budget, CACHE_L2_DEFAULT_MIN);

    return is_covered && written->preferred > 0 ? max_u64(half, all) : half;
}

int cache_sizes_resolve(const struct cache_options *options, const struct cache_geometry *images,
                        size_t count, struct cache_sizes *sizes, struct error *error)
{
    struct cache_sizes resolved;
    bool is_covered;
    int result;

    result = check_combination(options, error);
    if (result != 0) {
        return result;
    }
    result = resolve_entry_size(options, &images[0], &resolved.l2_entry_size, error);
    if (result != 0) {
        return result;
    }
    result = resolve_clean_interval(options, &resolved.clean_interval, error);
    if (result != 0) {
        return result;
    }
    is_covered = resolve_budgets(options, images, count, &resolved);
    if (!options->l2_entry_size.set && is_covered) {
        resolved.l2_entry_size = best_entry_size(images, count, &resolved);
        resolve_budgets(options, images, count, &resolved);
    }
    resolved.l2_dirty_max = l2_dirty_max(&resolved, &images[0], is_covered);
    resolved.data_budget =
        options->data_size.set ? options->data_size.value : cache_data_default(memory_size());
    *sizes = resolved;
    return 0;
}
