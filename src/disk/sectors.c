/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/writer_internal.h"

#include "crypto/cipher.h"

/*
 * Nobody else writes to these sectors until the lock is released. Who writes a part of one reads it
 * first, and may be on his way to a cluster that zeros have taken off the disk and another request
 * fills anew: what he has read must not come back over that.
 */
static void lock_sectors(struct writer *writer, struct range_lock *lock, uint64_t guest_offset,
                         uint64_t length)
{
    *lock = (struct range_lock){
        .first = guest_offset / CIPHER_SECTOR,
        .last = (guest_offset + length - 1) / CIPHER_SECTOR,
    };
    range_lock_take(&writer->sectors, lock);
}

int writer_write_sectors(struct writer *writer, const struct encrypted_place *place,
                         const void *data, uint64_t length)
{
    struct range_lock lock;
    int result;

    lock_sectors(writer, &lock, place->guest_offset, length);
    result = encrypted_write(writer->image, place, data, length);
    range_lock_release(&writer->sectors, &lock);
    return result;
}

int writer_update_sectors(struct writer *writer, const struct encrypted_place *place,
                          const void *data, uint64_t length)
{
    struct range_lock lock;
    int result;

    lock_sectors(writer, &lock, place->guest_offset, length);
    result = encrypted_update(writer->image, place, data, length);
    range_lock_release(&writer->sectors, &lock);
    return result;
}
