/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "remote.h"

#include "store/ahead.h"
#include "store/read_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADS 8192 /* bytes of the file: what says that it is a cache, and a part of its map */

/* Number 0 is that of run->hosts, each other one that of a crash. */
static void path_of(const struct run *run, size_t number, char path[512])
{
    snprintf(path, 512, "%s.cache%zu", run->plan.template->path, number);
}

static size_t number_of(const struct run *run, const struct host *host)
{
    for (size_t i = 0; i < run->crash_count; i++) {
        if (run->crashes[i].hosts[0] == host) {
            return i + 1;
        }
    }
    return 0;
}

struct store *remote_store(const struct run *run, struct host *host, struct error *error)
{
    struct store *ahead, *store;
    char path[512];
    const struct read_cache_options options = {
        .path = path, .size = READ_CACHE_SIZE_MIN, .is_kept = true};

    path_of(run, number_of(run, host), path);
    if (store_read_ahead(host_store(host), &ahead) < 0) {
        die("out of memory");
    }
    if (store_read_cache(ahead, "server", &options, false, &store, error) < 0) {
        store_close(ahead);
        return NULL;
    }
    return store;
}

void remote_forget(const struct run *run)
{
    char path[512];

    for (size_t i = 0; i <= CRASHES_MAX; i++) {
        path_of(run, i, path);
        (void)unlink(path);
    }
}

void remote_crash(const struct run *run, size_t number)
{
    uint64_t size;
    uint8_t *bytes;
    char path[512];

    path_of(run, 0, path);
    bytes = read_file(path, &size);
    path_of(run, number + 1, path);
    write_file(path, bytes, size);
    free(bytes);
    if (chmod(path, 0600) != 0) {
        die("%s: cannot be made one's own", path);
    }
}

void remote_cut_off(const struct run *run, struct chance *chance)
{
    char path[512];

    path_of(run, 0, path);
    if (truncate(path, (off_t)(HEADS + chance_below(chance, READ_CACHE_SIZE_MIN))) != 0) {
        die("%s: cannot be cut off", path);
    }
}
