/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "crypto/cipher.h"
#include "meta/luks.h"
#include "util/checked.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

struct looking {
    const struct luks *luks;
    uint64_t length; /* of the area, bytes */
    luks_fault_fn *tell;
    void *context;
};

static void tell(const struct looking *looking, bool is_error, uint64_t at, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void tell(const struct looking *looking, bool is_error, uint64_t at, const char *format, ...)
{
    char text[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    looking->tell(looking->context, is_error, at, text);
}

static uint64_t slot_at(size_t slot)
{
    return LUKS_KEY_SLOTS + slot * LUKS_SLOT_LENGTH;
}

/* --- The header --------------------------------------------------------------------------- */

static void look_at_key(const struct looking *looking)
{
    const struct luks *luks = looking->luks;

    if (luks->key_bytes == 0 || luks->key_bytes > CIPHER_KEY_MAX) {
        tell(looking, true, LUKS_KEY_BYTES,
             "a master key of %" PRIu32 " bytes is impossible: nobody can open it",
             luks->key_bytes);
    }
    if (luks->master_key_iterations == 0) {
        tell(looking, true, LUKS_MASTER_KEY_ITERATIONS,
             "the digest of its master key has no iteration at all: nobody can open it");
    } else if (luks->master_key_iterations < LUKS_ITERATIONS_MIN) {
        tell(looking, false, LUKS_MASTER_KEY_ITERATIONS,
             "the digest of its master key has %" PRIu32 " iterations, fewer than the %" PRIu32
             " of any program that makes such headers",
             luks->master_key_iterations, LUKS_ITERATIONS_MIN);
    }
}

static void look_at_payload(const struct looking *looking)
{
    uint64_t payload = looking->luks->payload_offset;

    if (payload < LUKS_LENGTH) {
        tell(looking, true, LUKS_PAYLOAD_OFFSET,
             "its payload would begin at byte %" PRIu64 ", inside the header of %d bytes", payload,
             LUKS_LENGTH);
    } else if (payload < looking->length) {
        tell(looking, false, LUKS_PAYLOAD_OFFSET,
             "its payload would begin at byte %" PRIu64 ", inside its area of %" PRIu64
             " bytes, which is the header's as a whole",
             payload, looking->length);
    }
}

/* --- Its slots ---------------------------------------------------------------------------- */

static bool is_state_known(uint32_t state)
{
    return state == LUKS_SLOT_ACTIVE || state == LUKS_SLOT_DEAD;
}

static void look_at_iterations(const struct looking *looking, size_t slot)
{
    uint32_t iterations = looking->luks->slots[slot].iterations;
    uint64_t at = slot_at(slot) + LUKS_SLOT_ITERATIONS;

    if (iterations > 0 && iterations < LUKS_ITERATIONS_MIN) {
        tell(looking, false, at,
             "key slot %zu has %" PRIu32 " iterations, fewer than %" PRIu32
             ": its passphrase is guessed quickly; exchange it with qcow2ctl amend",
             slot, iterations, LUKS_ITERATIONS_MIN);
    } else if (iterations > LUKS_ITERATIONS_MAX) {
        tell(looking, false, at,
             "key slot %zu has %" PRIu32 " iterations: only key-iterations-max= lets it be tried",
             slot, iterations);
    }
}

/* Where its key material is. Of two slots in use it is told once, with the first. */
static void look_at_material(const struct looking *looking, size_t slot)
{
    const struct luks *luks = looking->luks;
    uint64_t begin = luks->slots[slot].key_offset;
    uint64_t end = begin + luks_material_length(luks, slot);
    uint64_t at = slot_at(slot) + LUKS_SLOT_KEY_OFFSET;

    if (luks->payload_offset >= LUKS_LENGTH && end > luks->payload_offset) {
        tell(looking, true, at,
             "key slot %zu, of bytes %" PRIu64 " to %" PRIu64 ", overlaps the payload, which "
             "would begin at byte %" PRIu64,
             slot, begin, end, luks->payload_offset);
    }
    for (size_t other = 0; other < LUKS_SLOTS; other++) {
        bool active = luks->slots[other].active;

        if ((active && other <= slot) ||
            !ranges_overlap(begin, end - begin, luks->slots[other].key_offset,
                            luks_material_length(luks, other))) {
            continue;
        }
        tell(looking, active, at,
             "key slots %zu and %zu overlap: their key material begins at bytes %" PRIu64
             " and %" PRIu64 "%s",
             slot, other, begin, luks->slots[other].key_offset,
             active ? "" : "; the second is not in use, and must not be");
    }
}

static void look_at_slot(const struct looking *looking, size_t slot)
{
    const struct luks *luks = looking->luks;
    const char *problem;

    if (!is_state_known(luks->slots[slot].state)) {
        tell(looking, false, slot_at(slot) + LUKS_SLOT_STATE,
             "key slot %zu has the unknown state 0x%08" PRIx32 ", and is not in use", slot,
             luks->slots[slot].state);
    }
    if (!luks->slots[slot].active) {
        return; /* what it says is of no use to anybody, and is made anew with a key */
    }
    problem = luks_slot_problem(luks, looking->length, slot, UINT32_MAX);
    if (problem != NULL) {
        tell(looking, true, slot_at(slot), "key slot %zu cannot be used: %s", slot, problem);
    }
    look_at_iterations(looking, slot);
    look_at_material(looking, slot);
}

void luks_faults(const struct luks *luks, uint64_t length, luks_fault_fn *fn, void *context)
{
    const struct looking looking = {luks, length, fn, context};
    size_t active = 0;

    look_at_key(&looking);
    look_at_payload(&looking);
    for (size_t slot = 0; slot < LUKS_SLOTS; slot++) {
        look_at_slot(&looking, slot);
        active += luks->slots[slot].active;
    }
    if (active == 0) {
        tell(&looking, false, LUKS_KEY_SLOTS,
             "no key slot is in use: all its keys were erased, and nobody can read it any more");
    }
}
