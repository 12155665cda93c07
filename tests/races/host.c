/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "host.h"

#include "schedule.h"

#include "util/checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define ROOM  (UINT64_C(256) << 20) /* bytes: a host never becomes larger */
#define BLOCK UINT64_C(4096)        /* the host's own */

/* The real ones: the store is no part of what is looked at. */
int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);

enum change_kind {
    CHANGE_WRITE,
    CHANGE_PUNCH,
    CHANGE_RESIZE,
};

/* What is not stable yet. */
struct change {
    enum change_kind kind;
    uint64_t offset, length;
    uint8_t *bytes;
};

struct host {
    struct store store;
    pthread_mutex_t mutex; /* guards all below */
    uint8_t *bytes;        /* of ROOM bytes, zeros from `size` on */
    uint64_t size;
    uint8_t *stable; /* the same, after the last sync; NULL: nobody asks for it */
    uint64_t stable_size;
    uint64_t most;  /* bytes that it ever had */
    uint64_t fixed; /* 0, or the size that it has, whatever was written of it */
    struct change *changes;
    size_t count, capacity;
    uint64_t first;     /* the number of changes[0], counted from the beginning */
    uint8_t *allocated; /* for each block of ROOM, whether it has a place */
    struct trouble *trouble;
    struct chance chance;
    bool fills;
};

static struct host *host_of(struct store *store)
{
    return (struct host *)(void *)store;
}

static void lock(struct host *host)
{
    __real_pthread_mutex_lock(&host->mutex);
}

static void unlock(struct host *host)
{
    __real_pthread_mutex_unlock(&host->mutex);
}

/* --- What changes ----------------------------------------------------------------------------- */

static void set_size(uint8_t *bytes, uint64_t *now, uint64_t size)
{
    if (size < *now) {
        memset(bytes + size, 0, *now - size);
    }
    *now = size;
}

static void apply(const struct change *change, uint64_t from, uint64_t to, uint8_t *bytes,
                  uint64_t *size)
{
    switch (change->kind) {
    case CHANGE_WRITE:
        *size = max_u64(*size, to);
        memcpy(bytes + from, change->bytes + (from - change->offset), to - from);
        break;
    case CHANGE_PUNCH:
        to = min_u64(to, *size);
        if (from < to) {
            memset(bytes + from, 0, to - from);
        }
        break;
    case CHANGE_RESIZE:
        set_size(bytes, size, change->offset);
        break;
    }
}

static void apply_whole(const struct change *change, uint8_t *bytes, uint64_t *size)
{
    apply(change, change->offset, change->offset + change->length, bytes, size);
}

/* With the mutex held. */
static void make(struct host *host, enum change_kind kind, uint64_t offset, uint64_t length,
                 const uint8_t *bytes)
{
    struct change change = {
        .kind = kind,
        .offset = offset,
        .length = length,
        .bytes = (uint8_t *)(uintptr_t)bytes,
    };

    if (offset + length > ROOM) {
        die("a file becomes larger than %llu bytes", (unsigned long long)ROOM);
    }
    apply_whole(&change, host->bytes, &host->size);
    host->most = max_u64(host->most, host->size);
    if (host->stable == NULL) {
        return;
    }
    if (kind == CHANGE_WRITE) {
        change.bytes = malloc(length);
        if (change.bytes == NULL) {
            die("out of memory");
        }
        memcpy(change.bytes, bytes, length);
    }
    host->changes = room(host->changes, host->count, &host->capacity, sizeof(*host->changes));
    host->changes[host->count++] = change;
}

/* All changes before number `end` are stable. With the mutex held. */
static void make_stable(struct host *host, uint64_t end)
{
    size_t count = end > host->first ? (size_t)(end - host->first) : 0;

    for (size_t i = 0; i < count; i++) {
        apply_whole(&host->changes[i], host->stable, &host->stable_size);
        free(host->changes[i].bytes);
    }
    if (count > 0) {
        host->count -= count;
        host->first += count;
        memmove(host->changes, host->changes + count, host->count * sizeof(*host->changes));
    }
}

/* --- Trouble ---------------------------------------------------------------------------------- */

/* 0, or how a call fails. With the mutex held. */
static int fails(struct host *host)
{
    unsigned failing = host->trouble != NULL ? atomic_load(&host->trouble->failing) : 0;

    if (failing == 0 || chance_below(&host->chance, failing) != 0) {
        return 0;
    }
    atomic_fetch_add(&host->trouble->failed, 1);
    return -EIO;
}

/* Whether one that failed so is done all the same, and only its answer is lost. */
static bool lands(struct host *host, int result)
{
    return result == -EIO && chance_below(&host->chance, 2) == 0;
}

/* The same of a write: also by a quota, which what was there already may exceed, too. */
static int refuses(struct host *host)
{
    int result = fails(host);

    return result < 0 && atomic_load(&host->trouble->failed) % 3 == 0 ? -EDQUOT : result;
}

/* Gives the range a place on the host; -ENOSPC where it is full. With the mutex held. */
static int occupy(struct host *host, uint64_t offset, uint64_t length)
{
    uint64_t block, end = div_round_up(offset + length, BLOCK);

    for (block = offset / BLOCK; block < end; block++) {
        if (!host->allocated[block] && host->trouble != NULL && atomic_load(&host->trouble->full)) {
            atomic_fetch_add(&host->trouble->failed, 1);
            return -ENOSPC;
        }
        host->allocated[block] = 1;
    }
    return 0;
}

static void give_back(struct host *host, uint64_t offset, uint64_t end)
{
    uint64_t block;

    for (block = div_round_up(offset, BLOCK); block < end / BLOCK; block++) {
        host->allocated[block] = 0;
    }
}

/* --- The store ----------------------------------------------------------------------------- */

#define TORN UINT64_C(64) /* bytes */

/* Transfers are done in pieces of whole sectors of the file: how long the next one is. */
static size_t piece(struct host *host, uint64_t offset, size_t length)
{
    uint64_t most = chance_below(&host->chance, 3) == 0
                        ? (1 + chance_below(&host->chance, 8)) * HOST_SECTOR
                        : UINT64_C(64) << 10;

    return (size_t)min_u64(length, most - offset % HOST_SECTOR);
}

static size_t piece_read(struct host *host, uint64_t offset, size_t length)
{
    bool torn =
        host->trouble != NULL && host->trouble->tears && chance_below(&host->chance, 4) == 0;

    return torn ? (size_t)min_u64(length, (1 + chance_below(&host->chance, 8)) * TORN)
                : piece(host, offset, length);
}

static int host_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    struct host *host = host_of(store);
    uint8_t *to = buffer;
    int result;

    schedule_point();
    lock(host);
    result = fails(host);
    while (result == 0 && length > 0) {
        size_t part = piece_read(host, offset, length);

        if (offset + part <= ROOM) {
            memcpy(to, host->bytes + offset, part); /* zeros behind the end */
        } else {
            memset(to, 0, part);
        }
        offset += part;
        to += part;
        length -= part;
        unlock(host);
        schedule_point();
        lock(host);
    }
    unlock(host);
    return result;
}

static int host_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    struct host *host = host_of(store);
    const uint8_t *from = buffer;
    int result, failed = 0;

    if (!range_within(offset, length, INT64_MAX)) {
        return -EFBIG;
    }
    schedule_point();
    lock(host);
    result = refuses(host);
    if (lands(host, result)) {
        failed = result;
        result = 0;
    }
    if (host->fixed > 0 && !range_within(offset, length, host->fixed)) {
        result = -ENOSPC;
    }
    while (result == 0 && length > 0) {
        size_t part = piece(host, offset, length);

        result = occupy(host, offset, part);
        if (result < 0) {
            break;
        }
        make(host, CHANGE_WRITE, offset, part, from);
        offset += part;
        from += part;
        length -= part;
        unlock(host);
        schedule_point();
        lock(host);
        /* Another file may have taken the device meanwhile. */
    }
    unlock(host);
    return result < 0 ? result : failed;
}

static int host_sync(struct store *store)
{
    struct host *host = host_of(store);
    uint64_t end;
    int result = 0;

    schedule_point();
    lock(host);
    end = host->first + host->count;
    unlock(host);
    schedule_point();
    lock(host);
    if (host->trouble != NULL && atomic_load(&host->trouble->syncs_fail)) {
        atomic_fetch_add(&host->trouble->failed, 1);
        atomic_fetch_add(&host->trouble->failed_syncs, 1);
        result = -EIO;
    } else {
        make_stable(host, end);
    }
    unlock(host);
    schedule_point();
    return result;
}

static int host_punch(struct store *store, uint64_t offset, uint64_t length)
{
    struct host *host = host_of(store);
    int result;

    schedule_point();
    lock(host);
    result = fails(host);
    if ((result == 0 || lands(host, result)) && offset < host->size) {
        uint64_t end = min_u64(offset + length, div_round_up(host->size, BLOCK) * BLOCK);

        make(host, CHANGE_PUNCH, offset, min_u64(length, host->size - offset), NULL);
        give_back(host, offset, end);
    }
    unlock(host);
    schedule_point();
    return result;
}

static int host_resize(struct store *store, uint64_t size)
{
    struct host *host = host_of(store);
    int result;

    if (size > INT64_MAX) {
        return -EFBIG;
    }
    if (host->fixed > 0) {
        return -ENOTSUP;
    }
    schedule_point();
    lock(host);
    result = fails(host);
    if (result == 0 || lands(host, result)) {
        if (size < host->size) {
            give_back(host, size, div_round_up(host->size, BLOCK) * BLOCK);
        }
        make(host, CHANGE_RESIZE, size, 0, NULL);
    }
    unlock(host);
    schedule_point();
    return result;
}

static int host_allocate(struct store *store, uint64_t offset, uint64_t length)
{
    struct host *host = host_of(store);
    int result;

    schedule_point();
    lock(host);
    result = fails(host);
    if (result == 0) {
        result = occupy(host, offset, length);
    }
    unlock(host);
    schedule_point();
    return result;
}

static int host_fill(struct store *store, uint64_t offset, uint64_t length)
{
    struct host *host = host_of(store);
    int result;

    schedule_point();
    lock(host);
    result = host->fills ? fails(host) : -EOPNOTSUPP;
    if (result == 0 && !range_within(offset, length, host->size)) {
        result = -EFBIG;
    }
    if (result == 0) {
        result = occupy(host, offset, length);
    }
    if (result == 0) {
        make(host, CHANGE_PUNCH, offset, length, NULL); /* zeros */
    }
    unlock(host);
    schedule_point();
    return result;
}

static int host_info(struct store *store, struct store_info *info)
{
    struct host *host = host_of(store);

    lock(host);
    *info = (struct store_info){
        .size = host->fixed > 0 ? host->fixed : host->size,
        .inode = (ino_t)(uintptr_t)host,
        .mode = (host->fixed > 0 ? S_IFBLK : S_IFREG) | S_IRUSR | S_IWUSR,
        .preferred = host->fixed > 0 ? 512 : 0, /* so L2 slices are fetched ahead of readers */
    };
    for (uint64_t block = 0; block * BLOCK < host->size; block++) {
        info->allocated += host->allocated[block] * BLOCK;
    }
    unlock(host);
    return 0;
}

static int host_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                       uint64_t *length)
{
    struct host *host = host_of(store);
    uint64_t end;

    schedule_point();
    lock(host);
    *is_data = offset < host->size && host->allocated[offset / BLOCK];
    end = round_down(offset, BLOCK) + BLOCK;
    while (end < host->size && end - offset < limit &&
           (bool)host->allocated[end / BLOCK] == *is_data) {
        end += BLOCK;
    }
    if (end >= host->size) {
        end = *is_data ? host->size : UINT64_MAX;
    }
    *length = min_u64(limit, end - offset);
    unlock(host);
    schedule_point();
    return 0;
}

static void host_close(struct store *store)
{
    (void)store; /* whoever made it looks at it afterwards */
}

static const struct store_ops host_ops = {
    .read = host_read,
    .write = host_write,
    .sync = host_sync,
    .punch = host_punch,
    .resize = host_resize,
    .allocate = host_allocate,
    .fill = host_fill,
    .info = host_info,
    .extent = host_extent,
    .close = host_close,
};

/* --- Beginning and end --------------------------------------------------------------------- */

/* Pages that come and go with each run cost more than the run: they are kept, full of zeros. */
static struct {
    pthread_mutex_t mutex;
    uint8_t *rooms[32];
    size_t count;
} spare = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static uint8_t *take_room(void)
{
    void *bytes = NULL;

    __real_pthread_mutex_lock(&spare.mutex);
    if (spare.count > 0) {
        bytes = spare.rooms[--spare.count];
    }
    __real_pthread_mutex_unlock(&spare.mutex);
    if (bytes == NULL) {
        bytes = mmap(NULL, ROOM, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (bytes == MAP_FAILED) {
        die("out of memory");
    }
    return bytes;
}

static void release_room(uint8_t *bytes, uint64_t used)
{
    bool kept = false;

    if (bytes == NULL) {
        return;
    }
    memset(bytes, 0, used);
    __real_pthread_mutex_lock(&spare.mutex);
    if (spare.count < sizeof(spare.rooms) / sizeof(spare.rooms[0])) {
        spare.rooms[spare.count++] = bytes;
        kept = true;
    }
    __real_pthread_mutex_unlock(&spare.mutex);
    if (!kept) {
        munmap(bytes, ROOM);
    }
}

static struct host *create(const uint8_t *bytes, uint64_t size)
{
    struct host *host = grab(sizeof(*host));

    host->store.ops = &host_ops;
    pthread_mutex_init(&host->mutex, NULL);
    host->bytes = take_room();
    host->size = host->most = size;
    if (size > 0) {
        memcpy(host->bytes, bytes, size);
    }
    host->allocated = grab(ROOM / BLOCK);
    memset(host->allocated, 1, div_round_up(size, BLOCK));
    return host;
}

struct host *host_create(const uint8_t *bytes, uint64_t size, struct trouble *trouble, bool fills)
{
    struct host *host = create(bytes, size);

    host->stable = take_room();
    host->stable_size = size;
    if (size > 0) {
        memcpy(host->stable, bytes, size);
    }
    host->trouble = trouble;
    host->fills = fills;
    host->chance = chance_from(trouble != NULL ? trouble->seed : 1, 12, 0);
    return host;
}

void host_destroy(struct host *host)
{
    if (host == NULL) {
        return;
    }
    for (size_t i = 0; i < host->count; i++) {
        free(host->changes[i].bytes);
    }
    free(host->changes);
    free(host->allocated);
    release_room(host->bytes, host->most);
    release_room(host->stable, host->most);
    pthread_mutex_destroy(&host->mutex);
    free(host);
}

void host_fix_size(struct host *host, uint64_t size)
{
    host->fixed = max_u64(size, host->size);
}

struct store *host_store(struct host *host)
{
    return &host->store;
}

const uint8_t *host_bytes(const struct host *host)
{
    return host->bytes;
}

uint64_t host_size(const struct host *host)
{
    return host->fixed > 0 ? host->fixed : host->size;
}

/* --- Crashes ------------------------------------------------------------------------------- */

static void arrive_in_parts(const struct change *change, struct host *copy, struct chance *chance)
{
    uint64_t at = change->offset, end = change->offset + change->length;

    if (change->kind == CHANGE_RESIZE) {
        apply_whole(change, copy->bytes, &copy->size);
        return;
    }
    while (at < end) {
        uint64_t next = min_u64(end, round_down(at, HOST_SECTOR) + HOST_SECTOR);

        if (chance_below(chance, 2) == 0) {
            apply(change, at, next, copy->bytes, &copy->size);
        }
        at = next;
    }
}

static struct host *crash_one(const struct host *host, enum crash_kind kind, struct chance *chance)
{
    struct host *copy = create(host->stable, host->stable_size);
    size_t i, first = kind == CRASH_PREFIX ? chance_below(chance, host->count + 1) : host->count;

    for (i = 0; i < first; i++) {
        const struct change *change = &host->changes[i];

        if (kind == CRASH_SECTORS) {
            arrive_in_parts(change, copy, chance);
        } else if (kind == CRASH_ALL || kind == CRASH_PREFIX ||
                   (kind == CRASH_WRITES && chance_below(chance, 2) == 0)) {
            apply_whole(change, copy->bytes, &copy->size);
        }
    }
    copy->most = max_u64(host->most, copy->size);
    copy->fixed = host->fixed;
    return copy;
}

void hosts_crash(struct host *const *hosts, struct host **copies, size_t count,
                 struct chance *chance, atomic_uint_fast64_t *tick, uint64_t *moment)
{
    enum crash_kind kind = (enum crash_kind)chance_below(chance, CRASH_KINDS);
    size_t i;

    for (i = 0; i < count; i++) {
        lock(hosts[i]);
    }
    *moment = atomic_fetch_add(tick, 1);
    for (i = 0; i < count; i++) {
        copies[i] = crash_one(hosts[i], kind, chance);
    }
    for (i = count; i-- > 0;) {
        unlock(hosts[i]);
    }
}
