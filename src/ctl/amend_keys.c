/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/amend_keys.h"

#include "admin/amend_keys.h"
#include "ctl/key_options.h"
#include "disk/keys.h"
#include "meta/luks_write.h"
#include "util/json.h"
#include "util/printable.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum state { /* by the place of the words in the table */
    STATE_ACTIVE,
    STATE_INACTIVE,
};

bool amend_keys_given(const struct amend_key_options *options)
{
    return options->state.set || options->slot.set || options->iteration_time.set ||
           options->key_secret != NULL || options->new_secret != NULL ||
           options->old_secret != NULL || options->new_files != NULL ||
           options->old_files != NULL || options->force.set;
}

static int refuse(struct ctl *ctl, const char *sentence)
{
    return error_set(&ctl->error, EINVAL, "%s: %s", ctl->operands[0], sentence);
}

int amend_keys_usage(struct ctl *ctl, const struct amend_key_options *options,
                     const struct common_flags *common)
{
    bool fresh = options->new_secret != NULL || options->new_files != NULL;
    bool old = options->old_secret != NULL || options->old_files != NULL;

    if (!options->state.set) {
        return refuse(ctl, "what shall be done with its keys is not said; add -o "
                           "encrypt.state=active or encrypt.state=inactive");
    }
    if (options->state.value == STATE_ACTIVE) {
        return 0;
    }
    if (fresh || options->iteration_time.set) {
        return refuse(ctl, "encrypt.state=inactive erases a key, and takes no new one; leave out "
                           "what is said of that, or use encrypt.state=active");
    }
    if (!old && !options->slot.set) {
        return refuse(ctl, "which key shall be erased is not said; add encrypt.keyslot=N, or "
                           "--old-key-file=FILE");
    }
    if (common->key_files != NULL || options->key_secret != NULL) {
        return refuse(ctl, "to erase a key no other is needed; leave out --key-file, or name the "
                           "key that shall be erased with --old-key-file");
    }
    return 0;
}

/* --- The keys ----------------------------------------------------------------------------------
 */

struct opened_keys {
    struct keys *key, *fresh, *old;
};

static int open_keys(struct ctl *ctl, const struct amend_key_options *options,
                     const struct key_option *key, const char *what, struct keys **keys,
                     const struct secret **secret)
{
    char *list;
    int result = key_option_list(key, options->objects, &list, &ctl->error);

    if (result == 0) {
        result = keys_open(list, 0, keys, &ctl->error);
    }
    if (result == 0) {
        result = keys_one(*keys, ctl->operands[0], what, secret, &ctl->error);
    }
    free(list);
    return result;
}

static int open_old(struct ctl *ctl, const struct amend_key_options *options,
                    struct opened_keys *opened, struct amend_keys *keys)
{
    const struct key_option old = {"--old-key-file", options->old_files, "encrypt.old-secret",
                                   options->old_secret};

    return old.files != NULL || old.id != NULL
               ? open_keys(ctl, options, &old, NULL, &opened->old, &keys->old)
               : 0;
}

/* What is typed is asked for in this order: the key that opens the disk, then the new one. */
static int open_all(struct ctl *ctl, const struct amend_key_options *options,
                    const struct common_flags *common, struct opened_keys *opened,
                    struct amend_keys *keys)
{
    const struct key_option key = {"--key-file", common->key_files, "encrypt.key-secret",
                                   options->key_secret};
    const struct key_option fresh = {"--new-key-file", options->new_files, "encrypt.new-secret",
                                     options->new_secret};
    int result = open_old(ctl, options, opened, keys);

    if (result < 0 || options->state.value == STATE_INACTIVE) {
        return result;
    }
    if (keys->old != NULL && key.files == NULL && key.id == NULL) {
        keys->key = keys->old; /* it opens the disk, too */
    } else {
        result = open_keys(ctl, options, &key, NULL, &opened->key, &keys->key);
    }
    return result == 0 ? open_keys(ctl, options, &fresh, "a key slot", &opened->fresh, &keys->fresh)
                       : result;
}

/* --- What was done -----------------------------------------------------------------------------
 */

static void print_slots(const char *what, uint32_t slots)
{
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        if ((slots & UINT32_C(1) << i) != 0) {
            printable_line(stdout, "Key slot %u %s.", i, what);
        }
    }
}

static struct json *slot_list(uint32_t slots)
{
    struct json *list = json_new_array();

    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        if ((slots & UINT32_C(1) << i) != 0) {
            json_add_number(list, i);
        }
    }
    return list;
}

static int print_json(struct ctl *ctl, const struct amend_keys_done *done)
{
    struct json *object = json_new_object(), *now = json_new_object();
    int result;

    json_put(now, "keyslots-filled", slot_list(done->filled));
    json_put(now, "keyslots-erased", slot_list(done->emptied));
    json_put_text(object, "filename", ctl->operands[0]);
    json_put_text(object, "format", "qcow2");
    json_put(object, "amended", now);
    result = ctl_print_json(ctl, object);
    json_free(object);
    return result;
}

int amend_keys_run(struct ctl *ctl, const struct amend_key_options *options,
                   const struct common_flags *common, struct image *image)
{
    struct amend_keys keys = {
        .slot = options->slot.set ? (uint32_t)options->slot.value : AMEND_ANY_SLOT,
        .iteration_time = options->iteration_time.set ? (uint32_t)options->iteration_time.value
                                                      : LUKS_ITER_TIME_DEFAULT,
        .iterations_max = keys_iterations_max(&common->key_iterations_max),
        .force = options->force.value,
    };
    struct amend_keys_done done = {0};
    struct opened_keys opened = {0};
    int result = open_all(ctl, options, common, &opened, &keys);

    keys.iterations_max = keys.iterations_max == 0 ? UINT32_MAX : keys.iterations_max;
    if (result == 0) {
        result = amend_keys(image, &keys, &done, &ctl->error);
    }
    keys_close(opened.fresh);
    keys_close(opened.key);
    keys_close(opened.old);
    if (result == 0) {
        ctl_done(ctl, ctl->operands[0], "is amended");
    }
    if (result == 0 && command_prints_json(common)) {
        return print_json(ctl, &done);
    }
    if (!common->quiet.value && !command_prints_json(common)) { /* also what was done before */
        print_slots("is in use now", done.filled);
        print_slots("is erased", done.emptied);
    }
    return result;
}
