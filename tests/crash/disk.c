/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk.h"

#include "tools.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define CAPACITY (UINT64_C(256) << 20) /* of address space, not of memory */

struct undo {
    uint64_t offset, length; /* bytes that were saved */
    uint64_t size;           /* of the disk, before */
};

static struct disk *to_disk(struct store *store)
{
    return (struct disk *)((char *)store - offsetof(struct disk, store));
}

/* --- Changing it, with the mutex held ------------------------------------------------------ */

/* Remembers the bytes of the range, as far as they are in the disk, and its size. */
static void save(struct disk *disk, uint64_t offset, uint64_t length)
{
    if (!disk->undoing) {
        return;
    }
    length = offset < disk->size ? min_u64(length, disk->size - offset) : 0;
    while (disk->old_capacity - disk->old_size < length) {
        disk->old_capacity = max_u64(1 << 16, disk->old_capacity * 2);
        disk->old = realloc(disk->old, disk->old_capacity);
        if (disk->old == NULL) {
            die("out of memory");
        }
    }
    if (length > 0) {
        memcpy(disk->old + disk->old_size, disk->data + offset, length);
    }
    disk->old_size += length;
    disk->undo = room(disk->undo, disk->undo_count, &disk->undo_capacity, sizeof(struct undo));
    disk->undo[disk->undo_count++] = (struct undo){offset, length, disk->size};
}

void disk_set_size(struct disk *disk, uint64_t size)
{
    if (size > CAPACITY) {
        die("a disk of %llu bytes", (unsigned long long)size);
    }
    if (size < disk->size) {
        memset(disk->data + size, 0, disk->size - size);
    }
    disk->size = size;
}

static void do_write(struct disk *disk, uint64_t offset, const void *data, uint64_t length)
{
    save(disk, offset, length);
    if (offset + length > disk->size) {
        disk_set_size(disk, offset + length);
    }
    memcpy(disk->data + offset, data, length);
}

static void do_punch(struct disk *disk, uint64_t offset, uint64_t length)
{
    if (offset < disk->size) {
        length = min_u64(length, disk->size - offset);
        save(disk, offset, length);
        memset(disk->data + offset, 0, length);
    }
}

static void do_resize(struct disk *disk, uint64_t size)
{
    save(disk, size, UINT64_MAX - size);
    disk_set_size(disk, size);
}

void disk_apply(struct disk *disk, const struct log_entry *entry)
{
    switch (entry->kind) {
    case LOG_WRITE:
        do_write(disk, entry->offset, entry->data, entry->length);
        break;
    case LOG_PUNCH:
        do_punch(disk, entry->offset, entry->length);
        break;
    case LOG_RESIZE:
        do_resize(disk, entry->length);
        break;
    default:
        break;
    }
}

void disk_checkpoint(struct disk *disk)
{
    disk->undoing = true;
    disk->undo_count = 0;
    disk->old_size = 0;
}

void disk_undo(struct disk *disk)
{
    disk->undoing = false;
    while (disk->undo_count > 0) {
        const struct undo *undo = &disk->undo[--disk->undo_count];

        disk_set_size(disk, undo->size);
        disk->old_size -= undo->length;
        if (undo->length > 0) {
            memcpy(disk->data + undo->offset, disk->old + disk->old_size, undo->length);
        }
    }
}

/* --- The store ----------------------------------------------------------------------------- */

/* Locks the disk and counts the call; 0, or the error that it is to return. */
static int enter(struct disk *disk)
{
    struct fault_plan *faults = disk->faults;

    pthread_mutex_lock(&disk->mutex);
    if (faults == NULL || ++faults->calls != faults->at) {
        return 0;
    }
    faults->hit = true;
    return -faults->error;
}

/* Whether the call that enter() said this of changes the disk. */
static bool is_done(const struct disk *disk, int result)
{
    return result == 0 || disk->faults->lands;
}

static int leave(struct disk *disk, int result)
{
    if (result < 0 && disk->faults != NULL && disk->faults->silent) {
        result = 0;
    }
    pthread_mutex_unlock(&disk->mutex);
    return result;
}

static void record(struct disk *disk, enum log_kind kind, uint64_t offset, uint64_t length,
                   const void *data)
{
    if (disk->log != NULL) {
        crash_log_add(disk->log, &(struct log_entry){.kind = kind,
                                                     .disk = disk->number,
                                                     .offset = offset,
                                                     .length = length,
                                                     .data = (uint8_t *)(uintptr_t)data});
    }
}

static int disk_read(struct store *store, uint64_t offset, void *buffer, size_t length)
{
    struct disk *disk = to_disk(store);
    uint64_t inside;
    int result = enter(disk);

    if (result < 0) {
        memset(buffer, 0xa5, length);
        return leave(disk, result);
    }
    inside = offset < disk->size ? min_u64(length, disk->size - offset) : 0;
    if (inside > 0) {
        memcpy(buffer, disk->data + offset, inside);
    }
    memset((uint8_t *)buffer + inside, 0, length - inside);
    return leave(disk, 0);
}

static int disk_write(struct store *store, uint64_t offset, const void *buffer, size_t length)
{
    struct disk *disk = to_disk(store);
    int result = enter(disk);

    if (!is_done(disk, result)) { /* hosts end a transfer at a block */
        uint64_t end = round_down(offset + length / 2, SECTOR);

        length = disk->faults->partly && end > offset ? end - offset : 0;
    }
    if (!range_within(offset, length, disk->device ? disk->size : CAPACITY)) {
        return leave(disk, disk->device ? -ENOSPC : -EFBIG);
    }
    if (length > 0) {
        do_write(disk, offset, buffer, length);
        record(disk, LOG_WRITE, offset, length, buffer);
    }
    return leave(disk, result);
}

static int disk_sync(struct store *store)
{
    struct disk *disk = to_disk(store);
    struct log_entry begin = {.kind = LOG_SYNC_BEGIN, .disk = disk->number};
    size_t begun = 0;
    int result = enter(disk);

    if (result < 0) {
        disk->faults->hit_sync = true;
        return leave(disk, result);
    }
    if (disk->log != NULL) {
        begun = crash_log_add(disk->log, &begin);
    }
    leave(disk, 0); /* others may write while it is under way */
    pthread_mutex_lock(&disk->mutex);
    record(disk, LOG_SYNC_END, begun, 0, NULL);
    return leave(disk, 0);
}

static int disk_punch(struct store *store, uint64_t offset, uint64_t length)
{
    struct disk *disk = to_disk(store);
    int result = enter(disk);

    if (is_done(disk, result)) {
        do_punch(disk, offset, length);
        record(disk, LOG_PUNCH, offset, length, NULL);
    }
    return leave(disk, result);
}

static int disk_resize(struct store *store, uint64_t size)
{
    struct disk *disk = to_disk(store);
    int result = enter(disk);

    if (result == 0 && (size > CAPACITY || disk->device)) {
        return leave(disk, disk->device ? -EINVAL : -EFBIG);
    }
    if (is_done(disk, result) && size <= CAPACITY && !disk->device) {
        do_resize(disk, size);
        record(disk, LOG_RESIZE, 0, size, NULL);
    }
    return leave(disk, result);
}

static int disk_info(struct store *store, struct store_info *info)
{
    struct disk *disk = to_disk(store);

    pthread_mutex_lock(&disk->mutex);
    *info = (struct store_info){
        .size = disk->size,
        .allocated = disk->size,
        .inode = disk->number + 1,
        .mode = (disk->device ? S_IFBLK : S_IFREG) | S_IRUSR | S_IWUSR,
    };
    return leave(disk, 0);
}

static int disk_extent(struct store *store, uint64_t offset, uint64_t limit, bool *is_data,
                       uint64_t *length)
{
    struct disk *disk = to_disk(store);

    pthread_mutex_lock(&disk->mutex);
    *is_data = offset < disk->size;
    *length = *is_data ? min_u64(limit, disk->size - offset) : limit;
    return leave(disk, 0);
}

/* The image closes its stores; the disk goes on. */
static void disk_close(struct store *store)
{
    (void)store;
}

/* Zeros, in several requests. */
static int disk_fill(struct store *store, uint64_t offset, uint64_t length)
{
    static const uint8_t zeros[64 << 10];
    int result = to_disk(store)->fills ? 0 : -EOPNOTSUPP;

    while (length > 0 && result == 0) {
        uint64_t part = min_u64(length, sizeof(zeros));

        result = disk_write(store, offset, zeros, part);
        offset += part;
        length -= part;
    }
    return result;
}

static const struct store_ops disk_ops = {
    .read = disk_read,
    .write = disk_write,
    .sync = disk_sync,
    .punch = disk_punch,
    .resize = disk_resize,
    .fill = disk_fill,
    .info = disk_info,
    .extent = disk_extent,
    .close = disk_close,
};

void disk_init(struct disk *disk, unsigned number, const void *bytes, uint64_t size)
{
    *disk = (struct disk){.store = {.ops = &disk_ops}, .number = number};
    pthread_mutex_init(&disk->mutex, NULL);
    disk->data = mmap(NULL, CAPACITY, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (disk->data == MAP_FAILED) {
        die("no address space for a disk");
    }
    disk_set_size(disk, size);
    if (size > 0) {
        memcpy(disk->data, bytes, size);
    }
}

void disk_release(struct disk *disk)
{
    munmap(disk->data, CAPACITY);
    pthread_mutex_destroy(&disk->mutex);
    free(disk->undo);
    free(disk->old);
}

void disk_copy(struct disk *to, const struct disk *from)
{
    disk_set_size(to, 0);
    disk_set_size(to, from->size);
    memcpy(to->data, from->data, from->size);
    to->device = from->device;
    to->fills = from->fills;
}
