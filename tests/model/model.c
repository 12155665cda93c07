/* SPDX-License-Identifier: MIT */
/*
 * The model test: random operations on an image, against a plain buffer.
 *
 *     model IMAGE EXPECTED seed=N,operations=N,threads=N,...
 *
 * IMAGE exists; EXPECTED is a raw file with what its disk shows, which is
 * changed along. When it ends with status 0 the image is closed; whoever calls
 * compares it with EXPECTED, and has it checked. With `bitmaps`, EXPECTED.bitmaps has what they
 * must say, and some are copied from the image EXPECTED.other. One thread repeats the same
 * operations for the same seed; of more, each does, but not in the same order.
 */
#include "config.h"

#include "model.h"

#include "disk/keys.h"
#include "store/nbd.h"
#include "store/read_cache.h"
#include "util/checked.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CAPACITY 2 /* the disk grows to at most so many times its first size */
#define INTERVAL 1 /* second between write-backs of metadata */

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "model: %s\n", what);
    exit(1);
}

static _Noreturn void die_of_host(const char *what)
{
    perror(what);
    exit(1);
}

/* --- The image ------------------------------------------------------------------------------- */

static void log_sink(void *context, enum log_level level, const char *line)
{
    (void)context;
    (void)level;
    fprintf(stderr, "%s\n", line);
}

static void open_image(struct model *model)
{
    const struct model_options *given = &model->options;
    const struct read_cache_options read_cache = {
        .path = given->read_cache,
        .size = given->read_cache_size.value,
        .is_kept = true,
    };
    struct image_options options = {
        .access = STORE_WRITE,
        .no_locks = store_nbd_is_address(model->path), /* NBD has none */
        .read_cache = given->read_cache != NULL ? &read_cache : NULL,
    };
    const struct cache_options cache = {
        .l2_size = given->l2_cache_size,
        .l2_entry_size = given->l2_cache_entry_size,
        .refcount_size = given->refcount_cache_size,
    };
    const struct writer_options writer = {
        .lazy_refcounts = given->lazy_refcounts,
        .discard = given->discard.value,
        .compress = given->compress.value ? "" : NULL,
        .growable = given->resize.value,
        .interval = INTERVAL,
    };
    struct error error = {0};

    if (keys_open(given->key_files, 0, &options.keys, &error) < 0 ||
        image_open(model->path, &options, &model->log, &model->image, &error) < 0 ||
        image_attach_cache(model->image, &cache, &error) < 0 ||
        writer_open(model->image, &writer, &model->writer, &error) < 0) {
        die(error.text);
    }
    keys_close(options.keys);
    if (writer_start(model->writer) < 0 || view_open_active(model->image, &model->view) < 0) {
        die("the image cannot be used");
    }
}

static void close_image(struct model *model)
{
    int result;

    view_close(model->view);
    result = writer_close(model->writer);
    image_close(model->image);
    if (result < 0) {
        die("the image could not be closed");
    }
}

/* --- The buffer --------------------------------------------------------------------------------
 */

/* Maps EXPECTED, with room for a disk that grows; its descriptor. */
static int open_expected(struct model *model, const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0) {
        die_of_host(path);
    }
    if (status.st_size == 0) {
        die("EXPECTED is empty");
    }
    model->size = (uint64_t)status.st_size;
    model->capacity = round_down(model->size * CAPACITY, SECTOR);
    if (ftruncate(fd, (off_t)model->capacity) < 0) {
        die_of_host(path);
    }
    model->expected = mmap(NULL, model->capacity, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (model->expected == MAP_FAILED) {
        die_of_host(path);
    }
    return fd;
}

static void close_expected(struct model *model, int fd)
{
    munmap(model->expected, model->capacity);
    if (ftruncate(fd, (off_t)model->size) < 0 || close(fd) < 0) {
        die_of_host("EXPECTED");
    }
}

static char *beside(const char *expected, const char *suffix)
{
    char *path;

    if (asprintf(&path, "%s.%s", expected, suffix) < 0) {
        die("out of memory");
    }
    return path;
}

static void write_bitmaps(const struct model *model, const char *expected)
{
    char *path = beside(expected, "bitmaps");

    bitmaps_write(model, path);
    free(path);
}

/* --- Rounds ------------------------------------------------------------------------------------
 */

static void *run_worker(void *context)
{
    worker_run(context);
    return NULL;
}

static void run_workers(struct model *model, uint64_t round)
{
    struct worker workers[MODEL_THREADS_MAX];
    unsigned i, threads = (unsigned)model->options.threads.value;

    for (i = 0; i < threads; i++) {
        workers[i] = worker_create(model, i, round);
        if (pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]) != 0) {
            die("no thread can be created");
        }
    }
    for (i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
    }
}

static void run_round(struct model *model, uint64_t round)
{
    struct worker alone = worker_create(model, MODEL_THREADS_MAX, round);

    open_image(model);
    bitmaps_find(model);
    worker_check_all(&alone);
    bitmaps_check(model);
    run_workers(model, round);
    snapshots_check(model);
    bitmaps_check(model);
    worker_change_bitmaps(&alone);
    /* Version 2 does not say how large a disk was, so that none may have another size. */
    if (round + 1 == model->options.rounds.value ||
        (model->options.resize.value && model->image->header->version < 3)) {
        snapshots_drop_all(model);
    }
    if (model->options.resize.value) {
        worker_resize(&alone);
    }
    worker_check_all(&alone);
    snapshots_check(model);
    bitmaps_check(model);
    close_image(model);
    if (model->options.resize.value) { /* the header's size is of whole sectors */
        model->size = div_round_up(model->size, SECTOR) * SECTOR;
    }
}

/* --- Options -----------------------------------------------------------------------------------
 */

#define NUMBER(text, member, least, most)                                                   \
    {                                                                                       \
        .name = text, .type = OPTION_SIZE, .field = offsetof(struct model_options, member), \
        .min = least, .max = most                                                           \
    }
#define SWITCH(text, member)                                                               \
    {                                                                                      \
        .name = text, .type = OPTION_BOOL, .field = offsetof(struct model_options, member) \
    }

static const struct option_spec table[] = {
    NUMBER("seed", seed, 0, UINT32_MAX),
    NUMBER("operations", operations, 1, UINT32_MAX),
    NUMBER("threads", threads, 1, MODEL_THREADS_MAX),
    NUMBER("rounds", rounds, 1, UINT32_MAX),
    NUMBER("l2-cache-size", l2_cache_size, 1, INT64_MAX),
    NUMBER("l2-cache-entry-size", l2_cache_entry_size, 1, INT64_MAX),
    NUMBER("refcount-cache-size", refcount_cache_size, 1, INT64_MAX),
    {
        .name = "read-cache",
        .type = OPTION_STRING,
        .field = offsetof(struct model_options, read_cache),
    },
    NUMBER("read-cache-size", read_cache_size, READ_CACHE_SIZE_MIN, INT64_MAX),
    SWITCH("lazy-refcounts", lazy_refcounts),
    SWITCH("discard", discard),
    SWITCH("compress", compress),
    SWITCH("resize", resize),
    SWITCH("snapshots", snapshots),
    SWITCH("bitmaps", bitmaps),
    {
        .name = "key-file",
        .type = OPTION_SEVERAL,
        .field = offsetof(struct model_options, key_files),
    },
    {.name = NULL},
};

static void set_default(struct option_number *option, uint64_t value)
{
    if (!option->set) {
        option->value = value;
    }
}

static void parse_options(struct model *model, const char *list)
{
    struct error error = {0};

    if (options_parse(table, &model->options, list, &error) < 0) {
        die(error.text);
    }
    set_default(&model->options.seed, 1);
    set_default(&model->options.operations, 100);
    set_default(&model->options.threads, 1);
    set_default(&model->options.rounds, 3);
    set_default(&model->options.read_cache_size, READ_CACHE_SIZE_DEFAULT);
}

int main(int argc, char **argv)
{
    struct model model = {0};
    uint64_t round;
    int expected;

    if (argc != 4) {
        fprintf(stderr, "Usage: model IMAGE EXPECTED OPTION=VALUE,...\n");
        return 2;
    }
    model.path = argv[1];
    model.other = beside(argv[2], "other");
    parse_options(&model, argv[3]);
    log_init(&model.log, log_sink, NULL);
    expected = open_expected(&model, argv[2]);
    model.snapshots = snapshots_create();
    if (model.snapshots == NULL) {
        die("out of memory");
    }
    for (round = 0; round < model.options.rounds.value; round++) {
        run_round(&model, round);
    }
    if (model.bitmaps != NULL) {
        write_bitmaps(&model, argv[2]);
    }
    close_expected(&model, expected);
    snapshots_destroy(model.snapshots);
    bitmaps_destroy(model.bitmaps);
    free(model.other);
    log_release(&model.log);
    options_release(table, &model.options);
    return 0;
}
