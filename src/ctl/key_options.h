/* SPDX-License-Identifier: MIT */
/*
 * How the commands that need more than one kind of key are told which file is what: flags of our
 * own, or QEMU's words for it (--object secret,id=ID,file=FILE, and the ID in an encrypt.* option).
 */
#ifndef CTL_KEY_OPTIONS_H
#define CTL_KEY_OPTIONS_H

#include "util/error.h"

/* An entry of a flag table; `member` of `target` is a char *. */
#define FLAG_OBJECT(target, member)                                                      \
    {                                                                                    \
        .name = "object", .type = OPTION_SEVERAL, .field = offsetof(target, member),     \
        .value_name = "secret,id=ID,file=FILE",                                          \
        .help = "as of qemu-img: a key file, which an encrypt.* option names by this ID" \
    }

/*
 * The key files that are meant, as keys_open() takes them, in *list, owned by the caller; NULL
 * where none was named. `files` is what a flag of ours, `flag`, has collected; `id` what the option
 * `option` names of `objects`. -EINVAL with a sentence where both are there, or there is no such
 * object; -ENOMEM.
 */
struct key_option {
    const char *flag, *files; /* "--key-file" */
    const char *option, *id;  /* "encrypt.key-secret" */
};
int key_option_list(const struct key_option *key, const char *objects, char **list,
                    struct error *error);

#endif
