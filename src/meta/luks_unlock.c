/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "crypto/keyslot.h"
#include "crypto/library.h"
#include "meta/luks.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The numbers of 32 bits that it is made of cannot overflow it. */
uint64_t luks_material_length(const struct luks *luks, size_t slot)
{
    return (uint64_t)luks->key_bytes * luks->slots[slot].stripes;
}

const char *luks_slot_problem(const struct luks *luks, uint64_t length, size_t slot,
                              uint32_t iterations_max)
{
    const struct luks_slot *it = &luks->slots[slot];

    if (it->iterations == 0) {
        return "it asks for no iteration at all";
    }
    if (it->iterations > iterations_max) {
        return "it asks for more iterations than are allowed";
    }
    if (it->stripes == 0 || it->stripes > LUKS_STRIPES_MAX) {
        return "its number of stripes is impossible";
    }
    if (it->key_offset < LUKS_LENGTH) {
        return "its key material would lie in the header itself";
    }
    if (!range_within(it->key_offset, luks_material_length(luks, slot), length)) {
        return "its key material does not lie within the encryption header";
    }
    return NULL;
}

size_t luks_slot_overlap(const struct luks *luks, size_t slot)
{
    for (size_t i = 0; i < LUKS_SLOTS; i++) {
        if (i != slot && luks->slots[i].active && luks->slots[slot].active &&
            ranges_overlap(luks->slots[i].key_offset, luks_material_length(luks, i),
                           luks->slots[slot].key_offset, luks_material_length(luks, slot))) {
            return i;
        }
    }
    return LUKS_SLOTS;
}

/* --- Opening ------------------------------------------------------------------------------ */

void luks_kind(const struct luks *luks, struct cipher_kind *kind)
{
    *kind = (struct cipher_kind){
        .name = luks->cipher_name,
        .mode = luks->mode,
        .iv = luks->iv,
        .iv_hash = luks->iv_hash,
    };
}

/* What makes every key a wrong one. */
static int check(const struct luks_lock *lock, struct error *error)
{
    const struct luks *luks = lock->luks;

    if (luks->key_bytes == 0 || luks->key_bytes > CIPHER_KEY_MAX ||
        luks->master_key_iterations == 0) {
        return error_set(error, EINVAL,
                         "%s: its LUKS header is damaged: a master key of %" PRIu32
                         " bytes, and %" PRIu32 " iterations for its digest, are impossible; use "
                         "an intact copy of the image",
                         lock->name, luks->key_bytes, luks->master_key_iterations);
    }
    if (luks->master_key_iterations > lock->iterations_max) {
        return error_set(error, EINVAL,
                         "%s: its LUKS header asks for %" PRIu32
                         " iterations for the digest of its key, more than the %" PRIu32
                         " that are allowed; allow them with key-iterations-max=",
                         lock->name, luks->master_key_iterations, lock->iterations_max);
    }
    if (!crypto_knows_hash(luks->hash)) {
        return error_set(error, ENOTSUP,
                         "%s: its keys are hashed with '%s', which the libgcrypt of this system "
                         "does not have; convert the image with qemu-img convert",
                         lock->name, luks->hash);
    }
    return 0;
}

static int cipher_failure(const struct luks_lock *lock, int result, struct error *error)
{
    const struct luks *luks = lock->luks;

    if (result == -ENOTSUP) {
        return error_set(error, ENOTSUP,
                         "%s: is encrypted with %s, %s-%s%s%s, which the libgcrypt of this "
                         "system does not have; convert the image with qemu-img convert",
                         lock->name, luks->cipher, luks->mode, luks->iv,
                         luks->iv_hash[0] != '\0' ? ":" : "", luks->iv_hash);
    }
    return error_set(error, -result, "%s: its key cannot be prepared: %s", lock->name,
                     strerror(-result));
}

/* The stripes of a slot, decrypted with the key that the passphrase gives, folded to `key`. */
static int merge_slot(const struct luks_lock *lock, size_t slot, const struct secret *passphrase,
                      struct secret *split, struct secret *key, struct error *error)
{
    const struct luks *luks = lock->luks;
    struct cipher_kind kind;
    struct cipher *cipher;
    int result = store_read(lock->file, lock->offset + luks->slots[slot].key_offset, split->bytes,
                            split->length);

    if (result < 0) {
        return error_set(error, -result, "%s: key slot %zu cannot be read: %s", lock->name, slot,
                         strerror(-result));
    }
    luks_kind(luks, &kind);
    result = keyslot_derive(luks->hash, passphrase, luks->slots[slot].salt,
                            luks->slots[slot].iterations, key->bytes, key->length);
    if (result == 0) {
        result = cipher_create(&kind, key->bytes, key->length, &cipher);
    }
    if (result == 0) {
        result = cipher_decrypt(cipher, 0, split->bytes, split->length);
        cipher_destroy(cipher);
        result = result == -EINVAL ? -ENOTSUP : result; /* no whole number of blocks */
    }
    if (result == 0) {
        result = keyslot_merge(luks->hash, split->bytes, key->length, luks->slots[slot].stripes,
                               key->bytes);
    }
    return result < 0 ? cipher_failure(lock, result, error) : 0;
}

/* Whether it is the master key: -EKEYREJECTED where not. */
static int check_key(const struct luks_lock *lock, const struct secret *key, struct error *error)
{
    const struct luks *luks = lock->luks;
    uint8_t digest[LUKS_DIGEST_LENGTH];
    int result = keyslot_derive(luks->hash, key, luks->salt, luks->master_key_iterations, digest,
                                sizeof(digest));

    if (result < 0) {
        return cipher_failure(lock, result, error);
    }
    return memcmp(digest, luks->digest, sizeof(digest)) == 0 ? 0 : -EKEYREJECTED;
}

int luks_unlock_slot(const struct luks_lock *lock, size_t slot, const struct secret *passphrase,
                     struct secret **key, struct error *error)
{
    struct secret *split = NULL;
    int result = secret_create(in_memory(luks_material_length(lock->luks, slot)), &split);

    *key = NULL;
    if (result == 0) {
        result = secret_create(lock->luks->key_bytes, key);
    }
    if (result < 0) {
        result = error_set(error, ENOMEM, "%s: out of memory", lock->name);
    } else {
        result = merge_slot(lock, slot, passphrase, split, *key, error);
    }
    if (result == 0) {
        result = check_key(lock, *key, error);
    }
    secret_destroy(split);
    if (result < 0) {
        secret_destroy(*key);
        *key = NULL;
    }
    return result;
}

/* --- Which slots ------------------------------------------------------------------------------ */

#define ROUNDS_OF_A_HEADER                                                 \
    4 /* times iterations_max, of all slots: eight usual ones are far less \
       */

/* The next slot at or behind `slot` that is active; why it is not tried, else NULL. */
static size_t next_slot(const struct luks_lock *lock, size_t slot, uint64_t *rounds,
                        const char **problem)
{
    const struct luks *luks = lock->luks;
    uint64_t digest = max_u64(crypto_hash_length(luks->hash), 1);

    while (slot < LUKS_SLOTS && !luks->slots[slot].active) {
        slot++;
    }
    if (slot == LUKS_SLOTS) {
        return slot;
    }
    *problem = luks_slot_problem(luks, lock->length, slot, lock->iterations_max);
    if (*problem == NULL) {
        /* PBKDF2 does all iterations for each digest that the key is made of. */
        *rounds += luks->slots[slot].iterations * div_round_up(luks->key_bytes, digest) +
                   luks->master_key_iterations * div_round_up(LUKS_DIGEST_LENGTH, digest);
        if (lock->iterations_max != UINT32_MAX &&
            *rounds > (uint64_t)ROUNDS_OF_A_HEADER * lock->iterations_max) {
            *problem = "with those before it, it asks for more iterations than are allowed";
        }
    }
    return slot;
}

void luks_tell_skipped(const struct luks_lock *lock, char *text, size_t size)
{
    uint64_t rounds = 0;
    const char *problem = NULL;

    text[0] = '\0';
    for (size_t i = next_slot(lock, 0, &rounds, &problem); i < LUKS_SLOTS && text[0] == '\0';
         i = next_slot(lock, i + 1, &rounds, &problem)) {
        if (problem != NULL) {
            snprintf(text, size, "; key slot %zu was not tried: %s (key-iterations-max=)", i,
                     problem);
        }
    }
}

int luks_unlock_key(const struct luks_lock *lock, const struct secret *passphrase,
                    struct secret **key, size_t *slot, struct error *error)
{
    const char *problem = NULL, *found = NULL;
    size_t tried = 0, bad = 0;
    uint64_t rounds = 0;
    int result = check(lock, error);

    *key = NULL;
    for (size_t i = 0; result == 0; i++) {
        i = next_slot(lock, i, &rounds, &found);
        if (i == LUKS_SLOTS) {
            break;
        }
        if (found != NULL) {
            bad = problem == NULL ? i : bad;
            problem = problem == NULL ? found : problem;
            continue;
        }
        tried++;
        result = luks_unlock_slot(lock, i, passphrase, key, error);
        if (result == 0) {
            *slot = i;
            return 0;
        }
        result = result == -EKEYREJECTED ? 0 : result;
    }
    if (result < 0) {
        return result;
    }
    if (tried == 0 && problem != NULL) {
        return error_set(error, EINVAL,
                         "%s: no key slot can be used: of slot %zu, %s (%" PRIu32
                         " iterations, at most %" PRIu32 "; key-iterations-max= lifts that)",
                         lock->name, bad, problem, lock->luks->slots[bad].iterations,
                         lock->iterations_max);
    }
    if (tried == 0) {
        return error_set(error, EINVAL,
                         "%s: has no key slot in use: all its keys were erased, and nobody can "
                         "read it any more",
                         lock->name);
    }
    return -EKEYREJECTED;
}

int luks_unlock(const struct luks_lock *lock, const struct secret *passphrase,
                struct cipher **cipher, size_t *slot, struct error *error)
{
    struct cipher_kind kind;
    struct secret *key;
    int result = luks_unlock_key(lock, passphrase, &key, slot, error);

    *cipher = NULL;
    if (result == 0) {
        luks_kind(lock->luks, &kind);
        result = cipher_create(&kind, key->bytes, key->length, cipher);
        result = result < 0 ? cipher_failure(lock, result, error) : 0;
        secret_destroy(key);
    }
    return result;
}
