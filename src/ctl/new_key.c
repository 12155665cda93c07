/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/new_key.h"

#include "disk/keys.h"
#include "meta/format.h"

#include <errno.h>
#include <stdlib.h>

/* Nothing says of the old AES that a key is right: whatever is given makes the cipher. */
static int make_old(struct ctl *ctl, const char *path, struct keys *keys, struct new_key *made)
{
    const struct keys_image image = {.path = path, .crypt_method = CRYPT_AES};

    log_line(ctl->log, LOG_LEVEL_WARNING,
             "%s: the old AES is weak: its key is the first 16 bytes of the passphrase as they "
             "are, and nothing tells a wrong one; use encrypt.format=luks where that is known",
             path);
    return keys_unlock(keys, &image, &made->cipher, &ctl->error);
}

static int make(struct ctl *ctl, const char *path, const struct create_parameters *parameters,
                const struct key_option *key, struct keys *keys, struct new_key *made)
{
    const struct secret *secret;
    int result = keys_new(keys, path, "an encrypted image", &secret, &ctl->error);

    if (result == -ENOKEY) {
        return error_set(&ctl->error, ENOKEY,
                         "%s: is to be encrypted, and no key was given: give one with %s=FILE, or "
                         "at a terminal",
                         path, key->flag);
    }
    if (result < 0) {
        return result;
    }
    return parameters->crypt_method == CRYPT_AES
               ? make_old(ctl, path, keys, made)
               : luks_make(&parameters->luks, secret, path, &made->header, &made->cipher,
                           &ctl->error);
}

int ctl_new_key(struct ctl *ctl, const char *path, const struct create_parameters *parameters,
                const struct key_option *key, const char *objects, struct new_key *made)
{
    struct keys *keys = NULL;
    char *list;
    int result = key_option_list(key, objects, &list, &ctl->error);

    *made = (struct new_key){0};
    if (result == 0) {
        result = keys_open(list, 0, &keys, &ctl->error);
    }
    if (result == 0) {
        result = make(ctl, path, parameters, key, keys, made);
    }
    keys_close(keys);
    free(list);
    return result;
}

void ctl_new_key_free(struct new_key *made)
{
    free(made->header);
    cipher_destroy(made->cipher);
    *made = (struct new_key){0};
}
