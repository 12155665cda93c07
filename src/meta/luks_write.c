/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/luks_write.h"

#include "crypto/keyslot.h"
#include "crypto/library.h"
#include "util/bytes.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LUKS_SECTOR    UINT64_C(512)
#define LUKS_ALIGNMENT UINT64_C(4096) /* of all key material, as cryptsetup and QEMU have it */

/* PBKDF2 of the master key takes an eighth of the time that it takes for a passphrase. */
#define DIGEST_SHARE 8

/* --- Layout ------------------------------------------------------------------------------- */

/* Where the material of a slot of a new header is; of slot LUKS_SLOTS, the end of the area. */
static uint64_t material_offset(uint32_t key_bytes, size_t slot)
{
    uint64_t one = div_round_up((uint64_t)key_bytes * LUKS_STRIPES, LUKS_ALIGNMENT);

    return LUKS_ALIGNMENT * (1 + slot * one);
}

uint64_t luks_area_length(uint32_t key_bytes)
{
    return material_offset(key_bytes, LUKS_SLOTS);
}

/* --- What can be ---------------------------------------------------------------------------- */

static int refuse(const struct luks_wish *wish, const char *name, const char *why,
                  struct error *error)
{
    const struct cipher_kind *kind = &wish->kind;
    bool hashed = strcmp(kind->iv, "essiv") == 0;

    return error_set(error, ENOTSUP,
                     "%s: LUKS with %s (a key of %" PRIu32
                     " bytes), %s-%s%s%s and %s is not possible: %s; leave the encrypt.* options "
                     "out for aes-256, xts-plain64, sha256",
                     name, kind->name, wish->key_bytes, kind->mode, kind->iv, hashed ? ":" : "",
                     hashed ? kind->iv_hash : "", wish->hash, why);
}

static int failed(const char *name, int result, struct error *error)
{
    return error_set(error, -result, "%s: its encryption header cannot be made: %s", name,
                     strerror(-result));
}

int luks_check_wish(const struct luks_wish *wish, const char *name, struct error *error)
{
    static const uint8_t nothing[CIPHER_KEY_MAX] = {1, [CIPHER_KEY_MAX / 2] = 2};
    const char *missing = crypto_missing();
    struct cipher *cipher;
    int result;

    if (missing != NULL || crypto_begin() < 0) {
        return error_set(error, ENOSYS,
                         "%s: encryption needs %s, which this program was built without; install "
                         "that library and build it again",
                         name, missing != NULL ? missing : "a libgcrypt that is new enough");
    }
    if (wish->key_bytes == 0 || wish->key_bytes > CIPHER_KEY_MAX) {
        return refuse(wish, name, "there is no such key", error);
    }
    if (!crypto_knows_hash(wish->hash)) {
        return refuse(wish, name, "the libgcrypt of this system does not have that hash", error);
    }
    if (strcmp(wish->kind.name, "cast5") == 0 && strcmp(wish->kind.iv, "essiv") == 0) {
        return refuse(wish, name, "QEMU knows no essiv for cast5", error);
    }
    if ((uint64_t)wish->key_bytes * LUKS_STRIPES % LUKS_SECTOR != 0) {
        return refuse(wish, name,
                      "QEMU cannot open it, whose key material is no whole number of sectors",
                      error);
    }
    result = cipher_create(&wish->kind, nothing, wish->key_bytes, &cipher);
    cipher_destroy(cipher);
    if (result == -ENOTSUP) {
        return refuse(wish, name,
                      "there is no such combination, or libgcrypt does not have that cipher",
                      error);
    }
    return result < 0 ? failed(name, result, error) : 0;
}

/* --- A slot --------------------------------------------------------------------------------- */

static void encode_slot(const struct luks_slot *slot, uint8_t *bytes)
{
    store_be32(bytes + LUKS_SLOT_STATE, slot->active ? LUKS_SLOT_ACTIVE : LUKS_SLOT_DEAD);
    store_be32(bytes + LUKS_SLOT_ITERATIONS, slot->iterations);
    memcpy(bytes + LUKS_SLOT_SALT, slot->salt, sizeof(slot->salt));
    store_be32(bytes + LUKS_SLOT_KEY_OFFSET, (uint32_t)(slot->key_offset / LUKS_SECTOR));
    store_be32(bytes + LUKS_SLOT_STRIPES, slot->stripes);
}

/* Iterations that take so long, within what the header can say and what is too few. */
static int measure(const char *hash, size_t key_length, uint32_t milliseconds, uint32_t *iterations)
{
    uint64_t found;
    int result = keyslot_measure(hash, key_length, milliseconds, &found);

    *iterations = (uint32_t)min_u64(max_u64(found, LUKS_ITERATIONS_MIN), UINT32_MAX);
    return result;
}

/* The key, split and encrypted with the passphrase, as salt and iterations of the slot have it. */
static int make_material(const struct luks *luks, size_t slot, const struct secret *key,
                         const struct secret *passphrase, uint8_t *material)
{
    const struct luks_slot *it = &luks->slots[slot];
    struct secret *slot_key = NULL, *split = NULL;
    struct cipher *cipher = NULL;
    struct cipher_kind kind;
    int result = secret_create(luks->key_bytes, &slot_key);

    if (result == 0) {
        result = secret_create(in_memory(luks_material_length(luks, slot)), &split);
    }
    if (result == 0) {
        result = keyslot_derive(luks->hash, passphrase, it->salt, it->iterations, slot_key->bytes,
                                slot_key->length);
    }
    if (result == 0) {
        luks_kind(luks, &kind);
        result = cipher_create(&kind, slot_key->bytes, slot_key->length, &cipher);
    }
    if (result == 0) {
        result = keyslot_split(luks->hash, key->bytes, luks->key_bytes, it->stripes, split->bytes);
    }
    if (result == 0) {
        result = cipher_encrypt(cipher, 0, split->bytes, material, split->length);
    }
    cipher_destroy(cipher);
    secret_destroy(split);
    secret_destroy(slot_key);
    return result;
}

/* --- A new header --------------------------------------------------------------------------- */

static int make_uuid(char uuid[LUKS_UUID_LENGTH + 1])
{
    uint8_t raw[16];
    int result = crypto_random(raw, sizeof(raw));
    char *to = uuid;

    raw[6] = (uint8_t)((raw[6] & 0x0f) | 0x40); /* version 4: random */
    raw[8] = (uint8_t)((raw[8] & 0x3f) | 0x80);
    for (size_t i = 0; i < sizeof(raw); i++) {
        to += sprintf(to, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", raw[i]);
    }
    return result;
}

static void put_text(uint8_t *field, size_t length, const char *text)
{
    memcpy(field, text, min_size(strlen(text), length));
}

/* The fields, but for the slots, of a header that is all zeros. */
static void encode(const struct luks *luks, uint8_t *bytes)
{
    char mode[3 * LUKS_TEXT_LENGTH + 3];

    snprintf(mode, sizeof(mode), "%s-%s%s%s", luks->mode, luks->iv,
             luks->iv_hash[0] != '\0' ? ":" : "", luks->iv_hash);
    memcpy(bytes, LUKS_MAGIC, strlen(LUKS_MAGIC));
    store_be16(bytes + LUKS_VERSION, 1);
    put_text(bytes + LUKS_CIPHER_NAME, LUKS_TEXT_LENGTH, luks->cipher_name);
    put_text(bytes + LUKS_CIPHER_MODE, LUKS_TEXT_LENGTH, mode);
    put_text(bytes + LUKS_HASH, LUKS_TEXT_LENGTH, luks->hash);
    store_be32(bytes + LUKS_PAYLOAD_OFFSET, (uint32_t)(luks->payload_offset / LUKS_SECTOR));
    store_be32(bytes + LUKS_KEY_BYTES, luks->key_bytes);
    memcpy(bytes + LUKS_DIGEST, luks->digest, sizeof(luks->digest));
    memcpy(bytes + LUKS_SALT, luks->salt, sizeof(luks->salt));
    store_be32(bytes + LUKS_MASTER_KEY_ITERATIONS, luks->master_key_iterations);
    put_text(bytes + LUKS_UUID, LUKS_UUID_LENGTH, luks->uuid);
    for (size_t i = 0; i < LUKS_SLOTS; i++) {
        encode_slot(&luks->slots[i], bytes + LUKS_KEY_SLOTS + i * LUKS_SLOT_LENGTH);
    }
}

/* What it says that needs no key. */
static int describe(const struct luks_wish *wish, struct luks *luks)
{
    memset(luks, 0, sizeof(*luks));
    snprintf(luks->cipher_name, sizeof(luks->cipher_name), "%s", wish->kind.name);
    snprintf(luks->mode, sizeof(luks->mode), "%s", wish->kind.mode);
    snprintf(luks->iv, sizeof(luks->iv), "%s", wish->kind.iv);
    if (strcmp(luks->iv, "essiv") == 0) {
        snprintf(luks->iv_hash, sizeof(luks->iv_hash), "%s", wish->kind.iv_hash);
    }
    snprintf(luks->hash, sizeof(luks->hash), "%s", wish->hash);
    luks->key_bytes = wish->key_bytes;
    luks->payload_offset = luks_area_length(wish->key_bytes);
    for (size_t i = 0; i < LUKS_SLOTS; i++) {
        luks->slots[i].key_offset = material_offset(wish->key_bytes, i);
        luks->slots[i].stripes = LUKS_STRIPES;
    }
    return make_uuid(luks->uuid);
}

/* A random key, by which it is known, and slot 0. */
static int make_keys(const struct luks_wish *wish, const struct secret *passphrase,
                     struct luks *luks, struct secret *key, uint8_t *area)
{
    struct luks_slot *slot = &luks->slots[0];
    int result = crypto_random(key->bytes, key->length);

    if (result == 0) {
        result = crypto_random(luks->salt, sizeof(luks->salt));
    }
    if (result == 0) {
        result = crypto_random(slot->salt, sizeof(slot->salt));
    }
    if (result == 0) {
        result = measure(luks->hash, sizeof(luks->digest), wish->iteration_time / DIGEST_SHARE,
                         &luks->master_key_iterations);
    }
    if (result == 0) {
        result = keyslot_derive(luks->hash, key, luks->salt, luks->master_key_iterations,
                                luks->digest, sizeof(luks->digest));
    }
    if (result == 0) {
        result = measure(luks->hash, key->length, wish->iteration_time, &slot->iterations);
    }
    if (result == 0) {
        slot->active = true;
        result = make_material(luks, 0, key, passphrase, area + slot->key_offset);
    }
    return result;
}

int luks_make(const struct luks_wish *wish, const struct secret *passphrase, const char *name,
              uint8_t **area, struct cipher **cipher, struct error *error)
{
    struct secret *key = NULL;
    struct luks luks;
    int result = luks_check_wish(wish, name, error);

    *area = NULL;
    *cipher = NULL;
    if (result < 0) {
        return result;
    }
    *area = calloc(1, in_memory(luks_area_length(wish->key_bytes)));
    result = *area == NULL ? -ENOMEM : describe(wish, &luks);
    if (result == 0) {
        result = secret_create(wish->key_bytes, &key);
    }
    if (result == 0) {
        result = make_keys(wish, passphrase, &luks, key, *area);
    }
    if (result == 0) {
        result = cipher_create(&wish->kind, key->bytes, key->length, cipher);
    }
    secret_destroy(key);
    if (result < 0) {
        free(*area);
        *area = NULL;
        return failed(name, result, error);
    }
    encode(&luks, *area);
    return 0;
}

/* --- Slots of a header that exists ---------------------------------------------------------- */

/* As if it were active, with iterations that are possible. */
static void as_if_active(const struct luks_edit *edit, size_t slot, struct luks *luks)
{
    *luks = *edit->luks;
    luks->slots[slot].active = true;
    luks->slots[slot].iterations = LUKS_ITERATIONS_MIN;
}

int luks_check_slot(const struct luks_edit *edit, size_t slot, struct error *error)
{
    struct luks luks;
    const char *problem;
    size_t other;

    as_if_active(edit, slot, &luks);
    problem = luks_slot_problem(&luks, edit->length, slot, UINT32_MAX);
    other = luks_slot_overlap(&luks, slot);
    if (problem == NULL && other < LUKS_SLOTS) {
        return error_set(error, EINVAL,
                         "%s: key slot %zu cannot be changed: its key material lies where that of "
                         "slot %zu is, which is in use",
                         edit->name, slot, other);
    }
    return problem == NULL
               ? 0
               : error_set(error, EINVAL,
                           "%s: key slot %zu cannot be changed: the LUKS header is damaged, %s",
                           edit->name, slot, problem);
}

size_t luks_usable_slots(const struct luks_edit *edit)
{
    size_t count = 0;

    for (size_t i = 0; i < LUKS_SLOTS; i++) {
        count += edit->luks->slots[i].active &&
                 luks_slot_problem(edit->luks, edit->length, i, UINT32_MAX) == NULL &&
                 luks_slot_overlap(edit->luks, i) == LUKS_SLOTS;
    }
    return count;
}

static int slot_failed(const struct luks_edit *edit, size_t slot, int result, const char *what,
                       struct error *error)
{
    return error_set(error, -result, "%s: key slot %zu could not be %s: %s", edit->name, slot, what,
                     strerror(-result));
}

static uint64_t slot_offset(const struct luks_edit *edit, size_t slot)
{
    return edit->offset + LUKS_KEY_SLOTS + slot * LUKS_SLOT_LENGTH;
}

/* All that the header says of it. */
static int write_slot(const struct luks_edit *edit, size_t slot)
{
    uint8_t bytes[LUKS_SLOT_LENGTH];

    encode_slot(&edit->luks->slots[slot], bytes);
    return store_write(edit->file, slot_offset(edit, slot), bytes, sizeof(bytes));
}

/* Whether it is in use, alone: four bytes, which lie in one sector. */
static int write_state(const struct luks_edit *edit, size_t slot)
{
    uint8_t bytes[sizeof(uint32_t)];

    store_be32(bytes, edit->luks->slots[slot].active ? LUKS_SLOT_ACTIVE : LUKS_SLOT_DEAD);
    return store_write(edit->file, slot_offset(edit, slot) + LUKS_SLOT_STATE, bytes, sizeof(bytes));
}

static int write_material(const struct luks_edit *edit, size_t slot, const uint8_t *material)
{
    return store_write(edit->file, edit->offset + edit->luks->slots[slot].key_offset, material,
                       in_memory(luks_material_length(edit->luks, slot)));
}

static int write_filled(const struct luks_edit *edit, size_t slot, const uint8_t *material)
{
    int result = write_slot(edit, slot);

    if (result == 0) {
        result = write_material(edit, slot, material);
    }
    if (result == 0) {
        result = store_sync(edit->file);
    }
    if (result == 0) {
        edit->luks->slots[slot].active = true;
        result = write_state(edit, slot);
    }
    return result == 0 ? store_sync(edit->file) : result;
}

int luks_fill_slot(const struct luks_edit *edit, size_t slot, const struct secret *key,
                   const struct secret *passphrase, uint32_t iteration_time, struct error *error)
{
    struct luks_slot *it = &edit->luks->slots[slot];
    uint8_t *material = malloc(in_memory(luks_material_length(edit->luks, slot)));
    int result = material != NULL ? crypto_random(it->salt, sizeof(it->salt)) : -ENOMEM;

    if (result == 0) {
        result = measure(edit->luks->hash, key->length, iteration_time, &it->iterations);
    }
    if (result == 0) {
        result = make_material(edit->luks, slot, key, passphrase, material);
    }
    if (result == 0) {
        result = write_filled(edit, slot, material);
    }
    free(material);
    return result < 0 ? slot_failed(edit, slot, result, "filled", error) : 0;
}

/* Random bytes over the stripes: one that is gone is enough, and who knows which are? */
static int write_emptied(const struct luks_edit *edit, size_t slot, const uint8_t *random)
{
    struct luks_slot *it = &edit->luks->slots[slot];
    int result;

    it->active = false;
    result = write_state(edit, slot);
    if (result == 0) {
        result = store_sync(edit->file);
    }
    if (result == 0) {
        it->iterations = 0;
        memset(it->salt, 0, sizeof(it->salt));
        result = write_slot(edit, slot);
    }
    if (result == 0) {
        result = write_material(edit, slot, random);
    }
    return result == 0 ? store_sync(edit->file) : result;
}

int luks_empty_slot(const struct luks_edit *edit, size_t slot, struct error *error)
{
    size_t length = in_memory(luks_material_length(edit->luks, slot));
    uint8_t *random = malloc(length);
    int result = random != NULL ? crypto_random(random, length) : -ENOMEM;

    if (result == 0) {
        result = write_emptied(edit, slot, random);
    }
    free(random);
    return result < 0 ? slot_failed(edit, slot, result, "erased", error) : 0;
}
