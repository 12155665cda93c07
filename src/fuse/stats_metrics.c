/* SPDX-License-Identifier: MIT */
/* How long requests take, and stats.prom. */
#include "config.h"

#include "fuse/stats.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#define NANOSECONDS 1e9 /* of a second */

uint64_t stats_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* The first bucket whose limit is not below that. */
static unsigned bucket_of(uint64_t nanoseconds)
{
    uint64_t above = nanoseconds == 0 ? 0 : (nanoseconds - 1) >> STATS_BUCKET_FIRST;
    unsigned bits = above == 0 ? 0 : 64 - (unsigned)__builtin_clzll(above);

    return bits < STATS_BUCKETS ? bits : STATS_BUCKETS - 1;
}

void stats_took(struct stats *stats, enum request_kind kind, uint64_t nanoseconds)
{
    int processor = sched_getcpu(); /* a moment later it may be another: that is no harm */
    struct stats_times *times =
        &stats->times[processor > 0 ? (unsigned)processor % STATS_TABLES : 0];

    stats_add(&times->buckets[kind][bucket_of(nanoseconds)], 1);
    stats_add(&times->nanoseconds[kind], nanoseconds);
}

static uint64_t load(const atomic_uint_fast64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void stats_summarise(const struct stats *stats, const struct image *image,
                     struct stats_summary *summary)
{
    struct cache_pool *const pools[] = {image->cache->l2, image->cache->refcount,
                                        image->cache->data};

    *summary = (struct stats_summary){
        .reads = load(&stats->requests[REQUEST_READ]),
        .writes = load(&stats->requests[REQUEST_WRITE]),
        .syncs = load(&stats->requests[REQUEST_FSYNC]),
        .bytes_read = load(&stats->bytes_read),
        .bytes_written = load(&stats->bytes_written),
        .errors = load(&stats->errors),
    };
    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        summary->requests += load(&stats->requests[kind]);
    }
    for (int i = 0; i < 3; i++) {
        struct cache_pool_stats pool;

        cache_pool_stats(pools[i], &pool);
        summary->cache_hits += pool.hits;
        summary->cache_misses += pool.misses;
    }
}

/* --- the text ------------------------------------------------------------------------------- */

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void plain(FILE *out, const char *name, const char *type, const char *help, uint64_t value)
{
    head(out, name, type, help);
    fprintf(out, "%s %" PRIu64 "\n", name, value);
}

static void write_times(const struct stats *stats, enum request_kind kind, FILE *out)
{
    const char *request = stats_request_name(kind);
    uint64_t count = 0, nanoseconds = 0;

    for (unsigned bucket = 0; bucket < STATS_BUCKETS; bucket++) {
        for (unsigned i = 0; i < STATS_TABLES; i++) {
            count += load(&stats->times[i].buckets[kind][bucket]);
        }
        fprintf(out, "qcow2fs_request_duration_seconds_bucket{request=\"%s\",le=\"", request);
        if (bucket < STATS_BUCKETS - 1) {
            double limit = (double)(UINT64_C(1) << (STATS_BUCKET_FIRST + bucket));

            fprintf(out, "%.11g\"} %" PRIu64 "\n", limit / NANOSECONDS, count);
        } else {
            fprintf(out, "+Inf\"} %" PRIu64 "\n", count);
        }
    }
    for (unsigned i = 0; i < STATS_TABLES; i++) {
        nanoseconds += load(&stats->times[i].nanoseconds[kind]);
    }
    fprintf(out, "qcow2fs_request_duration_seconds_sum{request=\"%s\"} %.9f\n", request,
            (double)nanoseconds / NANOSECONDS);
    fprintf(out, "qcow2fs_request_duration_seconds_count{request=\"%s\"} %" PRIu64 "\n", request,
            count);
}

static void write_requests(const struct stats *stats, FILE *out)
{
    head(out, "qcow2fs_requests_total", "counter", "Requests that were begun.");
    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        fprintf(out, "qcow2fs_requests_total{request=\"%s\"} %" PRIu64 "\n",
                stats_request_name((enum request_kind)kind), load(&stats->requests[kind]));
    }
    head(out, "qcow2fs_request_duration_seconds", "histogram",
         "How long a worker had a request, up to its answer or until another thread took it.");
    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        write_times(stats, (enum request_kind)kind, out);
    }
}

static void write_caches(const struct cache *cache, FILE *out)
{
    static const char *const names[] = {"l2", "refcount", "data"};
    struct cache_pool *const pools[] = {cache->l2, cache->refcount, cache->data};
    struct cache_pool_stats stats[3];
    static const struct {
        const char *name, *type, *help;
    } kinds[] = {
        {"qcow2fs_cache_hits_total", "counter", "Lookups that found their entry."},
        {"qcow2fs_cache_misses_total", "counter", "Lookups that did not."},
        {"qcow2fs_cache_evictions_total", "counter", "Entries dropped for others."},
        {"qcow2fs_cache_writebacks_total", "counter", "Entries written to the image."},
        {"qcow2fs_cache_bytes", "gauge", "Bytes in the cache."},
        {"qcow2fs_cache_entries", "gauge", "Entries in the cache."},
        {"qcow2fs_cache_budget_bytes", "gauge", "Bytes that it may have."},
    };

    for (int i = 0; i < 3; i++) {
        cache_pool_stats(pools[i], &stats[i]);
    }
    for (size_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
        head(out, kinds[kind].name, kinds[kind].type, kinds[kind].help);
        for (int i = 0; i < 3; i++) {
            const uint64_t values[] = {
                stats[i].hits,  stats[i].misses,  stats[i].evictions, stats[i].writebacks,
                stats[i].bytes, stats[i].entries, stats[i].budget,
            };

            fprintf(out, "%s{cache=\"%s\"} %" PRIu64 "\n", kinds[kind].name, names[i],
                    values[kind]);
        }
    }
}

static void write_overlay(const struct image *image, FILE *out)
{
    uint64_t occupied;

    if (image_allocated(image, &occupied) == 0) {
        plain(out, "qcow2fs_overlay_occupied_bytes", "gauge",
              "Bytes that the file of the overlay occupies on the host.", occupied);
    }
    if (image->overlay_max > 0) {
        plain(out, "qcow2fs_overlay_max_bytes", "gauge", "How long that file may become.",
              image->overlay_max);
    }
}

char *stats_metrics(const struct stats *stats, const struct image *image)
{
    uint64_t started =
        (uint64_t)stats->started.tv_sec * 1000000000 + (uint64_t)stats->started.tv_nsec;
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    bool failed;

    if (out == NULL) {
        return NULL;
    }
    head(out, "qcow2fs_uptime_seconds", "gauge", "For how long this daemon has served.");
    fprintf(out, "qcow2fs_uptime_seconds %.3f\n", (double)(stats_clock() - started) / NANOSECONDS);
    plain(out, "qcow2fs_read_bytes_total", "counter", "Bytes that were given to the kernel.",
          load(&stats->bytes_read));
    plain(out, "qcow2fs_written_bytes_total", "counter", "Bytes that came from the kernel.",
          load(&stats->bytes_written));
    plain(out, "qcow2fs_errors_total", "counter", "Requests that failed by no fault of who asked.",
          load(&stats->errors));
    write_requests(stats, out);
    write_caches(image->cache, out);
    if (image->is_overlay) {
        write_overlay(image, out);
    }
    failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}
