/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/keys.h"

#include "crypto/library.h"
#include "crypto/secret.h"
#include "meta/format.h"
#include "meta/luks.h"
#include "util/checked.h"
#include "util/printable.h"
#include "util/prompt.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AES_KEY_LENGTH 16 /* bytes: the beginning of the passphrase, and zeros (crypt_method 1) */
#define READ_FIRST     ((size_t)4096)

struct keys {
    uint32_t iterations_max;
    size_t count;
    bool typed;   /* none was given: the user is asked */
    int terminal; /* there, opened before what is encrypted is; or a negative errno */
    struct secret *keys[KEYS_FILES_MAX];
    char
        *owners[KEYS_FILES_MAX]; /* the path of the image that took it first, or it was typed for */
    bool of_aes[KEYS_FILES_MAX]; /* the owner has the old AES */
};

#define HOW_TO_GIVE \
    "give one with -o key-file=FILE, or --key-file=FILE of qcow2ctl, or at a terminal"

/* --- Reading key files ---------------------------------------------------------------------- */

/* A secret twice as long, with the same beginning. */
static int enlarge(struct secret **secret)
{
    struct secret *larger;
    int result = secret_create(2 * (*secret)->length, &larger);

    if (result == 0) {
        memcpy(larger->bytes, (*secret)->bytes, (*secret)->length);
        secret_destroy(*secret);
        *secret = larger;
    }
    return result;
}

/* All of the file, as it is: a newline at its end is a part of the key, as for QEMU. */
static int read_all(int file, struct secret **secret)
{
    size_t length = 0;
    int result = secret_create(READ_FIRST, secret);

    while (result == 0) {
        ssize_t count;

        if (length == (*secret)->length) {
            result = length > KEY_LENGTH_MAX ? -EFBIG : enlarge(secret);
            continue;
        }
        count = read(file, (*secret)->bytes + length, (*secret)->length - length);
        if (count == 0) {
            break;
        }
        if (count < 0 && errno != EINTR) {
            result = -errno;
        }
        length += count > 0 ? (size_t)count : 0;
    }
    if (result == 0 && length > KEY_LENGTH_MAX) {
        result = -EFBIG;
    }
    if (result < 0) {
        secret_destroy(*secret);
        *secret = NULL;
        return result;
    }
    (*secret)->length = length;
    return 0;
}

static int add_file(struct keys *keys, const char *path, struct error *error)
{
    bool is_input = strcmp(path, "-") == 0;
    struct secret *secret = NULL;
    int result = 0, file;

    if (keys->count == KEYS_FILES_MAX) {
        return error_set(error, EINVAL, "key-file=%s: at most %d key files can be given", path,
                         KEYS_FILES_MAX);
    }
    file = is_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (file < 0) {
        result = -errno;
    } else {
        result = read_all(file, &secret);
    }
    if (file >= 0 && !is_input) {
        close(file);
    }
    if (result == -EFBIG) {
        return error_set(error, EFBIG, "key-file=%s: is longer than a key can be, 8 MiB", path);
    }
    if (result < 0) {
        return error_set(error, -result, "key-file=%s: cannot be read: %s", path,
                         strerror(-result));
    }
    keys->keys[keys->count++] = secret;
    return 0;
}

static int add_files(struct keys *keys, const char *list, struct error *error)
{
    char *path = malloc(strlen(list) + 1);
    int result = 0;

    if (path == NULL) {
        return error_set(error, ENOMEM, "out of memory");
    }
    while (*list != '\0' && result == 0) {
        list = options_next_several(list, path);
        result = add_file(keys, path, error);
    }
    free(path);
    return result;
}

/* What systemd has put there for this service. */
static int add_credential(struct keys *keys, struct error *error)
{
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    char *path;
    int result = 0;

    if (directory == NULL || *directory != '/') {
        return 0;
    }
    if (asprintf(&path, "%s/" KEYS_CREDENTIAL, directory) < 0) {
        return error_set(error, ENOMEM, "out of memory");
    }
    if (access(path, F_OK) == 0) {
        result = add_file(keys, path, error);
    }
    free(path);
    return result;
}

uint32_t keys_iterations_max(const struct option_number *option)
{
    return option->set ? (uint32_t)option->value : LUKS_ITERATIONS_MAX;
}

int keys_open(const char *list, uint32_t iterations_max, struct keys **keys, struct error *error)
{
    struct keys *opened = calloc(1, sizeof(*opened));
    int result;

    *keys = NULL;
    if (opened == NULL) {
        return error_set(error, ENOMEM, "out of memory");
    }
    opened->terminal = -ENOTTY;
    opened->iterations_max = iterations_max == 0 ? UINT32_MAX : iterations_max;
    result = list != NULL ? add_files(opened, list, error) : add_credential(opened, error);
    if (result < 0) {
        keys_close(opened);
        return result;
    }
    opened->typed = opened->count == 0;
    if (opened->typed) {
        opened->terminal = prompt_open();
    }
    *keys = opened;
    return 0;
}

void keys_close(struct keys *keys)
{
    if (keys != NULL) {
        for (size_t i = 0; i < keys->count; i++) {
            secret_destroy(keys->keys[i]);
            free(keys->owners[i]);
        }
        if (keys->terminal >= 0) {
            close(keys->terminal);
        }
        free(keys);
    }
}

/* --- Using them --------------------------------------------------------------------------------
 */

/* The key is that of the image, of which it was the first. */
static int take(struct keys *keys, size_t index, const char *path, struct error *error)
{
    if (keys->owners[index] == NULL) {
        keys->owners[index] = strdup(path);
    }
    return keys->owners[index] == NULL ? error_set(error, ENOMEM, "out of memory") : 0;
}

/* What is typed is the last key then. */
static int type_key(struct keys *keys, const char *asked, const char *path, struct error *error)
{
    struct secret *secret;
    char *question;
    size_t length;
    int result;

    if (keys->count == KEYS_FILES_MAX) {
        return -EKEYREJECTED;
    }
    if (secret_create(KEY_TYPED_MAX, &secret) < 0) {
        return error_set(error, ENOMEM, "out of memory");
    }
    if (asprintf(&question, "%s for %s: ", asked, path) < 0) {
        secret_destroy(secret);
        return error_set(error, ENOMEM, "out of memory");
    }
    printable_clean(question); /* an image may have named the path */
    result = prompt_hidden(keys->terminal, question, (char *)secret->bytes, KEY_TYPED_MAX, &length);
    free(question);
    if (result < 0) {
        secret_destroy(secret);
        return result == -ENOTTY
                   ? error_set(error, ENOKEY,
                               "%s: is encrypted, and no key was given: " HOW_TO_GIVE, path)
                   : error_set(error, -result, "%s: its passphrase could not be asked for: %s",
                               path, strerror(-result));
    }
    secret->length = length;
    keys->keys[keys->count++] = secret;
    return 0;
}

/* What the user types for this image is kept: others of the chain may have the same. */
static int ask(struct keys *keys, const char *path, struct error *error)
{
    int result = type_key(keys, "Passphrase", path, error);

    return result == 0 ? take(keys, keys->count - 1, path, error) : result;
}

/*
 * Which key is that of the image, with the old AES. A wrong one shows another disk, and nobody can
 * tell: so what was typed for another image, or is another's, is not taken for it. Images are
 * opened from the top down, some of them twice.
 */
static int find_aes_key(struct keys *keys, const char *path, size_t *index, struct error *error)
{
    size_t none = keys->count, last = 0;
    int result = 0;

    for (size_t i = 0; i < keys->count; i++) {
        if (keys->owners[i] == NULL) {
            none = min_size(none, i);
        } else if (strcmp(keys->owners[i], path) == 0) {
            *index = i;
            return 0;
        } else if (keys->of_aes[i]) {
            last = i;
        }
    }
    *index = none;
    if (none == keys->count && keys->typed) {
        result = ask(keys, path, error);
        if (result == -EKEYREJECTED) {
            return error_set(error, EKEYREJECTED, "%s: too many passphrases were asked for", path);
        }
    } else if (none == keys->count) {
        *index = last; /* one for several images */
    }
    if (result == 0) {
        keys->of_aes[*index] = true;
        result = take(keys, *index, path, error);
    }
    return result;
}

/* The old method: a passphrase is the key. */
static int unlock_aes(struct keys *keys, const struct keys_image *image, struct cipher **cipher,
                      struct error *error)
{
    static const struct cipher_kind kind = {
        .name = "aes",
        .mode = "cbc",
        .iv = "plain64",
        .iv_hash = "",
    };
    struct secret *key;
    const struct secret *given;
    size_t index;
    int result = find_aes_key(keys, image->path, &index, error);

    if (result < 0) {
        return result;
    }
    given = keys->keys[index];
    if (given->length == 0) { /* end of input, more likely than a key of nothing but zeros */
        return error_set(error, EKEYREJECTED,
                         "%s: an empty key is none of an image with the old AES: " HOW_TO_GIVE,
                         image->path);
    }
    result = secret_create(AES_KEY_LENGTH, &key);
    if (result == 0) {
        memcpy(key->bytes, given->bytes, min_size(AES_KEY_LENGTH, given->length));
        result = cipher_create(&kind, key->bytes, key->length, cipher);
        secret_destroy(key);
    }
    return result < 0 ? error_set(error, -result, "%s: its key cannot be prepared: %s", image->path,
                                  strerror(-result))
                      : 0;
}

static int refuse_keys(const struct keys *keys, const struct luks_lock *lock, struct error *error)
{
    const struct secret *last = keys->keys[keys->count - 1];
    bool newline = !keys->typed && keys->count == 1 && last->length > 0 &&
                   last->bytes[last->length - 1] == '\n';
    char skipped[200];

    luks_tell_skipped(lock, skipped, sizeof(skipped));
    return error_set(
        error, EKEYREJECTED, "%s: %s%s%s", lock->name,
        keys->count == 1 ? "the key is not one of this image"
                         : "none of the keys is one of this image",
        newline ? "; the file ends in a newline, which counts as a part of the key" : "", skipped);
}

static int unlock_luks(struct keys *keys, const struct keys_image *image, struct cipher **cipher,
                       struct error *error)
{
    struct luks luks;
    const struct luks_lock lock = {
        .file = image->file,
        .offset = image->crypt_header_offset,
        .length = image->crypt_header_length,
        .name = image->path,
        .luks = &luks,
        .iterations_max = keys->iterations_max,
    };
    size_t slot, tried = 0;
    bool asked = false;
    int result = luks_read(image->file, image->crypt_header_offset, image->crypt_header_length,
                           image->path, &luks, error);

    if (result < 0) {
        return result;
    }
    do {
        if (tried == keys->count) {
            result = keys->typed && !asked ? ask(keys, image->path, error) : -EKEYREJECTED;
            asked = true;
        }
        if (tried < keys->count) {
            result = luks_unlock(&lock, keys->keys[tried++], cipher, &slot, error);
        }
    } while (result == -EKEYREJECTED && (tried < keys->count || (keys->typed && !asked)));
    if (result == -EKEYREJECTED) {
        return refuse_keys(keys, &lock, error);
    }
    return result == 0 ? take(keys, tried - 1, image->path, error) : result;
}

int keys_unlock(struct keys *keys, const struct keys_image *image, struct cipher **cipher,
                struct error *error)
{
    const char *missing = crypto_missing();
    bool luks = image->crypt_method == CRYPT_LUKS;

    *cipher = NULL;
    if (missing != NULL || crypto_begin() < 0) {
        return error_set(error, ENOSYS,
                         "%s: is encrypted with %s (crypt_method %" PRIu32
                         "), and this qcow2fs was built without %s; install that library and "
                         "build qcow2fs again",
                         image->path, luks ? "LUKS" : "AES", image->crypt_method,
                         missing != NULL ? missing : "a libgcrypt that is new enough");
    }
    return luks ? unlock_luks(keys, image, cipher, error) : unlock_aes(keys, image, cipher, error);
}

/* --- Something new -----------------------------------------------------------------------------
 */

/* Twice: nobody sees what is typed, and nobody could find out what it was. */
static int type_twice(struct keys *keys, const char *path, struct error *error)
{
    const struct secret *first, *again;
    int result = type_key(keys, "New passphrase", path, error);

    if (result == 0) {
        result = type_key(keys, "The same again", path, error);
    }
    if (result < 0) {
        return result;
    }
    first = keys->keys[keys->count - 2];
    again = keys->keys[keys->count - 1];
    if (first->length != again->length || memcmp(first->bytes, again->bytes, first->length) != 0) {
        return error_set(error, EINVAL, "%s: what was typed is not the same twice", path);
    }
    return 0;
}

int keys_new(struct keys *keys, const char *path, const char *what, const struct secret **secret,
             struct error *error)
{
    int result = 0;

    if (!keys->typed && keys->count != 1) {
        return error_set(error, EINVAL, "%s: %zu key files were given, and %s has one key", path,
                         keys->count, what);
    }
    if (keys->typed) {
        result = type_twice(keys, path, error);
    }
    if (result < 0) {
        return result;
    }
    *secret = keys->keys[keys->count - 1];
    if ((*secret)->length == 0) {
        return error_set(error, EINVAL,
                         "%s: the new key is empty, which would keep out nobody; give another one",
                         path);
    }
    return 0;
}

int keys_one(struct keys *keys, const char *path, const char *what, const struct secret **secret,
             struct error *error)
{
    int result = 0;

    if (what != NULL) {
        return keys_new(keys, path, what, secret, error);
    }
    if (!keys->typed && keys->count != 1) {
        return error_set(error, EINVAL, "%s: %zu key files were given, and one is wanted", path,
                         keys->count);
    }
    if (keys->typed) {
        result = type_key(keys, "Passphrase", path, error);
    }
    *secret = result == 0 ? keys->keys[keys->count - 1] : NULL;
    return result;
}
