/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/sectors.h"

#include "crypto/cipher.h"
#include "disk/writer_internal.h"
#include "util/checked.h"

/* Between a count and what the file has. ThreadSanitizer knows no fences; it sees the counts. */
static void fence(void)
{
#ifndef __SANITIZE_THREAD__
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

void sectors_init(struct sectors *sectors)
{
    range_locks_init(&sectors->locks);
    atomic_init(&sectors->begun, 0);
    atomic_init(&sectors->ended, 0);
}

void sectors_destroy(struct sectors *sectors)
{
    range_locks_destroy(&sectors->locks);
}

static void take(struct sectors *sectors, struct range_lock *lock, uint64_t guest_offset,
                 uint64_t length)
{
    *lock = (struct range_lock){
        .first = guest_offset / CIPHER_SECTOR,
        .last = (guest_offset + length - 1) / CIPHER_SECTOR,
    };
    range_lock_take(&sectors->locks, lock);
}

/* --- Reading ------------------------------------------------------------------------------ */

static int read_locked(struct sectors *sectors, const struct encrypted_place *place, void *buffer,
                       size_t length)
{
    struct range_lock lock;
    int result;

    take(sectors, &lock, place->guest_offset, length);
    result = store_read(place->store, place->host_offset, buffer, length);
    range_lock_release(&sectors->locks, &lock);
    return result;
}

int sectors_read(struct sectors *sectors, const struct encrypted_place *place, void *buffer,
                 size_t length)
{
    uint_fast64_t ended = sectors != NULL ? atomic_load(&sectors->ended) : 0;
    int result;

    if (sectors != NULL && atomic_load(&sectors->begun) != ended) {
        return read_locked(sectors, place, buffer, length);
    }
    result = store_read(place->store, place->host_offset, buffer, length);
    if (sectors == NULL) {
        return result;
    }
    fence(); /* what was read comes before the count */
    return atomic_load(&sectors->begun) == ended ? result
                                                 : read_locked(sectors, place, buffer, length);
}

/* --- Writing ------------------------------------------------------------------------------ */

/*
 * Nobody else writes to these sectors until end_write(). Who writes a part of one reads it
 * first, and may be on his way to a cluster that zeros have taken off the disk and another request
 * fills anew: what he has read must not come back over that.
 */
static void begin_write(struct sectors *sectors, struct range_lock *lock, uint64_t guest_offset,
                        uint64_t length)
{
    take(sectors, lock, guest_offset, length);
    atomic_fetch_add(&sectors->begun, 1);
    fence(); /* the count comes before what is written */
}

static void end_write(struct sectors *sectors, struct range_lock *lock)
{
    atomic_fetch_add(&sectors->ended, 1);
    range_lock_release(&sectors->locks, lock);
}

int writer_write_sectors(struct writer *writer, const struct encrypted_place *place,
                         const void *data, uint64_t length)
{
    struct range_lock lock;
    int result;

    begin_write(&writer->sectors, &lock, place->guest_offset, length);
    result = encrypted_write(writer->image, place, data, in_memory(length));
    end_write(&writer->sectors, &lock);
    return result;
}

int writer_update_sectors(struct writer *writer, const struct encrypted_place *place,
                          const void *data, uint64_t length)
{
    struct range_lock lock;
    int result;

    begin_write(&writer->sectors, &lock, place->guest_offset, length);
    result = encrypted_update(writer->image, place, data, in_memory(length));
    end_write(&writer->sectors, &lock);
    return result;
}
