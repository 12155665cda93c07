/* SPDX-License-Identifier: MIT */
/*
 * The sectors of an encrypted image that are being written. In a plain image a read beside a write
 * may see some bytes of before and some of after; where a sector is encrypted as a whole those
 * would decrypt to neither, also to bytes that nobody writes: who writes a part of a sector writes
 * all of it anew. So who reads gets each sector as it was before a write or after it.
 *
 * Who writes holds the lock of these sectors, and is counted. Who reads takes no lock as long as no
 * write is under way anywhere in the image, which is what the counts say before and after:
 *
 *     write:   begun + 1;  the file;  ended + 1
 *     read:    ended;  the file;  begun: the same number? all that had begun had ended before
 *
 * Otherwise it reads once more, with the lock.
 */
#ifndef IMAGE_SECTORS_H
#define IMAGE_SECTORS_H

#include "disk/encrypted.h"
#include "util/range_lock.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct sectors {
    struct range_locks locks; /* numbers of sectors of the guest */
    atomic_uint_fast64_t begun, ended;
};

void sectors_init(struct sectors *sectors);
void sectors_destroy(struct sectors *sectors);

/*
 * Bytes of the file, still encrypted, each sector as one write has left it. `place` and `length`
 * are whole sectors; the caller holds no lock of `sectors`, which may be NULL: there is no writer.
 * What the store returns.
 */
int sectors_read(struct sectors *sectors, const struct encrypted_place *place, void *buffer,
                 size_t length);

#endif
