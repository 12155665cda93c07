/* SPDX-License-Identifier: MIT */
/*
 * Chains of images whose stores are in memory, with a cache and a log, and no
 * file anywhere. What image_open() adds to this, test-image proves with files.
 */
#ifndef UNIT_ASSEMBLE_H
#define UNIT_ASSEMBLE_H

#include "builder.h"
#include "disk/image.h"
#include "util/log.h"

/* Collects log lines, each ending in a newline. Its memory is zeroed first. */
struct log_lines {
    struct log log;
    char text[65536];
};

void log_lines_init(struct log_lines *lines);

/*
 * The image in this store, which belongs to it from then on. `number`: its
 * place in the chain, 0 for the active image.
 */
struct image *assemble_image(struct store *file, enum image_format format, uint64_t number,
                             struct log *log);

/* The same from a builder, which is destroyed. */
struct image *assemble_built(struct builder *builder, uint64_t number, struct log *log);

/* Puts `backing` behind the last image of the chain. */
void assemble_behind(struct image *image, struct image *backing);

/* Gives the chain its cache: all of it can be read then. `l2_entry_size`: 0 for the default. */
void assemble_cache(struct image *image, uint64_t l2_entry_size);

#endif
