/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "meta/luks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LUKS_SECTOR UINT64_C(512)

/* A field that is filled up with zeros, and need not end in one. */
static void take_text(const uint8_t *field, size_t length, char *text)
{
    memcpy(text, field, length);
    text[length] = '\0';
}

/* "xts-plain64", "cbc-essiv:sha256" */
static void split_mode(struct luks *luks)
{
    char *dash = strchr(luks->mode, '-');
    char *colon;

    if (dash == NULL) {
        return;
    }
    *dash = '\0';
    strcpy(luks->iv, dash + 1);
    colon = strchr(luks->iv, ':');
    if (colon != NULL) {
        *colon = '\0';
        strcpy(luks->iv_hash, colon + 1);
    }
}

static void decode(const uint8_t *bytes, struct luks *luks)
{
    uint64_t key_bits = UINT64_C(8) * load_be32(bytes + LUKS_KEY_BYTES);

    memset(luks, 0, sizeof(*luks));
    take_text(bytes + LUKS_CIPHER_MODE, LUKS_TEXT_LENGTH, luks->mode);
    take_text(bytes + LUKS_HASH, LUKS_TEXT_LENGTH, luks->hash);
    take_text(bytes + LUKS_UUID, LUKS_UUID_LENGTH, luks->uuid);
    take_text(bytes + LUKS_CIPHER_NAME, LUKS_TEXT_LENGTH, luks->cipher_name);
    split_mode(luks);
    if (strcmp(luks->mode, "xts") == 0) {
        key_bits /= 2; /* it has two keys */
    }
    snprintf(luks->cipher, sizeof(luks->cipher), "%s-%" PRIu64, luks->cipher_name, key_bits);
    luks->key_bytes = load_be32(bytes + LUKS_KEY_BYTES);
    memcpy(luks->digest, bytes + LUKS_DIGEST, sizeof(luks->digest));
    memcpy(luks->salt, bytes + LUKS_SALT, sizeof(luks->salt));
    luks->master_key_iterations = load_be32(bytes + LUKS_MASTER_KEY_ITERATIONS);
    luks->payload_offset = LUKS_SECTOR * load_be32(bytes + LUKS_PAYLOAD_OFFSET);
    for (size_t i = 0; i < LUKS_SLOTS; i++) {
        const uint8_t *slot = bytes + LUKS_KEY_SLOTS + i * LUKS_SLOT_LENGTH;

        struct luks_slot *to = &luks->slots[i];

        *to = (struct luks_slot){
            .active = load_be32(slot + LUKS_SLOT_STATE) == LUKS_SLOT_ACTIVE,
            .state = load_be32(slot + LUKS_SLOT_STATE),
            .iterations = load_be32(slot + LUKS_SLOT_ITERATIONS),
            .key_offset = LUKS_SECTOR * load_be32(slot + LUKS_SLOT_KEY_OFFSET),
            .stripes = load_be32(slot + LUKS_SLOT_STRIPES),
        };
        memcpy(to->salt, slot + LUKS_SLOT_SALT, sizeof(to->salt));
    }
}

int luks_read(struct store *file, uint64_t offset, uint64_t length, const char *name,
              struct luks *luks, struct error *error)
{
    uint8_t bytes[LUKS_LENGTH];
    int result;

    if (length < LUKS_LENGTH || offset > INT64_MAX - LUKS_LENGTH) {
        return error_set(error, EINVAL,
                         "%s: the encryption header, %" PRIu64 " bytes at offset 0x%" PRIx64
                         ", cannot be one of LUKS; the header is damaged, use an intact copy of "
                         "the image",
                         name, length, offset);
    }
    result = store_read(file, offset, bytes, sizeof(bytes));
    if (result < 0) {
        return error_set(error, -result,
                         "%s: the encryption header at offset 0x%" PRIx64 " cannot be read: %s",
                         name, offset, strerror(-result));
    }
    if (memcmp(bytes, LUKS_MAGIC, strlen(LUKS_MAGIC)) != 0 ||
        load_be16(bytes + LUKS_VERSION) != 1) {
        return error_set(error, EINVAL,
                         "%s: there is no LUKS header of version 1 at offset 0x%" PRIx64
                         ", where the image says that it is; use an intact copy of the image",
                         name, offset);
    }
    decode(bytes, luks);
    return 0;
}
