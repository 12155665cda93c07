/* SPDX-License-Identifier: MIT */
/*
 * How fast the compression library alone is: what no reader of the image can
 * beat, through FUSE or not. For the rows zlib and zstd of tests/bench/run:
 *
 *     decompress IMAGE [THREADS]
 *
 * The threads (one for each processor) take the compressed clusters of the
 * active disk one after the other, read and decompress each of them once, and
 * keep nothing. Prints megabytes of decompressed data a second (10^6 bytes).
 * The time begins when all clusters have been found, and ends with the last thread.
 */
#include "config.h"

#include "disk/prefetch.h"
#include "disk/view.h"
#include "util/checked.h"
#include "util/process.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREADS_MAX  1024
#define CLUSTERS_MAX ((size_t)1 << 22) /* 256 GiB of 64 KiB clusters; some 100 MiB of memory */

struct cluster {
    const struct image *image;
    struct store *store;
    uint64_t host_offset;
    uint64_t compressed_size;
};

struct work {
    struct cluster *clusters;
    size_t count, capacity;
    atomic_size_t next; /* the first cluster that no thread has taken */
};

struct worker {
    struct work *work;
    pthread_t thread;
    uint8_t *output;              /* as large as the largest cluster */
    uint64_t bytes;               /* decompressed */
    int result;                   /* 0, or the negative errno of the cluster `failed` */
    const struct cluster *failed; /* at which this thread ended */
};

/* --- Finding the clusters -------------------------------------------------------------------- */

static int add_cluster(struct work *work, const struct view_extent *found, struct error *error)
{
    if (work->count == CLUSTERS_MAX) {
        return error_set(error, EFBIG,
                         "%s: has more than %zu compressed clusters; measure a smaller image",
                         found->image->path, CLUSTERS_MAX);
    }
    if (work->count == work->capacity) {
        size_t capacity = work->capacity == 0 ? 1024 : 2 * work->capacity;
        struct cluster *larger = realloc(work->clusters, capacity * sizeof(*larger));

        if (larger == NULL) {
            return error_set(error, ENOMEM, "no memory for a list of %zu clusters", capacity);
        }
        work->clusters = larger;
        work->capacity = capacity;
    }
    work->clusters[work->count++] = (struct cluster){
        .image = found->image,
        .store = found->extent.store,
        .host_offset = found->extent.host_offset,
        .compressed_size = found->extent.compressed_size,
    };
    return 0;
}

static int find_clusters(struct view *view, const char *path, struct work *work,
                         struct error *error)
{
    uint64_t size = view_size(view);
    struct view_extent found;

    for (uint64_t at = 0; at < size; at += found.extent.length) {
        struct mapping_fault fault;
        int result = view_lookup_exact(view, at, size - at, &found, &fault);

        if (result < 0) {
            return error_set(error, -result,
                             "%s: guest offset 0x%" PRIx64 " cannot be mapped: %s; qcow2ctl check "
                             "tells what else is damaged",
                             found.image->path, fault.guest_offset, fault.text);
        }
        if (found.extent.kind == EXTENT_COMPRESSED) {
            result = add_cluster(work, &found, error);
        }
        if (result < 0) {
            return result;
        }
    }
    if (work->count == 0) {
        return error_set(
            error, ENODATA,
            "%s: has no compressed cluster; qemu-img convert -c makes an image of them", path);
    }
    return 0;
}

/* --- Decompressing them ---------------------------------------------------------------------- */

/* codec_read_fn; `context` is the cluster. */
static int read_input(void *context, void *input, size_t size)
{
    const struct cluster *cluster = context;

    return store_read(cluster->store, cluster->host_offset, input, size);
}

static void *decompress(void *context)
{
    struct worker *worker = context;
    struct work *work = worker->work;
    size_t taken;

    while ((taken = atomic_fetch_add(&work->next, 1)) < work->count) {
        struct cluster *cluster = &work->clusters[taken];
        size_t size = cluster->image->header->cluster_size;

        worker->result = codec_decompress_read(cluster->image->codec, read_input, cluster,
                                               cluster->compressed_size, worker->output, size);
        if (worker->result < 0) {
            worker->failed = cluster;
            atomic_store(&work->next, work->count); /* the others need not go on */
            return NULL;
        }
        worker->bytes += size;
    }
    return NULL;
}

/* Ends the threads that run, too, when one cannot be started. */
static int run_workers(struct worker *workers, unsigned threads, struct error *error)
{
    struct work *work = workers[0].work;
    unsigned running;
    int result = 0;

    for (running = 0; running < threads && result == 0; running++) {
        result = pthread_create(&workers[running].thread, NULL, decompress, &workers[running]);
    }
    if (result != 0) {
        running--;
        atomic_store(&work->next, work->count);
    }
    for (unsigned i = 0; i < running; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    if (result != 0) {
        return error_set(error, result, "thread %u of %u cannot be started: %s", running + 1,
                         threads, strerror(result));
    }
    return 0;
}

static int check_results(const struct worker *workers, unsigned threads, uint64_t *bytes,
                         struct error *error)
{
    *bytes = 0;
    for (unsigned i = 0; i < threads; i++) {
        const struct cluster *failed = workers[i].failed;

        if (failed != NULL) {
            return error_set(error, -workers[i].result,
                             "%s: the compressed cluster at host offset 0x%" PRIx64 " (%" PRIu64
                             " bytes) cannot be read: %s",
                             failed->image->path, failed->host_offset, failed->compressed_size,
                             workers[i].result == -EBADMSG ? "its data is damaged"
                                                           : strerror(-workers[i].result));
        }
        *bytes += workers[i].bytes;
    }
    return 0;
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void free_workers(struct worker *workers, unsigned threads)
{
    for (unsigned i = 0; workers != NULL && i < threads; i++) {
        free(workers[i].output);
    }
    free(workers);
}

/* NULL when memory ran out. */
static struct worker *make_workers(struct work *work, unsigned threads)
{
    struct worker *workers = calloc(threads, sizeof(*workers));
    uint64_t largest = 0;

    for (size_t i = 0; i < work->count; i++) {
        largest = max_u64(largest, work->clusters[i].image->header->cluster_size);
    }
    for (unsigned i = 0; workers != NULL && i < threads; i++) {
        workers[i] = (struct worker){.work = work, .output = malloc(largest)};
        if (workers[i].output == NULL) {
            free_workers(workers, threads);
            return NULL;
        }
    }
    return workers;
}

/* Prints the speed of `threads` threads. */
static int measure(struct work *work, unsigned threads, struct error *error)
{
    struct worker *workers = make_workers(work, threads);
    uint64_t bytes = 0;
    double seconds;
    int result;

    if (workers == NULL) {
        return error_set(error, ENOMEM, "no memory for %u threads; try fewer", threads);
    }
    seconds = now();
    result = run_workers(workers, threads, error);
    seconds = now() - seconds;
    if (result == 0) {
        result = check_results(workers, threads, &bytes, error);
    }
    if (result == 0) {
        printf("%.1f\n", (double)bytes / 1e6 / seconds);
    }
    free_workers(workers, threads);
    return result;
}

static int measure_image(const char *path, unsigned threads, struct error *error)
{
    const struct image_options options = {.access = STORE_READ};
    const struct cache_options cache = {0};
    struct work work = {0};
    struct image *image = NULL;
    struct view *view = NULL;
    int result = image_open(path, &options, NULL, &image, error);

    if (result < 0) {
        return result;
    }
    result = image_attach_cache(image, &cache, error);
    if (result == 0) {
        result = view_open_active(image, &view);
        if (result < 0) {
            error_set(error, -result, "%s: cannot be read: %s", path, strerror(-result));
        }
    }
    if (result == 0) {
        result = find_clusters(view, path, &work, error);
    }
    if (result == 0) {
        result = measure(&work, threads, error);
    }
    free(work.clusters);
    view_close(view);
    image_close(image);
    return result;
}

/* False when it is no number of threads. */
static bool parse_threads(const char *text, unsigned *threads)
{
    char *end;
    unsigned long number = strtoul(text, &end, 10);

    if (strspn(text, "0123456789") == 0 || *end != '\0' || number < 1 || number > THREADS_MAX) {
        return false;
    }
    *threads = (unsigned)number;
    return true;
}

int main(int count, char **arguments)
{
    unsigned threads = process_processors();
    struct error error = {0};

    if (count < 2 || count > 3 || (count == 3 && !parse_threads(arguments[2], &threads))) {
        fprintf(stderr, "usage: decompress IMAGE [THREADS]; from 1 to %d threads\n", THREADS_MAX);
        return 2;
    }
    if (measure_image(arguments[1], threads, &error) < 0) {
        fprintf(stderr, "decompress: %s\n", error.text);
        return EXIT_FAILURE;
    }
    if (fflush(stdout) != 0) {
        fprintf(stderr, "decompress: the result cannot be written: %s\n", strerror(errno));
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
