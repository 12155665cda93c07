/* SPDX-License-Identifier: MIT */
/*
 * The persistent bitmaps that the image has, bit for bit: what each must say after all that was
 * written, zeroed, discarded and resized, cleared, switched, merged, copied and
 * removed. All succeeds here, so that what a bitmap has is known exactly.
 */
#include "config.h"

#include "model.h"

#include "disk/bitmaps.h"
#include "disk/changed.h"
#include "meta/bitmap.h"
#include "meta/format.h"
#include "util/checked.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY        (UINT64_C(64) << 20)
#define GRANULARITIES 23 /* 512 bytes to 2 GiB */

struct kept_bitmap {
    char *name;
    uint64_t granularity; /* bytes */
    bool enabled;
    atomic_bool *bits; /* for all that the disk may ever have; threads meet in them */
};

struct kept_bitmaps {
    size_t count;
    size_t first_count; /* of which the image had in the beginning */
    unsigned copied;    /* how many ever were: their names count them */
    struct kept_bitmap list[MODEL_BITMAPS_MAX];
};

static _Noreturn void fail(const struct model *model, const char *name, const char *why)
{
    fprintf(stderr, "seed %" PRIu64 ", bitmap %s: %s\n", model->options.seed.value, name, why);
    exit(1);
}

static uint64_t bits_for(const struct kept_bitmap *bitmap, uint64_t size)
{
    return div_round_up(size, bitmap->granularity);
}

static void set_bits(struct kept_bitmap *bitmap, uint64_t from, uint64_t to)
{
    for (uint64_t bit = from / bitmap->granularity; bit < bits_for(bitmap, to); bit++) {
        atomic_store_explicit(&bitmap->bits[bit], true, memory_order_relaxed);
    }
}

/* --- Beginning and end -------------------------------------------------------------------------
 */

static void add(struct model *model, const struct bitmap *bitmap)
{
    struct kept_bitmaps *all = model->bitmaps;
    struct kept_bitmap *kept = &all->list[all->count];

    if (all->count == MODEL_BITMAPS_MAX) {
        fail(model, bitmap->name, "is one too many");
    }
    *kept = (struct kept_bitmap){
        .name = strdup(bitmap->name),
        .granularity = bitmap->granularity,
        .enabled = (bitmap->flags & BITMAP_FLAG_AUTO) != 0,
    };
    kept->bits = calloc(bits_for(kept, model->capacity) + 1, sizeof(*kept->bits));
    if (kept->name == NULL || kept->bits == NULL) {
        fail(model, bitmap->name, "out of memory");
    }
    all->count++;
}

void bitmaps_find(struct model *model)
{
    struct image *image = model->image;
    struct bitmap_directory *directory;
    struct error error = {0};

    if (!model->options.bitmaps.value || model->bitmaps != NULL) {
        return;
    }
    model->bitmaps = calloc(1, sizeof(*model->bitmaps));
    if (model->bitmaps == NULL ||
        bitmap_directory_read(image->file, image->header, image->path, &directory, &error) < 0) {
        fail(model, "", error.text);
    }
    for (size_t i = 0; i < directory->count; i++) {
        add(model, &directory->bitmaps[i]);
    }
    model->bitmaps->first_count = model->bitmaps->count;
    bitmap_directory_free(directory);
}

void bitmaps_destroy(struct kept_bitmaps *all)
{
    for (size_t i = 0; all != NULL && i < all->count; i++) {
        free(all->list[i].name);
        free(all->list[i].bits);
    }
    free(all);
}

/* --- What changes them -------------------------------------------------------------------------
 */

void bitmaps_mark(struct model *model, uint64_t from, uint64_t to)
{
    struct kept_bitmaps *all = model->bitmaps;

    for (size_t i = 0; all != NULL && from < to && i < all->count; i++) {
        if (all->list[i].enabled) {
            set_bits(&all->list[i], from, to);
        }
    }
}

/* What is behind the end of the disk is forgotten; within the last sector it is zeros from now on.
 */
static void shrink(struct model *model, struct kept_bitmap *bitmap, uint64_t size)
{
    uint64_t rounded = div_round_up(size, SECTOR) * SECTOR;
    uint64_t bits = bits_for(bitmap, rounded);

    for (uint64_t bit = bits; bit < bits_for(bitmap, model->capacity); bit++) {
        atomic_store(&bitmap->bits[bit], false);
    }
    if (bitmap->enabled && size < rounded) {
        set_bits(bitmap, size, rounded);
    }
}

void bitmaps_resize(struct model *model, uint64_t size)
{
    struct kept_bitmaps *all = model->bitmaps;

    for (size_t i = 0; all != NULL && i < all->count; i++) {
        if (size < model->size) {
            shrink(model, &all->list[i], size);
        } else if (size > model->size) {
            set_bits(&all->list[i], model->size, size);
        }
    }
}

static int clear(struct model *model, struct kept_bitmap *bitmap, struct error *error)
{
    for (uint64_t bit = 0; bit < bits_for(bitmap, model->capacity); bit++) {
        atomic_store(&bitmap->bits[bit], false);
    }
    return writer_bitmap_clear(model->writer, bitmap->name, error);
}

static int switch_it(struct model *model, struct kept_bitmap *bitmap, struct error *error)
{
    bitmap->enabled = !bitmap->enabled;
    return writer_bitmap_enable(model->writer, bitmap->name, bitmap->enabled, error);
}

static int merge(struct model *model, struct kept_bitmap *bitmap, const struct kept_bitmap *from,
                 struct error *error)
{
    uint64_t size = model->image->header->virtual_size;

    for (uint64_t bit = 0; bit < bits_for(from, size); bit++) {
        if (atomic_load(&from->bits[bit])) {
            set_bits(bitmap, bit * from->granularity, min_u64((bit + 1) * from->granularity, size));
        }
    }
    return writer_bitmap_merge(model->writer, bitmap->name, model->image, from->name, error);
}

static int remove_one(struct model *model, struct kept_bitmap *bitmap, struct error *error)
{
    struct kept_bitmaps *all = model->bitmaps;
    int result = writer_bitmap_remove(model->writer, bitmap->name, error);

    free(bitmap->name);
    free(bitmap->bits);
    *bitmap = all->list[--all->count];
    return result;
}

static void set_changes(struct kept_bitmap *bitmap, const struct model_changes *changes,
                        uint64_t granularity, uint64_t size)
{
    for (size_t i = 0; i < changes->count; i++) {
        const struct model_range *range = &changes->list[i];

        set_bits(bitmap, round_down(range->from, granularity),
                 min_u64(size, div_round_up(range->to, granularity) * granularity));
    }
}

/* A bitmap of the other image comes here as a whole, or what it has into one that is here. */
static int take_from_other(struct model *model, struct kept_bitmap *into, uint64_t chance,
                           struct error *error)
{
    struct kept_bitmaps *all = model->bitmaps;
    uint64_t size = model->image->header->virtual_size;
    char name[32];
    struct bitmap made = {
        .name = name,
        .granularity = UINT64_C(512) << chance % GRANULARITIES,
        .flags = chance / 32 % 4 != 0 ? BITMAP_FLAG_AUTO : 0,
    };
    struct model_changes changes;
    struct image *other;
    int result;

    snprintf(name, sizeof(name), "copied-%u", ++all->copied);
    other = other_open(model, name, made.granularity, made.flags != 0, chance, &changes);
    if (into == NULL) {
        result = writer_bitmap_copy(model->writer, name, other, error);
        add(model, &made);
        into = &all->list[all->count - 1];
    } else {
        result = writer_bitmap_merge(model->writer, into->name, other, name, error);
    }
    set_changes(into, &changes, made.granularity, size);
    other_close(model, other, name);
    return result;
}

/* Where there is no room one of those that were copied goes. */
static int copy(struct model *model, uint64_t chance, struct error *error)
{
    struct kept_bitmaps *all = model->bitmaps;
    int result = 0;

    if (all->count == MODEL_BITMAPS_MAX) {
        size_t ours = all->count - all->first_count;

        result = remove_one(model, &all->list[all->first_count + chance % ours], error);
    }
    return result < 0 ? result : take_from_other(model, NULL, chance, error);
}

void bitmaps_change(struct model *model, uint64_t chance)
{
    struct kept_bitmaps *all = model->bitmaps;
    struct error error = {0};
    struct kept_bitmap *bitmap, *other;
    int result;

    if (all == NULL || all->count < 2) {
        return;
    }
    bitmap = &all->list[chance % all->count];
    other = &all->list[(chance + 1 + chance / 1000 % (all->count - 1)) % all->count];
    switch (chance / 100 % 6) {
    case 0:
        result = clear(model, bitmap, &error);
        break;
    case 1:
        result = switch_it(model, bitmap, &error);
        break;
    case 2:
        result = take_from_other(model, bitmap, chance / 1000, &error);
        break;
    case 3:
        result = merge(model, bitmap, other, &error);
        break;
    default:
        result = copy(model, chance / 1000, &error);
        break;
    }
    if (result < 0) {
        fail(model, "", error.text);
    }
}

/* --- What they must say ------------------------------------------------------------------------
 */

/* Each bit that a mount would show of it. */
static void check(const struct model *model, const struct kept_bitmap *bitmap)
{
    uint64_t room = MEMORY, size = model->size, begin = 0, end = 0;
    struct error error = {0};
    struct changed *changed;

    if (changed_copy(model->image, model->writer, bitmap->name, &room, &changed, &error) < 0) {
        fail(model, bitmap->name, error.text);
    }
    for (uint64_t bit = 0; bit < bits_for(bitmap, size); bit++) {
        uint64_t at = bit * bitmap->granularity;
        bool is_set = changed_next(changed, at, size, &begin, &end) && begin == at;

        if (is_set != atomic_load(&bitmap->bits[bit])) {
            char why[80];

            snprintf(why, sizeof(why), "the bit for %" PRIu64 " is %s", at,
                     is_set ? "set, and nothing explains it" : "not set");
            fail(model, bitmap->name, why);
        }
    }
    changed_free(changed, &room);
}

void bitmaps_check(const struct model *model)
{
    const struct kept_bitmaps *all = model->bitmaps;

    for (size_t i = 0; all != NULL && i < all->count; i++) {
        check(model, &all->list[i]);
    }
}

static void write_one(const struct kept_bitmap *bitmap, uint64_t size, FILE *out)
{
    uint64_t bits = bits_for(bitmap, size), bit = 0;

    fprintf(out, "%s %d", bitmap->name, bitmap->enabled);
    while (bit < bits) {
        uint64_t first = bit;

        while (bit < bits && atomic_load(&bitmap->bits[bit])) {
            bit++;
        }
        if (bit > first) {
            uint64_t from = first * bitmap->granularity;

            fprintf(out, " %" PRIu64 " %" PRIu64, from,
                    min_u64(size, bit * bitmap->granularity) - from);
        }
        bit += bit == first;
    }
    fputc('\n', out);
}

void bitmaps_write(const struct model *model, const char *path)
{
    FILE *out = fopen(path, "w");

    for (size_t i = 0; out != NULL && i < model->bitmaps->count; i++) {
        write_one(&model->bitmaps->list[i], model->size, out);
    }
    if (out == NULL || fclose(out) != 0) {
        fail(model, path, "cannot be written");
    }
}
