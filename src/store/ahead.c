/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/ahead.h"

#include "store/through.h"
#include "util/checked.h"
#include "util/helpers.h"

#include <limits.h>
#include <stdlib.h>

#define READINGS         4
#define BLOCKS_AHEAD_MAX (AHEAD_BLOCKS - 4) /* the rest is being taken */
#define WINDOW_MIN       (2 * AHEAD_BLOCK)
#define MATCHES_MIN      2   /* reads that went on where others had ended, before it is a reading */
#define FORGOTTEN_AFTER  256 /* reads elsewhere: a reading that is over keeps no blocks */

/* Bytes by which requests of one reading may overtake each other: long ones, and short ones. */
#define LONG_READ   (UINT64_C(64) << 10)
#define SLACK_LONG  (UINT64_C(2) << 20)
#define SLACK_SHORT (UINT64_C(128) << 10)

enum block_state {
    BLOCK_UNUSED,
    BLOCK_WANTED, /* nobody has begun to read it */
    BLOCK_READING,
    BLOCK_READY,
    BLOCK_FAILED, /* or written to while it was read */
};

struct block {
    enum block_state state;
    bool stale;              /* of one that is read: it is written to meanwhile */
    bool lost;               /* likewise: it could not be read; of the thread that reads it */
    unsigned users;          /* readers that wait for it, or copy from it */
    uint64_t offset, length; /* bytes */
    uint64_t taken;          /* bytes that readers have got of it */
    uint64_t order;          /* when it was wanted, as they are counted */
    uint8_t *bytes;          /* AHEAD_BLOCK of them, or NULL */
    pthread_cond_t ended;    /* it is no longer read */
};

struct reading {
    uint64_t begin;   /* where it began */
    uint64_t next;    /* where its next read is expected; 0: an unused place */
    uint64_t wanted;  /* blocks are wanted up to here */
    unsigned matches; /* reads that went on where others had ended */
    uint64_t used;    /* when, as the clock counts */
};

struct ahead_store {
    struct through through;
    uint64_t size; /* bytes, when it was opened: no block ends behind that */

    struct helpers helpers; /* its mutex guards all that follows */
    bool threads_allowed;
    uint64_t clock;  /* counts reads */
    uint64_t orders; /* counts blocks that were wanted */
    struct reading readings[READINGS];
    struct block blocks[AHEAD_BLOCKS];
};

static struct ahead_store *to_ahead(struct store *store)
{
    return (struct ahead_store *)store;
}

/* --- Blocks; the mutex is held ---------------------------------------------------------------- */

static struct block *find_block(struct ahead_store *ahead, uint64_t offset)
{
    for (unsigned i = 0; i < AHEAD_BLOCKS; i++) {
        struct block *block = &ahead->blocks[i];

        if (block->state != BLOCK_UNUSED && offset >= block->offset &&
            offset - block->offset < block->length) {
            return block;
        }
    }
    return NULL;
}

/* Whether a reader may wait for it, and copy from it. */
static bool is_of_use(const struct block *block)
{
    return block->state == BLOCK_READY || (block->state == BLOCK_READING && !block->stale);
}

static bool is_active(const struct ahead_store *ahead, const struct reading *reading)
{
    return reading->next != 0 && reading->matches >= MATCHES_MIN &&
           ahead->clock - reading->used < FORGOTTEN_AFTER;
}

/* Whether a reading will come to it, or may just have left it behind. */
static bool is_expected(const struct ahead_store *ahead, const struct block *block)
{
    for (unsigned i = 0; i < READINGS; i++) {
        const struct reading *reading = &ahead->readings[i];

        if (is_active(ahead, reading) && block->offset < reading->wanted &&
            block->offset + block->length + SLACK_LONG > reading->next) {
            return true;
        }
    }
    return false;
}

/* One that nobody has any use for, or NULL. */
static struct block *free_block(struct ahead_store *ahead)
{
    struct block *oldest = NULL;

    for (unsigned i = 0; i < AHEAD_BLOCKS; i++) {
        struct block *block = &ahead->blocks[i];

        if (block->users > 0 || block->state == BLOCK_READING) {
            continue;
        }
        if (block->state == BLOCK_UNUSED || block->state == BLOCK_FAILED ||
            (block->state == BLOCK_READY && block->taken >= block->length)) {
            return block;
        }
        if (!is_expected(ahead, block) && (oldest == NULL || block->order < oldest->order)) {
            oldest = block;
        }
    }
    return oldest;
}

/* False: there is no room for it now. *count: those that are wanted now, and were not. */
static bool want(struct ahead_store *ahead, uint64_t offset, unsigned *count)
{
    struct block *block = find_block(ahead, offset);

    if (block != NULL && block->state != BLOCK_FAILED) {
        return true;
    }
    block = block != NULL && block->users == 0 ? block : free_block(ahead);
    if (block == NULL) {
        return false;
    }
    block->state = BLOCK_WANTED;
    block->stale = false;
    block->offset = offset;
    block->length = min_u64(AHEAD_BLOCK, ahead->size - offset);
    block->taken = 0;
    block->order = ++ahead->orders;
    (*count)++;
    return true;
}

/* --- The threads ------------------------------------------------------------------------------ */

static struct block *first_wanted(struct ahead_store *ahead)
{
    struct block *first = NULL;

    for (unsigned i = 0; i < AHEAD_BLOCKS; i++) {
        struct block *block = &ahead->blocks[i];

        if (block->state == BLOCK_WANTED && (first == NULL || block->order < first->order)) {
            first = block;
        }
    }
    return first;
}

static bool take_wanted(void *context, struct helpers_part *part)
{
    struct block *block = first_wanted(context);

    if (block != NULL) {
        block->state = BLOCK_READING;
        part->what = block;
    }
    return block != NULL;
}

static void read_block(void *context, const struct helpers_part *part)
{
    const struct ahead_store *ahead = context;
    struct block *block = part->what;

    if (block->bytes == NULL) {
        block->bytes = malloc(AHEAD_BLOCK);
    }
    block->lost = block->bytes == NULL || store_read(ahead->through.inner, block->offset,
                                                     block->bytes, in_memory(block->length)) < 0;
}

static void has_read(void *context, const struct helpers_part *part)
{
    struct block *block = part->what;

    (void)context;
    block->state = block->lost || block->stale ? BLOCK_FAILED : BLOCK_READY;
    pthread_cond_broadcast(&block->ended);
}

static void give_back_memory(void *context)
{
    struct ahead_store *ahead = context;

    for (unsigned i = 0; i < AHEAD_BLOCKS; i++) {
        struct block *block = &ahead->blocks[i];

        if (block->users == 0) {
            free(block->bytes);
            block->bytes = NULL;
            block->state = BLOCK_UNUSED;
        }
    }
}

/* --- The readings; the mutex is held -----------------------------------------------------------
 */

static struct reading *find_reading(struct ahead_store *ahead, uint64_t offset, uint64_t length)
{
    uint64_t slack = length >= LONG_READ ? SLACK_LONG : SLACK_SHORT;
    struct reading *found = NULL;

    for (unsigned i = 0; i < READINGS; i++) {
        struct reading *reading = &ahead->readings[i];

        if (reading->next != 0 && offset <= reading->next + slack &&
            offset + slack >= reading->next && (found == NULL || reading->next == offset)) {
            found = reading;
        }
    }
    return found;
}

/* In the place of the one that was idle for longest. */
static void begin_reading(struct ahead_store *ahead, uint64_t offset, uint64_t length)
{
    struct reading *oldest = &ahead->readings[0];

    for (unsigned i = 1; i < READINGS; i++) {
        if (ahead->readings[i].used < oldest->used) {
            oldest = &ahead->readings[i];
        }
    }
    *oldest = (struct reading){.begin = offset, .next = offset + length, .used = ++ahead->clock};
}

/* As far as it has come already; all active ones share the blocks. */
static uint64_t window_of(const struct ahead_store *ahead, const struct reading *reading)
{
    uint64_t active = 0;

    for (unsigned i = 0; i < READINGS; i++) {
        active += is_active(ahead, &ahead->readings[i]);
    }
    return min_u64(max_u64(reading->next - reading->begin, WINDOW_MIN),
                   BLOCKS_AHEAD_MAX / max_u64(active, 1) * AHEAD_BLOCK);
}

/* A read of these bytes begins: what is behind them may be wanted. */
static void follow(struct ahead_store *ahead, uint64_t offset, uint64_t length)
{
    struct reading *reading = find_reading(ahead, offset, length);
    unsigned count = 0;
    uint64_t limit;

    if (reading == NULL) {
        begin_reading(ahead, offset, length);
        return;
    }
    reading->used = ++ahead->clock;
    if (offset + length <= reading->next) {
        return;
    }
    reading->next = offset + length;
    reading->matches += reading->matches < MATCHES_MIN;
    if (!is_active(ahead, reading)) {
        return;
    }
    limit = min_u64(reading->next + window_of(ahead, reading), ahead->size);
    reading->wanted =
        max_u64(reading->wanted, div_round_up(reading->next, AHEAD_BLOCK) * AHEAD_BLOCK);
    while (reading->wanted < limit && want(ahead, reading->wanted, &count)) {
        reading->wanted += AHEAD_BLOCK;
    }
    helpers_wake(&ahead->helpers, count);
}

/* --- Reading ---------------------------------------------------------------------------------- */

/* Waits until it is read. False: it has to be read from the store. The mutex is held. */
static bool take(struct ahead_store *ahead, struct block *block, uint64_t offset, uint8_t *buffer,
                 size_t length)
{
    bool is_ready;

    block->users++;
    while (block->state == BLOCK_READING) {
        pthread_cond_wait(&block->ended, &ahead->helpers.mutex);
    }
    is_ready = block->state == BLOCK_READY;
    if (is_ready) {
        pthread_mutex_unlock(&ahead->helpers.mutex);
        memcpy(buffer, block->bytes + (offset - block->offset), length);
        pthread_mutex_lock(&ahead->helpers.mutex);
        block->taken += length;
    }
    block->users--;
    return is_ready;
}

/* Bytes up to the next block that is of use; those that are only wanted are this reader's. */
static uint64_t bytes_to_read(struct ahead_store *ahead, uint64_t offset, uint64_t length)
{
    for (unsigned i = 0; i < AHEAD_BLOCKS; i++) {
        struct block *block = &ahead->blocks[i];

        if (block->state == BLOCK_UNUSED || block->offset + block->length <= offset ||
            block->offset >= offset + length) {
            continue;
        }
        if (is_of_use(block)) {
            length = block->offset > offset ? block->offset - offset : length;
        } else if (block->state == BLOCK_WANTED) {
            block->state = BLOCK_UNUSED;
        }
    }
    return length;
}

static int read_through_blocks(struct ahead_store *ahead, uint64_t offset, uint8_t *buffer,
                               uint64_t length)
{
    int result = 0;

    while (length > 0 && result == 0) {
        struct block *block = find_block(ahead, offset);
        uint64_t part = length;

        if (block != NULL && is_of_use(block)) {
            part = min_u64(length, block->offset + block->length - offset);
        }
        if (block == NULL || !is_of_use(block) ||
            !take(ahead, block, offset, buffer, in_memory(part))) {
            part = bytes_to_read(ahead, offset, part);
            pthread_mutex_unlock(&ahead->helpers.mutex);
            result = store_read(ahead->through.inner, offset, buffer, in_memory(part));
            pthread_mutex_lock(&ahead->helpers.mutex);
        }
        offset += part;
        buffer += part;
        length -= part;
    }
    return result;
}

static int ahead_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    struct ahead_store *ahead = to_ahead(store);
    int result;

    pthread_mutex_lock(&ahead->helpers.mutex);
    if (!ahead->threads_allowed || length == 0 || offset >= ahead->size ||
        length > ahead->size - offset) {
        pthread_mutex_unlock(&ahead->helpers.mutex);
        return store_read(ahead->through.inner, offset, buffer, length);
    }
    follow(ahead, offset, length);
    result = read_through_blocks(ahead, offset, buffer, length);
    pthread_mutex_unlock(&ahead->helpers.mutex);
    return result;
}

/* --- What changes it -------------------------------------------------------------------------- */

/* The range was changed, and whoever did that is not told so yet. */
static void forget(struct ahead_store *ahead, uint64_t offset, uint64_t length)
{
    pthread_mutex_lock(&ahead->helpers.mutex);
    for (unsigned i = 0; i < AHEAD_BLOCKS; i++) {
        struct block *block = &ahead->blocks[i];

        if (block->offset + block->length <= offset ||
            (block->offset >= offset && block->offset - offset >= length)) {
            continue;
        }
        if (block->state == BLOCK_READING) {
            block->stale = true;
        } else if (block->state == BLOCK_READY) {
            block->state = BLOCK_FAILED; /* somebody may still copy from it */
        }
    }
    pthread_mutex_unlock(&ahead->helpers.mutex);
}

static int ahead_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    int result = store_write(through_inner(store), offset, buffer, length);

    forget(to_ahead(store), offset, length);
    return result;
}

static int ahead_punch(struct store *store, uint64_t offset, uint64_t length)
{
    int result = store_punch(through_inner(store), offset, length);

    forget(to_ahead(store), offset, length);
    return result;
}

static int ahead_resize(struct store *store, uint64_t size)
{
    int result = store_resize(through_inner(store), size);

    forget(to_ahead(store), size, UINT64_MAX);
    return result;
}

/* --- When no more processes are made ---------------------------------------------------------- */

static void ahead_may_start_threads(struct store *store)
{
    struct ahead_store *ahead = to_ahead(store);

    pthread_mutex_lock(&ahead->helpers.mutex);
    ahead->threads_allowed = true;
    pthread_mutex_unlock(&ahead->helpers.mutex);
}

/* --- From beginning to end -------------------------------------------------------------------- */

static void ahead_close(struct store *store)
{
    struct ahead_store *ahead = to_ahead(store);

    helpers_destroy(&ahead->helpers);
    for (unsigned i = 0; i < AHEAD_BLOCKS; i++) {
        free(ahead->blocks[i].bytes);
        pthread_cond_destroy(&ahead->blocks[i].ended);
    }
    store_close(ahead->through.inner);
    free(ahead);
}

static const struct store_ops ahead_ops = {
    .read = ahead_read,
    .write = ahead_write,
    .sync = through_sync,
    .punch = ahead_punch,
    .refuses_holes = through_refuses_holes,
    .resize = ahead_resize,
    .info = through_info,
    .extent = through_extent,
    .lost = through_lost,
    .may_start_threads = ahead_may_start_threads,
    .close = ahead_close,
};

int store_read_ahead(struct store *inner, struct store **store)
{
    static const struct helpers_owner owner = {
        .take = take_wanted, .run = read_block, .done = has_read, .rest = give_back_memory};
    struct ahead_store *ahead = calloc(1, sizeof(*ahead));
    struct store_info info;
    int result = ahead == NULL ? -ENOMEM : store_info(inner, &info);

    if (result < 0) {
        free(ahead);
        return result;
    }
    ahead->through.store.ops = &ahead_ops;
    ahead->through.inner = inner;
    ahead->size = info.size;
    helpers_init(&ahead->helpers, &owner, ahead, "read-ahead", UINT_MAX);
    for (unsigned i = 0; i < AHEAD_BLOCKS; i++) {
        pthread_cond_init(&ahead->blocks[i].ended, NULL);
    }
    *store = &ahead->through.store;
    return 0;
}
