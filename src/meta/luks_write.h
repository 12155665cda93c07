/* SPDX-License-Identifier: MIT */
/*
 * New LUKS headers, and key slots of one that exists.
 *
 * A slot is filled in an order that no power cut can turn into a slot that is
 * active and opens nothing: its salt, its iterations and its key material, while
 * it says that it is not in use; sync; that it is; sync. It is emptied in the
 * opposite one: that it is not in use; sync; random bytes over the material, and
 * zeros over its salt; sync. Neither touches another slot's bytes.
 */
#ifndef META_LUKS_WRITE_H
#define META_LUKS_WRITE_H

#include "crypto/cipher.h"
#include "crypto/secret.h"
#include "meta/luks.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>

#define LUKS_STRIPES           UINT32_C(4000)
#define LUKS_ITER_TIME_DEFAULT UINT32_C(2000) /* milliseconds */

/* What a new header shall say; texts are borrowed, in the words of LUKS. */
struct luks_wish {
    struct cipher_kind kind;
    const char *hash;
    uint32_t key_bytes;      /* of the master key: those of two keys with xts */
    uint32_t iteration_time; /* milliseconds that a passphrase shall take; */
                             /* an eighth of that comes on top, for the digest of the key */
};

/* Bytes of the area of such a header, with eight slots. */
uint64_t luks_area_length(uint32_t key_bytes);

/*
 * Whether there can be one. `name` is what sentences begin with. 0, -ENOTSUP, -ENOSYS (with the
 * name of the library that is not there), -ENOMEM.
 */
int luks_check_wish(const struct luks_wish *wish, const char *name, struct error *error);

/*
 * Makes the area, with a new master key that the passphrase opens, by slot 0: luks_area_length()
 * bytes in *area, owned, none of which is secret; in *cipher, owned, what that key is of. As
 * luks_check_wish(), -EIO; then there is neither.
 */
int luks_make(const struct luks_wish *wish, const struct secret *passphrase, const char *name,
              uint8_t **area, struct cipher **cipher, struct error *error);

/* An image's header, that is changed. */
struct luks_edit {
    struct store *file;
    uint64_t offset, length; /* of the area, bytes */
    const char *name;        /* for sentences */
    struct luks *luks;       /* as luks_read() has it; follows what is changed */
};

/*
 * How many of the active slots can be opened by somebody: what they say is possible, and no other
 * has their bytes.
 */
size_t luks_usable_slots(const struct luks_edit *edit);

/*
 * Whether the slot's bytes are its own: -EINVAL with a sentence for one that lies in the header,
 * not in the area, or where the material of another active slot is.
 */
int luks_check_slot(const struct luks_edit *edit, size_t slot, struct error *error);

/*
 * Gives the slot, which is not active and for which luks_check_slot() is 0, to a passphrase for the
 * master key, taking so many milliseconds. Stable when it returns 0; a negative errno with a
 * sentence, and then it is not in use, or nobody knows.
 */
int luks_fill_slot(const struct luks_edit *edit, size_t slot, const struct secret *key,
                   const struct secret *passphrase, uint32_t iteration_time, struct error *error);

/* Empties the slot, for which luks_check_slot() is 0. Stable when it returns 0; as that. */
int luks_empty_slot(const struct luks_edit *edit, size_t slot, struct error *error);

#endif
