/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/amend_keys.h"

#include "crypto/library.h"
#include "meta/format.h"
#include "meta/header_write.h"
#include "meta/luks_write.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct change {
    struct image *image;
    const struct amend_keys *keys;
    struct amend_keys_done *done;
    struct luks luks;
    struct luks_edit edit;
    struct error *error;
};

static struct luks_lock lock_of(const struct change *change)
{
    return (struct luks_lock){
        .file = change->edit.file,
        .offset = change->edit.offset,
        .length = change->edit.length,
        .name = change->edit.name,
        .luks = &change->luks,
        .iterations_max = change->keys->iterations_max,
    };
}

/* Whether a slot can be tried: a hostile header asks for nothing more here. */
static bool can_try(const struct change *change, size_t slot)
{
    return change->luks.slots[slot].active &&
           luks_slot_problem(&change->luks, change->edit.length, slot,
                             change->keys->iterations_max) == NULL;
}

/* Before the first write. */
static int begin(struct change *change)
{
    int result = header_clear_unknown(change->edit.file, change->image->header); /* R6 */

    return result == 0 ? 0
                       : error_set(change->error, -result, "%s: its header cannot be written: %s",
                                   change->edit.name, strerror(-result));
}

/* --- Adding ----------------------------------------------------------------------------------- */

static int choose_slot(const struct change *change, size_t *slot)
{
    const char *name = change->edit.name;

    if (change->keys->slot != AMEND_ANY_SLOT) {
        *slot = change->keys->slot;
        return change->luks.slots[*slot].active
                   ? error_set(change->error, EEXIST,
                               "%s: key slot %zu is in use; erase it first, or leave out "
                               "encrypt.keyslot for one that is not",
                               name, *slot)
                   : 0;
    }
    for (*slot = 0; *slot < LUKS_SLOTS; ++*slot) {
        struct error ignored = {0};

        if (!change->luks.slots[*slot].active &&
            luks_check_slot(&change->edit, *slot, &ignored) == 0) {
            return 0;
        }
    }
    return error_set(change->error, ENOSPC,
                     "%s: all %d key slots are in use; erase one first, with "
                     "encrypt.state=inactive,encrypt.keyslot=N",
                     name, LUKS_SLOTS);
}

static int add(struct change *change)
{
    const struct luks_lock lock = lock_of(change);
    struct secret *master = NULL;
    size_t opened, slot = 0;
    int result = choose_slot(change, &slot);

    if (result == 0) {
        result = luks_check_slot(&change->edit, slot, change->error);
    }
    if (result == 0) {
        result = luks_unlock_key(&lock, change->keys->key, &master, &opened, change->error);
        if (result == -EKEYREJECTED) {
            result = error_set(change->error, EKEYREJECTED, "%s: the key is not one of this image",
                               change->edit.name);
        }
    }
    if (result == 0) {
        result = begin(change);
    }
    if (result == 0) {
        result = luks_fill_slot(&change->edit, slot, master, change->keys->fresh,
                                change->keys->iteration_time, change->error);
    }
    if (result == 0) {
        change->done->filled |= UINT32_C(1) << slot;
    }
    secret_destroy(master);
    return result;
}

/* --- Erasing ---------------------------------------------------------------------------------- */

/* The slots that the old key opens, but for the one that was just filled, as bits. */
static int find_old(const struct change *change, uint32_t *found)
{
    const struct luks_lock lock = lock_of(change);
    int result = 0;

    *found = 0;
    for (size_t i = 0; i < LUKS_SLOTS && result == 0; i++) {
        struct secret *master;

        if ((change->done->filled & UINT32_C(1) << i) != 0 || !can_try(change, i)) {
            continue;
        }
        result = luks_unlock_slot(&lock, i, change->keys->old, &master, change->error);
        secret_destroy(master);
        *found |= result == 0 ? UINT32_C(1) << i : 0;
        result = result == -EKEYREJECTED ? 0 : result;
    }
    return result;
}

static int choose_emptied(const struct change *change, uint32_t *chosen)
{
    const struct amend_keys *keys = change->keys;
    uint32_t named = UINT32_C(1) << (keys->slot % LUKS_SLOTS);
    int result = 0;

    *chosen = named;
    if (keys->old != NULL) {
        result = find_old(change, chosen);
    }
    if (result < 0 || keys->old == NULL) {
        return result;
    }
    if (*chosen == 0) {
        return error_set(change->error, EKEYREJECTED,
                         "%s: the old key is that of no key slot in use", change->edit.name);
    }
    if (keys->fresh == NULL && keys->slot != AMEND_ANY_SLOT) {
        if ((*chosen & named) == 0) {
            return error_set(change->error, EKEYREJECTED,
                             "%s: the old key is not that of key slot %" PRIu32, change->edit.name,
                             keys->slot);
        }
        *chosen = named;
    }
    return 0;
}

/* How many usable slots would be left. */
static size_t left(const struct change *change, uint32_t chosen)
{
    struct luks luks = change->luks;
    struct luks_edit edit = change->edit;

    edit.luks = &luks;
    for (size_t i = 0; i < LUKS_SLOTS; i++) {
        if ((chosen & UINT32_C(1) << i) != 0) {
            luks.slots[i].active = false;
        }
    }
    return luks_usable_slots(&edit);
}

static int empty(struct change *change)
{
    uint32_t chosen;
    int result = choose_emptied(change, &chosen);

    if (result == 0 && !change->keys->force && left(change, chosen) == 0) {
        return error_set(change->error, EPERM,
                         "%s: no key slot would be left, and nobody could ever read its disk "
                         "again; add another key first, or --force if that is what is wanted",
                         change->edit.name);
    }
    for (size_t i = 0; i < LUKS_SLOTS && result == 0; i++) {
        if ((chosen & UINT32_C(1) << i) != 0) {
            result = luks_check_slot(&change->edit, i, change->error);
        }
    }
    if (result == 0) {
        result = begin(change);
    }
    for (size_t i = 0; i < LUKS_SLOTS && result == 0; i++) {
        if ((chosen & UINT32_C(1) << i) != 0) {
            result = luks_empty_slot(&change->edit, i, change->error);
            change->done->emptied |= result == 0 ? UINT32_C(1) << i : 0;
        }
    }
    return result;
}

/* --- All of it -------------------------------------------------------------------------------- */

static int open_header(struct image *image, struct change *change)
{
    const struct header *header = image->header;

    if (header->crypt_method != CRYPT_LUKS) {
        return error_set(change->error, EINVAL, "%s: %s: only an image with LUKS has key slots",
                         image->path,
                         header->crypt_method == CRYPT_AES
                             ? "is encrypted with the old AES, whose key is the passphrase itself"
                             : "is not encrypted");
    }
    if (crypto_missing() != NULL || crypto_begin() < 0) {
        return error_set(change->error, ENOSYS,
                         "%s: its keys cannot be changed: this qcow2ctl was built without %s",
                         image->path,
                         crypto_missing() != NULL ? crypto_missing()
                                                  : "a libgcrypt that is new "
                                                    "enough");
    }
    change->edit = (struct luks_edit){
        .file = image->file,
        .offset = header->crypt_header_offset,
        .length = header->crypt_header_length,
        .name = image->path,
        .luks = &change->luks,
    };
    return luks_read(image->file, header->crypt_header_offset, header->crypt_header_length,
                     image->path, &change->luks, change->error);
}

int amend_keys(struct image *image, const struct amend_keys *keys, struct amend_keys_done *done,
               struct error *error)
{
    struct change change = {.image = image, .keys = keys, .done = done, .error = error};
    int result = open_header(image, &change);

    *done = (struct amend_keys_done){0};
    if (result == 0 && (change.luks.key_bytes == 0 || change.luks.key_bytes > CIPHER_KEY_MAX)) {
        result = error_set(error, EINVAL,
                           "%s: its LUKS header is damaged: a master key of %" PRIu32 " bytes",
                           image->path, change.luks.key_bytes);
    }
    if (result == 0 && keys->fresh != NULL) {
        result = add(&change);
    }
    if (result == 0 && (keys->old != NULL || keys->fresh == NULL)) {
        result = empty(&change);
    }
    return result;
}
