/* SPDX-License-Identifier: MIT */
/* qcow2ctl amend -o encrypt.*: the key slots of an image with LUKS. */
#ifndef CTL_AMEND_KEYS_H
#define CTL_AMEND_KEYS_H

#include "ctl/command.h"
#include "disk/image.h"

/* What the tables of amend fill for it. Zeros: not given. */
struct amend_key_options {
    struct option_number state, slot, iteration_time;
    char *key_secret, *new_secret, *old_secret; /* IDs of --object */
    char *new_files, *old_files, *objects;
    struct option_bool force;
};

/* Whether anything of the kind is asked for. */
bool amend_keys_given(const struct amend_key_options *options);

/* What contradicts itself: a negative errno with a sentence, or 0. */
int amend_keys_usage(struct ctl *ctl, const struct amend_key_options *options,
                     const struct common_flags *common);

/* Does it, and says what was done. 0, or a negative errno with a sentence. */
int amend_keys_run(struct ctl *ctl, const struct amend_key_options *options,
                   const struct common_flags *common, struct image *image);

#endif
