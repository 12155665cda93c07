/* SPDX-License-Identifier: MIT */
/*
 * For tests/e2e/bad/test-fuzz-differential.py, which compares with QEMU:
 *
 *     dump files DIRECTORY           writes what images name: a backing file and a data file
 *     dump make SEED FILE            writes an image, changed as the seed says; prints its name
 *     dump read FILE OUT MOST [ID]   reads up to MOST bytes of the disk, or of a snapshot
 *
 * `read` prints "refused SENTENCE", or "size BYTES" and a line "bad OFFSET WHY" for each
 * sector that cannot be read, which is zeros in OUT. Exit status 0 in both cases.
 */
#include "config.h"

#include "bases.h"
#include "chance.h"
#include "disk/view.h"
#include "guard.h"
#include "mutate.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR       512
#define PIECE        (64 << 10)
#define IMAGE_MOST   (2 << 20)
#define CHANGES_MOST 4

static void write_file(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wbe");

    FUZZ_EXPECT(file != NULL && fwrite(bytes, 1, size, file) == size && fclose(file) == 0, "%s",
                path);
}

static void make_files(const char *directory)
{
    uint8_t backing[BASES_BACKING_SIZE], data[BASES_DATA_SIZE];
    char path[4096];

    bases_fill_backing(backing);
    snprintf(path, sizeof(path), "%s/%s", directory, BASES_BACKING_NAME);
    write_file(path, backing, sizeof(backing));
    bases_fill_data(data);
    snprintf(path, sizeof(path), "%s/%s", directory, BASES_DATA_NAME);
    write_file(path, data, sizeof(data));
}

static void make_image(uint64_t seed, const char *path)
{
    struct chance chance = {seed};
    struct mutable_image image = {.most = IMAGE_MOST};
    unsigned base = (unsigned)chance_below(&chance, bases_count());
    uint64_t changes = 1 + chance_below(&chance, CHANGES_MOST);

    image.bytes = bases_make(base, &image.size);
    for (; changes > 0; changes--) {
        uint8_t numbers[64];
        struct program program = program_of(numbers, sizeof(numbers));

        chance_fill(&chance, numbers, sizeof(numbers));
        mutate(&image, &program);
    }
    write_file(path, image.bytes, image.size);
    free(image.bytes);
    printf("%s\n", bases_name(base));
}

/* --- Reading -------------------------------------------------------------------------------------
 */

/* The last line of the log, which says why something cannot be read. */
struct last_line {
    char text[512];
};

static void keep_line(void *context, enum log_level level, const char *line)
{
    struct last_line *last = context;

    (void)level;
    snprintf(last->text, sizeof(last->text), "%s", line);
}

static int open_view(struct image *image, const char *snapshot, struct view **view,
                     struct error *error)
{
    if (snapshot == NULL) {
        return view_open_active(image, view);
    }
    for (size_t i = 0; i < image->snapshots->count; i++) {
        if (strcmp(image->snapshots->snapshots[i].id, snapshot) == 0) {
            return view_open_snapshot(image, i, view, error);
        }
    }
    return error_set(error, ENOENT, "there is no snapshot %s", snapshot);
}

/* Reads piece by piece, and sector by sector where that fails. */
static void read_view(struct view *view, uint64_t most, struct log *log, struct last_line *last,
                      FILE *out)
{
    uint64_t size = min_u64(view_size(view), most);
    uint8_t *buffer = malloc(PIECE);

    FUZZ_EXPECT(buffer != NULL);
    printf("size %" PRIu64 "\n", view_size(view));
    for (uint64_t at = 0; at < size; at += PIECE) {
        size_t length = min_u64(PIECE, size - at);

        if (view_read(view, at, buffer, length) != 0) {
            for (size_t i = 0; i < length; i += SECTOR) {
                size_t part = min_u64(SECTOR, length - i);

                log->tokens = 1; /* every line is wanted */
                if (view_read(view, at + i, buffer + i, part) != 0) {
                    printf("bad %" PRIu64 " %s\n", at + i, last->text);
                    memset(buffer + i, 0, part);
                }
            }
        }
        FUZZ_EXPECT(fwrite(buffer, 1, length, out) == length);
    }
    free(buffer);
}

static void read_image(const char *path, const char *out_path, uint64_t most, const char *snapshot)
{
    const struct image_options options = {.access = STORE_READ};
    const struct cache_options cache = {
        .l2_entry_size = {.set = true, .value = CACHE_L2_ENTRY_MIN}};
    struct last_line last = {""};
    struct error error = {0};
    struct image *image = NULL;
    struct view *view = NULL;
    struct log log;
    FILE *out = fopen(out_path, "wbe");

    FUZZ_EXPECT(out != NULL);
    log_init(&log, keep_line, &last);
    if (image_open(path, &options, &log, &image, &error) == 0 &&
        image_attach_cache(image, &cache, &error) == 0 &&
        open_view(image, snapshot, &view, &error) == 0) {
        read_view(view, most, &log, &last, out);
    } else {
        printf("refused %s\n", error.text);
    }
    view_close(view);
    image_close(image);
    log_release(&log);
    fclose(out);
}

int main(int count, char **arguments)
{
    if (count == 3 && strcmp(arguments[1], "files") == 0) {
        make_files(arguments[2]);
    } else if (count == 4 && strcmp(arguments[1], "make") == 0) {
        make_image(strtoull(arguments[2], NULL, 10), arguments[3]);
    } else if ((count == 5 || count == 6) && strcmp(arguments[1], "read") == 0) {
        read_image(arguments[2], arguments[3], strtoull(arguments[4], NULL, 10),
                   count == 6 ? arguments[5] : NULL);
    } else {
        fprintf(stderr, "usage: dump files DIRECTORY | make SEED FILE | read FILE OUT MOST [ID]\n");
        return 2;
    }
    return EXIT_SUCCESS;
}
