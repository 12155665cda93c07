/* SPDX-License-Identifier: MIT */
/*
 * The data clusters of an encrypted image: decrypted in the buffer of who reads, encrypted on their
 * way to the file. Nothing else of an image is encrypted: tables are not, nor what reads as zeros,
 * nor compressed clusters. The unit is the sector of 512 bytes, in the place of data as in that of
 * the guest; its number, which the IV is made of, is that of the host offset with LUKS, and that of
 * the guest offset (of the mapping: a VM state's, too) with the old AES.
 *
 * Zeros of the host are no zeros here: whatever relies on what a fresh cluster, or a hole, reads as
 * asks image_is_encrypted() first.
 */
#ifndef IMAGE_ENCRYPTED_H
#define IMAGE_ENCRYPTED_H

#include "disk/image.h"
#include "meta/format.h"
#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Also of one that has no key; of an overlay whose key nobody knows but this process. */
static inline bool image_is_encrypted(const struct image *image)
{
    return image->cipher != NULL ||
           (image->header != NULL && image->header->crypt_method != CRYPT_NONE);
}

/* What lies where: within one (sub)cluster, or several in one piece. */
struct encrypted_place {
    struct store *store;
    uint64_t host_offset, guest_offset; /* bytes; alike within a sector */
};

/* Any bytes of it, beside who writes (disk/sectors.h). 0; -ENOKEY without the key; what the store
 * returns; -ENOMEM. */
int encrypted_read(const struct image *image, const struct encrypted_place *place, void *buffer,
                   size_t length);

/* Whole sectors (-EINVAL); `data` is left as it is. */
int encrypted_write(const struct image *image, const struct encrypted_place *place,
                    const void *data, size_t length);

/*
 * Any bytes: sectors of which they are but a part are read, and written back. Nobody else may write
 * to these meanwhile.
 */
int encrypted_update(const struct image *image, const struct encrypted_place *place,
                     const uint8_t *data, size_t length);

#endif
