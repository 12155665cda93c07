/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/stats.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

const char *stats_request_name(enum request_kind kind)
{
    static const char *const names[REQUEST_KINDS] = {
        [REQUEST_LOOKUP] = "lookup",   [REQUEST_GETATTR] = "getattr",
        [REQUEST_OPEN] = "open",       [REQUEST_READ] = "read",
        [REQUEST_WRITE] = "write",     [REQUEST_FALLOCATE] = "fallocate",
        [REQUEST_FLUSH] = "flush",     [REQUEST_FSYNC] = "fsync",
        [REQUEST_SETATTR] = "setattr", [REQUEST_LSEEK] = "lseek",
        [REQUEST_RELEASE] = "release", [REQUEST_OPENDIR] = "opendir",
        [REQUEST_READDIR] = "readdir", [REQUEST_STATFS] = "statfs",
        [REQUEST_MKDIR] = "mkdir",     [REQUEST_RMDIR] = "rmdir",
        [REQUEST_RENAME] = "rename",
    };

    return names[kind];
}

int stats_init(struct stats *stats)
{
    stats->times = mmap(NULL, STATS_TABLES * sizeof(*stats->times), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stats->times == MAP_FAILED) {
        stats->times = NULL;
        return -ENOMEM;
    }
    clock_gettime(CLOCK_MONOTONIC, &stats->started);
    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        atomic_init(&stats->requests[kind], 0);
    }
    atomic_init(&stats->bytes_read, 0);
    atomic_init(&stats->bytes_written, 0);
    atomic_init(&stats->errors, 0);
    return 0;
}

void stats_release(struct stats *stats)
{
    if (stats->times != NULL) {
        munmap(stats->times, STATS_TABLES * sizeof(*stats->times));
    }
}

#ifdef HAVE_JANSSON

#include <jansson.h>

bool stats_available(void)
{
    return true;
}

static json_int_t load(const atomic_uint_fast64_t *counter)
{
    return (json_int_t)atomic_load_explicit(counter, memory_order_relaxed);
}

static json_t *requests_json(const struct stats *stats)
{
    json_t *object = json_object();

    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        json_object_set_new(object, stats_request_name((enum request_kind)kind),
                            json_integer(load(&stats->requests[kind])));
    }
    return object;
}

static json_t *pool_json(struct cache_pool *pool)
{
    struct cache_pool_stats stats;

    cache_pool_stats(pool, &stats);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "hits", (json_int_t)stats.hits,
                     "misses", (json_int_t)stats.misses, "evictions", (json_int_t)stats.evictions,
                     "writebacks", (json_int_t)stats.writebacks, "bytes", (json_int_t)stats.bytes,
                     "entries", (json_int_t)stats.entries, "budget", (json_int_t)stats.budget);
}

/* jansson passes a NULL on from call to call: memory that ran out shows at the end. */
static json_t *cache_json(const struct cache *cache)
{
    return json_pack("{s:o, s:o, s:o}", "l2", pool_json(cache->l2), "refcount",
                     pool_json(cache->refcount), "data", pool_json(cache->data));
}

static json_int_t uptime(const struct stats *stats)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec - stats->started.tv_sec - (now.tv_nsec < stats->started.tv_nsec);
}

/* What the overlay's file occupies on the host, and how long it may become. */
static json_t *overlay_json(const struct image *image)
{
    json_t *object = json_object();
    uint64_t occupied;

    if (image_allocated(image, &occupied) == 0) {
        json_object_set_new(object, "occupied", json_integer((json_int_t)occupied));
    }
    if (image->overlay_max > 0) {
        json_object_set_new(object, "max", json_integer((json_int_t)image->overlay_max));
    }
    return object;
}

static json_t *sandbox_json(const struct box *box)
{
    return json_pack("{s:b, s:b, s:b, s:b, s:b, s:b}", "privileges", box->privileges, "memory",
                     box->memory, "system-calls", box->calls, "files", box->files, "network",
                     box->network, "landlock", box->landlock);
}

char *stats_json(const struct stats *stats, const struct image *image)
{
    json_t *root =
        json_pack("{s:I, s:o, s:I, s:I, s:I, s:o, s:o}", "uptime-seconds", uptime(stats),
                  "requests", requests_json(stats), "bytes-read", load(&stats->bytes_read),
                  "bytes-written", load(&stats->bytes_written), "errors", load(&stats->errors),
                  "cache", cache_json(image->cache), "sandbox", sandbox_json(&stats->box));
    char *text, *longer;
    size_t length;

    if (image->is_overlay) {
        json_object_set_new(root, "overlay", overlay_json(image));
    }
    text = root != NULL ? json_dumps(root, JSON_INDENT(4)) : NULL;
    length = text != NULL ? strlen(text) : 0;
    longer = text != NULL ? realloc(text, length + 2) : NULL;
    json_decref(root);
    if (longer == NULL) {
        free(text);
        return NULL;
    }
    memcpy(longer + length, "\n", 2);
    return longer;
}

#else

bool stats_available(void)
{
    return false;
}

char *stats_json(const struct stats *stats, const struct image *image)
{
    (void)stats;
    (void)image;
    return NULL;
}

#endif
