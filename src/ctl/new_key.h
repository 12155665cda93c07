/* SPDX-License-Identifier: MIT */
/* The key of an image that is made encrypted. */
#ifndef CTL_NEW_KEY_H
#define CTL_NEW_KEY_H

#include "admin/create.h"
#include "crypto/cipher.h"
#include "ctl/command.h"
#include "ctl/key_options.h"

/* Both owned by the caller: free(), cipher_destroy(). */
struct new_key {
    uint8_t *header;       /* with LUKS: of luks_area_length() bytes, for struct create_target */
    struct cipher *cipher; /* of the disk */
};

/*
 * What opens the disk of an image at `path` that is made with `parameters`: of a passphrase that
 * `key` and `objects` name (key_option_list()), or that is typed twice. Takes as long as the user
 * wants it to. 0, or a negative errno with a sentence, and there is nothing.
 */
int ctl_new_key(struct ctl *ctl, const char *path, const struct create_parameters *parameters,
                const struct key_option *key, const char *objects, struct new_key *made);

void ctl_new_key_free(struct new_key *made);

#endif
