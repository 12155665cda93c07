/* SPDX-License-Identifier: MIT */
/*
 * Another image, whose bitmaps are copied to the one under test and merged there: it is beside
 * EXPECTED, and has other clusters. Its disk always gets the size that the other one has.
 */
#include "config.h"

#include "model.h"

#include "disk/bitmaps.h"
#include "util/checked.h"

#include <stdio.h>
#include <stdlib.h>

#define LENGTH UINT64_C(150000) /* bytes, at most, of each write */

static uint64_t next_number(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 16;
}

static void expect(int result, const char *what, const struct error *error)
{
    if (result < 0) {
        fprintf(stderr, "model: %s the other image: %s\n", what,
                error->text[0] != '\0' ? error->text : "it failed");
        exit(1);
    }
}

static struct image *open_it(const struct model *model, enum store_access access)
{
    const struct image_options options = {.access = access};
    const struct cache_options cache = {0};
    struct error error = {0};
    struct image *image;

    expect(image_open(model->other, &options, model->image->log, &image, &error), "opening",
           &error);
    expect(image_attach_cache(image, &cache, &error), "opening", &error);
    return image;
}

/* Enabled, it records what is written, and says what that was. */
static void write_some(struct writer *writer, uint64_t size, uint64_t *state,
                       struct model_changes *changes)
{
    static const uint8_t bytes[LENGTH];
    struct error error = {0};

    changes->count = next_number(state) % (MODEL_CHANGES_MAX + 1);
    for (size_t i = 0; i < changes->count; i++) {
        uint64_t from = next_number(state) % size;
        uint64_t to = min_u64(size, from + 1 + next_number(state) % LENGTH);

        changes->list[i] = (struct model_range){.from = from, .to = to};
        expect(writer_write(writer, from, bytes, to - from), "writing", &error);
    }
}

static void change_it(const struct model *model, struct image *image, const char *name,
                      uint64_t granularity, bool enabled, uint64_t chance,
                      struct model_changes *changes)
{
    uint64_t size = model->image->header->virtual_size;
    const struct writer_options options = {.interval = 0};
    struct error error = {0};
    struct writer *writer;

    expect(writer_open(image, &options, &writer, &error), "opening", &error);
    expect(writer_resize(writer, size, NULL), "resizing", &error);
    expect(writer_bitmap_add(writer, name, granularity, &error), "making a bitmap of", &error);
    write_some(writer, size, &chance, changes);
    if (!enabled) {
        expect(writer_bitmap_enable(writer, name, false, &error), "switching a bitmap of", &error);
    }
    expect(writer_close(writer), "closing", &error);
}

struct image *other_open(const struct model *model, const char *name, uint64_t granularity,
                         bool enabled, uint64_t chance, struct model_changes *changes)
{
    struct image *image = open_it(model, STORE_WRITE);

    change_it(model, image, name, granularity, enabled, chance, changes);
    image_close(image);
    return open_it(model, STORE_READ);
}

void other_close(const struct model *model, struct image *image, const char *name)
{
    const struct writer_options options = {.interval = 0};
    struct error error = {0};
    struct writer *writer;

    image_close(image);
    image = open_it(model, STORE_WRITE);
    expect(writer_open(image, &options, &writer, &error), "opening", &error);
    expect(writer_bitmap_remove(writer, name, &error), "removing a bitmap of", &error);
    expect(writer_close(writer), "closing", &error);
    image_close(image);
}
