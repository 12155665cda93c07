/* SPDX-License-Identifier: MIT */
/* Any bytes as the encryption header of an image: read, and tried with a passphrase. */
#include "config.h"

#include "guard.h"
#include "memory_store.h"
#include "meta/luks.h"
#include "target.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NAME       "image"
#define ITERATIONS 50 /* the most that are allowed: an input is to take no time */
#define STRIPES    3
#define KEY_BYTES  32

const char *const target_name = "luks";
const size_t target_most = 16 << 10;

/* A refusal is a sentence that begins with the name. */
static void expect_sentence(const struct error *error)
{
    FUZZ_EXPECT(strncmp(error->text, NAME ": ", strlen(NAME ": ")) == 0, "%s", error->text);
}

static void try_passphrase(struct store *store, const struct luks *luks, size_t size)
{
    const struct luks_lock lock = {store, 0, size, NAME, luks, ITERATIONS};
    struct error error = {0};
    struct secret *secret;
    struct cipher *cipher;
    size_t slot = 0;
    int result;

    FUZZ_EXPECT(secret_copy("passphrase", 10, &secret) == 0);
    result = luks_unlock(&lock, secret, &cipher, &slot, &error);
    FUZZ_EXPECT((result == 0) == (cipher != NULL) && slot < LUKS_SLOTS);
    if (result < 0 && result != -EKEYREJECTED) {
        expect_sentence(&error);
    }
    cipher_destroy(cipher);
    secret_destroy(secret);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct store *store = memory_store_from(data, size);
    struct error error = {0};
    struct luks luks;

    guard_begin(GUARD_MEMORY);
    if (luks_read(store, 0, size, NAME, &luks, &error) < 0) {
        expect_sentence(&error);
    } else {
        for (size_t i = 0; i < LUKS_SLOTS; i++) {
            FUZZ_EXPECT(luks_slot_overlap(&luks, i) <= LUKS_SLOTS);
            (void)luks_slot_problem(&luks, size, i, ITERATIONS);
        }
        try_passphrase(store, &luks, size);
    }
    guard_end();
    store_close(store);
    return 0;
}

/* Headers that are in order but for the digest of their key. */
uint8_t *target_seed(unsigned number, size_t *size)
{
    static const char *const modes[] = {"cbc-plain64", "cbc-essiv:sha256", "xts-plain64", "ecb-"};
    uint8_t *bytes;

    if (number >= sizeof(modes) / sizeof(modes[0])) {
        return NULL;
    }
    *size = 2048;
    bytes = calloc(1, *size);
    FUZZ_EXPECT(bytes != NULL);
    memcpy(bytes, LUKS_MAGIC, strlen(LUKS_MAGIC));
    store_be16(bytes + LUKS_VERSION, 1);
    strcpy((char *)bytes + LUKS_CIPHER_NAME, number == 2 ? "aes" : "serpent");
    strcpy((char *)bytes + LUKS_CIPHER_MODE, modes[number]);
    strcpy((char *)bytes + LUKS_HASH, number % 2 == 0 ? "sha256" : "ripemd160");
    store_be32(bytes + LUKS_KEY_BYTES, KEY_BYTES);
    store_be32(bytes + LUKS_MASTER_KEY_ITERATIONS, 2);
    for (size_t slot = 0; slot < 2; slot++) {
        uint8_t *field = bytes + LUKS_KEY_SLOTS + slot * LUKS_SLOT_LENGTH;

        store_be32(field + LUKS_SLOT_STATE, LUKS_SLOT_ACTIVE);
        store_be32(field + LUKS_SLOT_ITERATIONS, 2);
        store_be32(field + LUKS_SLOT_KEY_OFFSET, (uint32_t)(2 + slot));
        store_be32(field + LUKS_SLOT_STRIPES, STRIPES);
    }
    return bytes;
}
