/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/changed.h"

#include "disk/tracking_internal.h"
#include "disk/writer_internal.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct changed {
    uint64_t granularity;
    uint64_t known; /* bits; those behind them count as set */
    uint64_t taken; /* bytes of memory */
    struct bits *bits;
};

/* --- Copying --------------------------------------------------------------------------------- */

static struct tracked *find_in(const struct group *group, const char *name)
{
    for (size_t i = 0; i < group->count; i++) {
        if (strcmp(group->tracked[i].bitmap->name, name) == 0) {
            return &group->tracked[i];
        }
    }
    return NULL;
}

/* Whose bits are in memory, and not as they are on the disk; or NULL. */
static struct tracked *find_tracked(const struct writer *writer, const char *name)
{
    const struct tracking *tracking = writer != NULL ? writer->tracking : NULL;
    struct tracked *found = tracking != NULL ? find_in(&tracking->recording, name) : NULL;

    if (found == NULL && tracking != NULL) {
        found = find_in(&tracking->others, name);
    }
    return found;
}

/* There are bits for a disk of the size that it has now. 0 or -ENOMEM. */
static int make_bits(struct changed *changed, const struct tracked *tracked, uint64_t disk_size,
                     _Atomic int64_t *memory)
{
    changed->granularity = tracked->bitmap->granularity;
    changed->known = bits_for(tracked, disk_size);
    changed->bits = bits_create(memory, div_round_up(changed->known, WORD_BITS));
    return changed->bits == NULL ? -ENOMEM : 0;
}

static int copy_tracked(struct changed *changed, struct tracked *tracked, uint64_t disk_size,
                        _Atomic int64_t *memory)
{
    int result =
        atomic_load(&tracked->lost) ? -ENOMEM : make_bits(changed, tracked, disk_size, memory);

    for (uint64_t i = 0; result == 0 && i < changed->bits->words; i++) {
        if (!tracked_may_have(tracked, i)) {
            i = bits_next_page(i) - 1;
        } else if (!bits_add_word(changed->bits, memory, i, word_of(tracked, i))) {
            result = -ENOMEM;
        }
    }
    return result;
}

static int copy_stored(struct changed *changed, const struct image *image, const char *name,
                       uint64_t disk_size, _Atomic int64_t *memory, struct error *error)
{
    struct tracked stored = {0};
    struct bitmap_directory *directory;
    int result = bitmap_directory_read(image->file, image->header, image->path, &directory, error);

    if (result < 0) {
        return result;
    }
    stored.bitmap = bitmap_find(directory, name);
    if (stored.bitmap == NULL) {
        result = error_set(error, ENOENT, "%s: has no bitmap '%s'", image->path, name);
    } else {
        stored.granularity_bits = (unsigned)__builtin_ctzll(stored.bitmap->granularity);
        result = bitmap_table_read(image->file, image->header, image->path, stored.bitmap, false,
                                   &stored.table, error);
    }
    if (result == 0) {
        result = make_bits(changed, &stored, disk_size, memory);
    }
    if (result == 0) {
        result = bits_load(image, &stored, changed->bits, memory);
    }
    free(stored.table);
    bitmap_directory_free(directory);
    return result;
}

static int copy(struct changed *changed, const struct image *image, struct writer *writer,
                const char *name, uint64_t *room, struct error *error)
{
    struct tracked *tracked = find_tracked(writer, name);
    uint64_t disk_size = image->header->virtual_size;
    _Atomic int64_t memory = (int64_t)min_u64(*room, INT64_MAX);
    int result = tracked != NULL ? copy_tracked(changed, tracked, disk_size, &memory)
                                 : copy_stored(changed, image, name, disk_size, &memory, error);

    changed->taken = changed->bits != NULL ? bits_taken(changed->bits) : 0;
    *room -= changed->taken;
    return result;
}

uint64_t changed_memory(void)
{
    return tracking_memory(0);
}

int changed_copy(const struct image *image, struct writer *writer, const char *name, uint64_t *room,
                 struct changed **changed, struct error *error)
{
    struct changed *made = calloc(1, sizeof(*made));
    int result = made == NULL ? -ENOMEM : 0;

    error->text[0] = '\0';
    if (result == 0 && writer != NULL) {
        pthread_mutex_lock(&writer->resize_mutex);  /* as many bits as the disk has */
        pthread_mutex_lock(&writer->prepare_mutex); /* they are loaded, or not */
    }
    if (result == 0) {
        result = copy(made, image, writer, name, room, error);
    }
    if (made != NULL && writer != NULL) {
        pthread_mutex_unlock(&writer->prepare_mutex);
        pthread_mutex_unlock(&writer->resize_mutex);
    }
    if (result == 0) {
        *changed = made;
        return 0;
    }
    changed_free(made, room);
    if (error->text[0] == '\0') {
        error_set(error, -result, "%s: bitmap '%s' cannot be looked at: %s", image->path, name,
                  strerror(-result));
    }
    return result == -ENOENT || result == -ENOMEM ? result : -EIO;
}

void changed_free(struct changed *changed, uint64_t *room)
{
    if (changed != NULL) {
        *room += changed->taken;
        bits_free(changed->bits);
        free(changed);
    }
}

/* --- Looking --------------------------------------------------------------------------------- */

uint64_t changed_granularity(const struct changed *changed)
{
    return changed->granularity;
}

/* The first bit that is set, or is not, at or behind `bit`: the number of known ones at most. */
static uint64_t find_bit(const struct changed *changed, uint64_t bit, bool is_set)
{
    uint64_t mask = UINT64_MAX << bit % WORD_BITS;

    for (uint64_t i = bit / WORD_BITS; i < changed->bits->words; i++) {
        uint64_t word;

        if (is_set && !bits_may_have(changed->bits, i)) {
            i = bits_next_page(i) - 1;
            mask = UINT64_MAX;
            continue;
        }
        word = atomic_load_explicit(&changed->bits->word[i], memory_order_relaxed);
        word = (is_set ? word : ~word) & mask;
        if (word != 0) {
            return min_u64(i * WORD_BITS + (uint64_t)__builtin_ctzll(word), changed->known);
        }
        mask = UINT64_MAX;
    }
    return changed->known;
}

bool changed_next(const struct changed *changed, uint64_t from, uint64_t size, uint64_t *begin,
                  uint64_t *end)
{
    uint64_t bit = from / changed->granularity, first = bit, last;

    if (from >= size) {
        return false;
    }
    if (bit < changed->known) {
        first = find_bit(changed, bit, true);
    }
    /* At most one granularity past the end of a disk: no overflow. */
    *begin = max_u64(from, first * changed->granularity);
    if (*begin >= size) {
        return false;
    }
    last = first < changed->known ? find_bit(changed, first, false) : changed->known;
    *end = last < changed->known ? min_u64(last * changed->granularity, size) : size;
    return true;
}
