/* SPDX-License-Identifier: MIT */
/*
 * The LUKS header of an encrypted image ("Full disk encryption header pointer",
 * LUKS version 1): what is said of the encryption, and the way from a passphrase
 * to the cipher of the disk (LUKS1 On-Disk Format Specification 1.2.3).
 */
#ifndef META_LUKS_H
#define META_LUKS_H

#include "crypto/cipher.h"
#include "crypto/secret.h"
#include "meta/format.h"
#include "store/store.h"
#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>

struct luks_slot {
    bool active;
    uint32_t state; /* as the image has it: LUKS_SLOT_... */
    uint32_t iterations;
    uint64_t key_offset; /* bytes, in the area of the encryption header */
    uint32_t stripes;
    uint8_t salt[LUKS_SALT_LENGTH];
};

/* Texts are NUL-terminated, and hold whatever the image holds. */
struct luks {
    char cipher[LUKS_TEXT_LENGTH + 16];     /* with the size of its key: "aes-256" */
    char cipher_name[LUKS_TEXT_LENGTH + 1]; /* without: "aes" */
    char mode[LUKS_TEXT_LENGTH + 1];        /* "xts" */
    char iv[LUKS_TEXT_LENGTH + 1];          /* how the IV is made: "plain64" */
    char iv_hash[LUKS_TEXT_LENGTH + 1];     /* empty where that needs none */
    char hash[LUKS_TEXT_LENGTH + 1];
    char uuid[LUKS_UUID_LENGTH + 1];
    uint32_t key_bytes; /* of the master key */
    uint32_t master_key_iterations;
    uint8_t digest[LUKS_DIGEST_LENGTH], salt[LUKS_SALT_LENGTH]; /* of the master key */
    uint64_t payload_offset; /* bytes, in the area of the encryption header */
    struct luks_slot slots[LUKS_SLOTS];
};

/*
 * Reads the header in the area [offset, offset + length) of the file. 0; -EINVAL
 * with a sentence that begins with `name` when there is none; -EIO.
 */
int luks_read(struct store *file, uint64_t offset, uint64_t length, const char *name,
              struct luks *luks, struct error *error);

/* Limits on what an image can ask for; what is made with cryptsetup and QEMU has 4000 stripes. */
#define LUKS_STRIPES_MAX UINT32_C(65536)
/* Unless the user says otherwise: some ten seconds; and for lists of options. */
#define LUKS_ITERATIONS_MAX      50000000
#define LUKS_ITERATIONS_MAX_TEXT LUKS_TEXT_OF(LUKS_ITERATIONS_MAX)
#define LUKS_TEXT_OF(number)     LUKS_TEXT_OF_WORD(number)
#define LUKS_TEXT_OF_WORD(word)  #word

/* Bytes of the key material of a slot. */
uint64_t luks_material_length(const struct luks *luks, size_t slot);

/*
 * Why the key slot, which is active, cannot be used, for the end of a sentence; NULL when it can.
 * `length` is that of the area in bytes; at most `iterations_max` iterations.
 */
const char *luks_slot_problem(const struct luks *luks, uint64_t length, size_t slot,
                              uint32_t iterations_max);

/* The number of another active slot whose key material is in part that of `slot`, or LUKS_SLOTS. */
size_t luks_slot_overlap(const struct luks *luks, size_t slot);

/* However fast they are: neither QEMU, nor cryptsetup, nor we make a slot with fewer. */
#define LUKS_ITERATIONS_MIN UINT32_C(1000)

/* A fault, as a sentence without the file's name: of the byte `at` of the area. */
typedef void luks_fault_fn(void *context, bool is_error, uint64_t at, const char *text);

/*
 * Tells what is wrong with the header, whose area has `length` bytes: errors, where a key cannot be
 * used, or using or changing one destroys another or the header; and else what somebody should know
 * (few iterations, a payload that would begin inside the area).
 */
void luks_faults(const struct luks *luks, uint64_t length, luks_fault_fn *fn, void *context);

/* Its encryption; the texts are those of `luks`. */
void luks_kind(const struct luks *luks, struct cipher_kind *kind);

/* What luks_read() has read, and the passphrase for it. */
struct luks_lock {
    struct store *file;
    uint64_t offset, length; /* of the area, bytes */
    const char *name;        /* for sentences */
    const struct luks *luks;
    uint32_t iterations_max;
};

/*
 * Which active key slot is not tried, and why, for the end of a sentence that begins with "; "; an
 * empty string where all are. A header may ask for some times iterations_max in all.
 */
void luks_tell_skipped(const struct luks_lock *lock, char *text, size_t size);

/*
 * Tries the passphrase at each active key slot, which takes as long as these ask for: the master
 * key, owned, and in *slot which it was. -EKEYREJECTED, without a sentence, when it is that of
 * none; -EINVAL, -ENOTSUP, -EIO, -ENOMEM with one.
 */
int luks_unlock_key(const struct luks_lock *lock, const struct secret *passphrase,
                    struct secret **key, size_t *slot, struct error *error);

/* The same of one slot, whose iterations and place have been looked at (luks_slot_problem()). */
int luks_unlock_slot(const struct luks_lock *lock, size_t slot, const struct secret *passphrase,
                     struct secret **key, struct error *error);

/* The cipher of the disk; as luks_unlock_key(). */
int luks_unlock(const struct luks_lock *lock, const struct secret *passphrase,
                struct cipher **cipher, size_t *slot, struct error *error);

#endif
