/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "memory_store.h"

#include "util/checked.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define GARBAGE 0xA5

struct range {
    uint64_t offset;
    uint64_t length;
};

struct memory_store {
    struct store store;
    pthread_mutex_t mutex;  /* guards all below; nothing else is taken under it */
    pthread_cond_t changed; /* what blocks, or who waits for it */
    uint8_t *data;
    uint64_t size;
    uint64_t mapped; /* bytes behind data, >= size; zeros from size on */
    bool sparse;

    unsigned calls[MEMORY_STORE_CALLS];
    struct {
        unsigned countdown; /* the call that takes it to 0 fails; 0: none will */
        unsigned times;     /* and so do as many after it, less one */
        int error;
    } failures[MEMORY_STORE_CALLS];
    bool lands; /* writes that fail */
    struct range failing;
    int failing_error;
    struct range blocked;
    unsigned blocking;      /* counts changes of that */
    unsigned blocked_reads; /* that wait since the last one */
    uint64_t tear;          /* 0: no read is torn */
    bool torn;              /* one waits in its midst */
    enum {
        HOLD_NONE,
        HOLD_NEXT,
        HOLD_ONE
    } hold; /* of writes */
    unsigned waiting;
    bool syncs_blocked;
    unsigned waiting_syncs;
    bool fills, fills_blocked;
    unsigned waiting_fills;
    bool punches_blocked;
    unsigned waiting_punches;
    struct memory_log *log; /* NULL: nothing is noted */
};

static struct memory_store *to_memory(struct store *store)
{
    return (struct memory_store *)((char *)store - offsetof(struct memory_store, store));
}

static struct memory_store *lock_memory(struct store *store)
{
    struct memory_store *memory = to_memory(store);

    pthread_mutex_lock(&memory->mutex);
    return memory;
}

static int unlock_memory(struct memory_store *memory, int rc)
{
    pthread_mutex_unlock(&memory->mutex);
    return rc;
}

/* Counts the call; 0, or the negative errno that it was told to return. */
static int count_call(struct memory_store *memory, enum memory_store_call call)
{
    memory->calls[call]++;
    if (memory->failures[call].countdown == 0 || --memory->failures[call].countdown > 0) {
        return 0;
    }
    if (--memory->failures[call].times > 0) {
        memory->failures[call].countdown = 1;
    }
    return -memory->failures[call].error;
}

static bool touches(struct range range, uint64_t offset, uint64_t length)
{
    return ranges_overlap(range.offset, range.length, offset, length);
}

static _Noreturn void out_of_memory(void)
{
    perror("memory store");
    abort();
}

static void set_size(struct memory_store *memory, uint64_t size)
{
    if (size < memory->size) {
        memset(memory->data + size, 0, memory->size - size);
    }
    if (size > memory->mapped) {
        void *data = mremap(memory->data, memory->mapped, size, MREMAP_MAYMOVE);

        if (data == MAP_FAILED) {
            out_of_memory();
        }
        memory->data = data;
        memory->mapped = size;
    }
    memory->size = size;
}

static void wait_while_blocked(struct memory_store *memory, uint64_t offset, size_t length)
{
    while (touches(memory->blocked, offset, length)) {
        unsigned blocking = memory->blocking;

        memory->waiting++;
        memory->blocked_reads++;
        pthread_cond_broadcast(&memory->changed);
        while (memory->blocking == blocking) {
            pthread_cond_wait(&memory->changed, &memory->mutex);
        }
    }
}

/* Where a read waits in its midst: the bytes before that are in the buffer then. */
static void wait_while_torn(struct memory_store *memory, uint64_t offset, void *buffer,
                            size_t length)
{
    if (offset >= memory->tear || memory->tear - offset >= length) {
        return;
    }
    memcpy(buffer, memory->data + offset, memory->tear - offset);
    memory->tear = 0;
    memory->torn = true;
    memory->waiting++;
    pthread_cond_broadcast(&memory->changed);
    while (memory->torn) {
        pthread_cond_wait(&memory->changed, &memory->mutex);
    }
    memory->waiting--;
}

static void wait_while_held(struct memory_store *memory)
{
    if (memory->hold != HOLD_NEXT) {
        return;
    }
    memory->hold = HOLD_ONE;
    memory->waiting++;
    pthread_cond_broadcast(&memory->changed);
    while (memory->hold == HOLD_ONE) {
        pthread_cond_wait(&memory->changed, &memory->mutex);
    }
    memory->waiting--;
}

static void wait_while_syncs_are_blocked(struct memory_store *memory)
{
    if (!memory->syncs_blocked) {
        return;
    }
    memory->waiting_syncs++;
    pthread_cond_broadcast(&memory->changed);
    while (memory->syncs_blocked) {
        pthread_cond_wait(&memory->changed, &memory->mutex);
    }
    memory->waiting_syncs--;
}

static void note(struct memory_store *memory, enum memory_log_kind kind, uint64_t offset,
                 uint64_t length, const void *data)
{
    if (memory->log != NULL) {
        memory_log_add(memory->log, &(struct memory_log_entry){.kind = kind,
                                                               .store = &memory->store,
                                                               .offset = offset,
                                                               .length = length,
                                                               .data = (void *)(uintptr_t)data});
    }
}

static int memory_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    struct memory_store *memory = lock_memory(store);
    int rc = count_call(memory, MEMORY_STORE_READ);
    size_t inside = 0;

    wait_while_blocked(memory, offset, length);
    if (rc == 0 && touches(memory->failing, offset, length)) {
        rc = -memory->failing_error;
    }
    if (rc != 0) {
        memset(buffer, GARBAGE, length);
        return unlock_memory(memory, rc);
    }
    if (offset < memory->size) {
        uint64_t tear = memory->tear;

        inside = (size_t)min_u64(length, memory->size - offset);
        wait_while_torn(memory, offset, buffer, inside);
        tear = memory->tear != tear ? tear - offset : 0;
        memcpy((uint8_t *)buffer + tear, memory->data + offset + tear, inside - tear);
    }
    if (inside < length) {
        memset((uint8_t *)buffer + inside, 0, length - inside);
    }
    return unlock_memory(memory, 0);
}

static int memory_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    struct memory_store *memory = lock_memory(store);
    int rc = count_call(memory, MEMORY_STORE_WRITE);
    bool fits = range_within(offset, length, INT64_MAX);

    wait_while_held(memory);
    if (rc == 0 && !fits) {
        rc = -EFBIG;
    }
    if ((rc == 0 || (memory->lands && fits)) && length > 0) {
        if (offset + length > memory->size) {
            set_size(memory, offset + length);
        }
        memcpy(memory->data + offset, buffer, length);
        note(memory, MEMORY_LOG_WRITE, offset, length, buffer);
    }
    return unlock_memory(memory, rc);
}

static int memory_sync(struct store *store)
{
    struct memory_store *memory = lock_memory(store);
    int rc;

    wait_while_syncs_are_blocked(memory);
    rc = count_call(memory, MEMORY_STORE_SYNC);
    if (rc == 0) {
        note(memory, MEMORY_LOG_SYNC, 0, 0, NULL);
    }
    return unlock_memory(memory, rc);
}

static int memory_punch(struct store *store, uint64_t offset, uint64_t length)
{
    struct memory_store *memory = lock_memory(store);
    int rc = count_call(memory, MEMORY_STORE_PUNCH);

    memory->waiting_punches++;
    pthread_cond_broadcast(&memory->changed);
    while (memory->punches_blocked) {
        pthread_cond_wait(&memory->changed, &memory->mutex);
    }
    memory->waiting_punches--;
    if (rc == 0 && offset < memory->size) {
        memset(memory->data + offset, 0, min_u64(length, memory->size - offset));
    }
    if (rc == 0) {
        note(memory, MEMORY_LOG_PUNCH, offset, length, NULL);
    }
    return unlock_memory(memory, rc);
}

static int memory_fill(struct store *store, uint64_t offset, uint64_t length)
{
    struct memory_store *memory = lock_memory(store);
    int rc = memory->fills ? count_call(memory, MEMORY_STORE_FILL) : -EOPNOTSUPP;

    memory->waiting_fills++;
    pthread_cond_broadcast(&memory->changed);
    while (memory->fills_blocked) {
        pthread_cond_wait(&memory->changed, &memory->mutex);
    }
    memory->waiting_fills--;
    if (rc == 0 && !range_within(offset, length, memory->size)) {
        rc = -EFBIG;
    }
    if (rc == 0) {
        memset(memory->data + offset, 0, length);
        note(memory, MEMORY_LOG_WRITE, offset, length, memory->data + offset);
    }
    return unlock_memory(memory, rc);
}

static int memory_resize(struct store *store, uint64_t size)
{
    struct memory_store *memory = lock_memory(store);
    int rc = count_call(memory, MEMORY_STORE_RESIZE);

    if (rc == 0 && size > INT64_MAX) {
        rc = -EFBIG;
    }
    if (rc == 0) {
        set_size(memory, size);
        note(memory, MEMORY_LOG_RESIZE, size, 0, NULL);
    }
    return unlock_memory(memory, rc);
}

static int memory_info(struct store *store, struct store_info *info)
{
    struct memory_store *memory = lock_memory(store);

    *info = (struct store_info){
        .size = memory->size,
        .allocated = memory->size,
        .inode = (ino_t)(uintptr_t)memory, /* no two stores are the same file */
        .mode = S_IFREG | S_IRUSR | S_IWUSR,
    };
    return unlock_memory(memory, 0);
}

/* Whether the block around `offset` holds a byte that is not zero; *end is where it ends. */
static bool block_is_data(const struct memory_store *memory, uint64_t offset, uint64_t *end)
{
    *end = min_u64(round_down(offset, MEMORY_STORE_BLOCK) + MEMORY_STORE_BLOCK, memory->size);
    for (uint64_t at = round_down(offset, MEMORY_STORE_BLOCK); at < *end; at++) {
        if (memory->data[at] != 0) {
            return true;
        }
    }
    return !memory->sparse;
}

static int memory_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                         uint64_t *length)
{
    struct memory_store *memory = lock_memory(store);
    int rc = count_call(memory, MEMORY_STORE_EXTENT);
    uint64_t end, next;

    if (rc != 0) {
        return unlock_memory(memory, rc);
    }
    if (offset >= memory->size) {
        *is_data = false;
        *length = limit;
        return unlock_memory(memory, 0);
    }
    *is_data = block_is_data(memory, offset, &end);
    while (memory->sparse && end < memory->size && end - offset < limit &&
           block_is_data(memory, end, &next) == *is_data) {
        end = next;
    }
    /* What is past the end goes on as a hole. */
    if (!memory->sparse) {
        end = memory->size;
    } else if (!*is_data && end == memory->size) {
        end = UINT64_MAX;
    }
    *length = min_u64(limit, end - offset);
    return unlock_memory(memory, 0);
}

static void memory_close(struct store *store)
{
    struct memory_store *memory = to_memory(store);

    munmap(memory->data, memory->mapped);
    pthread_cond_destroy(&memory->changed);
    pthread_mutex_destroy(&memory->mutex);
    free(memory);
}

static const struct store_ops memory_ops = {
    .read = memory_read,
    .write = memory_write,
    .sync = memory_sync,
    .punch = memory_punch,
    .resize = memory_resize,
    .fill = memory_fill,
    .info = memory_info,
    .extent = memory_extent,
    .close = memory_close,
};

struct store *memory_store_create(uint64_t size)
{
    struct memory_store *memory = calloc(1, sizeof(*memory));

    if (memory == NULL) {
        out_of_memory();
    }
    memory->store.ops = &memory_ops;
    pthread_mutex_init(&memory->mutex, NULL);
    pthread_cond_init(&memory->changed, NULL);
    memory->size = size;
    memory->mapped = max_u64(size, 1); /* a mapping cannot be empty */
    memory->data = mmap(NULL, memory->mapped, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory->data == MAP_FAILED) {
        out_of_memory();
    }
    return &memory->store;
}

struct store *memory_store_from(const void *bytes, size_t size)
{
    struct store *store = memory_store_create(size);

    if (size > 0) {
        memcpy(memory_store_data(store), bytes, size);
    }
    return store;
}

uint8_t *memory_store_data(struct store *store)
{
    struct memory_store *memory = lock_memory(store);
    uint8_t *data = memory->data;

    pthread_mutex_unlock(&memory->mutex);
    return data;
}

uint64_t memory_store_size(struct store *store)
{
    struct memory_store *memory = lock_memory(store);
    uint64_t size = memory->size;

    pthread_mutex_unlock(&memory->mutex);
    return size;
}

unsigned memory_store_calls(struct store *store, enum memory_store_call call)
{
    struct memory_store *memory = lock_memory(store);
    unsigned calls = memory->calls[call];

    pthread_mutex_unlock(&memory->mutex);
    return calls;
}

void memory_store_fail_times(struct store *store, enum memory_store_call call, unsigned n,
                             unsigned times, int error)
{
    struct memory_store *memory = lock_memory(store);

    memory->failures[call].countdown = n;
    memory->failures[call].times = times;
    memory->failures[call].error = error;
    pthread_mutex_unlock(&memory->mutex);
}

void memory_store_fail(struct store *store, enum memory_store_call call, unsigned n, int error)
{
    memory_store_fail_times(store, call, n, 1, error);
}

void memory_store_fail_from(struct store *store, enum memory_store_call call, unsigned n, int error)
{
    memory_store_fail_times(store, call, n, UINT_MAX, error);
}

void memory_store_set_lands(struct store *store, bool lands)
{
    struct memory_store *memory = lock_memory(store);

    memory->lands = lands;
    unlock_memory(memory, 0);
}

void memory_store_fail_reads(struct store *store, uint64_t offset, uint64_t length, int error)
{
    struct memory_store *memory = lock_memory(store);

    memory->failing = (struct range){offset, length};
    memory->failing_error = error;
    pthread_mutex_unlock(&memory->mutex);
}

/* One of the fields says whether calls of a kind wait, or how they are done. */
static void set_flag(struct store *store, bool *field, bool value)
{
    struct memory_store *memory = lock_memory(store);

    *field = value;
    pthread_cond_broadcast(&memory->changed);
    pthread_mutex_unlock(&memory->mutex);
}

/* And one counts those that wait. */
static void wait_waiting(struct store *store, const unsigned *field, unsigned count)
{
    struct memory_store *memory = lock_memory(store);

    while (*field < count) {
        pthread_cond_wait(&memory->changed, &memory->mutex);
    }
    pthread_mutex_unlock(&memory->mutex);
}

void memory_store_block_reads(struct store *store, uint64_t offset, uint64_t length)
{
    struct memory_store *memory = lock_memory(store);

    memory->blocked = (struct range){offset, length};
    memory->waiting -= memory->blocked_reads; /* who still has to, waits anew */
    memory->blocked_reads = 0;
    memory->blocking++;
    pthread_cond_broadcast(&memory->changed);
    pthread_mutex_unlock(&memory->mutex);
}

void memory_store_wait_blocked(struct store *store, unsigned count)
{
    wait_waiting(store, &to_memory(store)->waiting, count);
}

void memory_store_release_reads(struct store *store)
{
    struct memory_store *memory = lock_memory(store);

    memory->torn = false;
    unlock_memory(memory, 0);
    memory_store_block_reads(store, 0, 0); /* and wakes all */
}

void memory_store_tear_read(struct store *store, uint64_t offset)
{
    struct memory_store *memory = lock_memory(store);

    memory->tear = offset;
    unlock_memory(memory, 0);
}

static void set_hold(struct store *store, int hold)
{
    struct memory_store *memory = lock_memory(store);

    memory->hold = hold;
    pthread_cond_broadcast(&memory->changed);
    pthread_mutex_unlock(&memory->mutex);
}

void memory_store_hold_write(struct store *store)
{
    set_hold(store, HOLD_NEXT);
}

void memory_store_release_write(struct store *store)
{
    set_hold(store, HOLD_NONE);
}

void memory_store_block_syncs(struct store *store)
{
    set_flag(store, &to_memory(store)->syncs_blocked, true);
}

void memory_store_wait_syncs(struct store *store, unsigned count)
{
    wait_waiting(store, &to_memory(store)->waiting_syncs, count);
}

void memory_store_release_syncs(struct store *store)
{
    set_flag(store, &to_memory(store)->syncs_blocked, false);
}

void memory_store_set_fills(struct store *store, bool fills)
{
    set_flag(store, &to_memory(store)->fills, fills);
}

void memory_store_block_fills(struct store *store)
{
    set_flag(store, &to_memory(store)->fills_blocked, true);
}

void memory_store_wait_fill(struct store *store)
{
    wait_waiting(store, &to_memory(store)->waiting_fills, 1);
}

void memory_store_release_fills(struct store *store)
{
    set_flag(store, &to_memory(store)->fills_blocked, false);
}

void memory_store_block_punches(struct store *store)
{
    set_flag(store, &to_memory(store)->punches_blocked, true);
}

void memory_store_wait_punch(struct store *store)
{
    wait_waiting(store, &to_memory(store)->waiting_punches, 1);
}

void memory_store_release_punches(struct store *store)
{
    set_flag(store, &to_memory(store)->punches_blocked, false);
}

void memory_store_set_log(struct store *store, struct memory_log *log)
{
    struct memory_store *memory = lock_memory(store);

    memory->log = log;
    pthread_mutex_unlock(&memory->mutex);
}

void memory_store_set_sparse(struct store *store, bool sparse)
{
    set_flag(store, &to_memory(store)->sparse, sparse);
}
