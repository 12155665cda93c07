/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "assemble.h"

#include "disk/chain.h"

#include <check.h>
#include <string.h>

static void collect(void *context, enum log_level level, const char *line)
{
    struct log_lines *lines = context;
    size_t used = strlen(lines->text);

    (void)level;
    ck_assert_uint_lt(used + strlen(line) + 2, sizeof(lines->text));
    strcpy(lines->text + used, line);
    strcat(lines->text, "\n");
}

void log_lines_init(struct log_lines *lines)
{
    memset(lines, 0, sizeof(*lines));
    log_init(&lines->log, collect, lines);
}

struct image *assemble_image(struct store *file, enum image_format format, uint64_t number,
                             struct log *log)
{
    const struct image_options options = {.access = STORE_READ};
    const struct image_request request = {
        .path = format == IMAGE_QCOW2 ? "memory.qcow2" : "memory.raw",
        .what = "image",
        .format = format,
        .number = number,
        .file = file,
    };
    struct error error = {0};
    struct image *image;
    int result = image_open_one(&request, &options, log, &image, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    return image;
}

struct image *assemble_built(struct builder *builder, uint64_t number, struct log *log)
{
    struct store *file = builder_store(builder);

    builder_destroy(builder);
    return assemble_image(file, IMAGE_QCOW2, number, log);
}

void assemble_behind(struct image *image, struct image *backing)
{
    while (image->backing != NULL) {
        image = image->backing;
    }
    image->backing = backing;
}

void assemble_cache(struct image *image, uint64_t l2_entry_size)
{
    struct cache_options options = {
        .l2_entry_size = {.set = l2_entry_size > 0, .value = l2_entry_size},
    };
    struct error error = {0};
    int result = image_attach_cache(image, &options, &error);

    ck_assert_msg(result == 0, "%s", error.text);
}
