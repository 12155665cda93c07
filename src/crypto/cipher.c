/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "crypto/cipher.h"

#ifdef HAVE_GCRYPT

#include "crypto/library.h"
#include "crypto/library_internal.h"
#include "crypto/secret.h"
#include "util/bytes.h"
#include "util/checked.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_MAX 16 /* bytes */

/*
 * More contexts than processors would be memory for keys, which there is little of, and no work
 * done earlier: who finds none idle waits for the end of a piece.
 */
#define CONTEXTS_MIN 2
#define CONTEXTS_MAX 64

enum iv_kind {
    IV_NONE,
    IV_PLAIN,   /* the sector's number in 32 bits */
    IV_PLAIN64, /* in 64 bits */
    IV_ESSIV,   /* that, encrypted with the hash of the key */
};

struct context {
    gcry_cipher_hd_t data;
    gcry_cipher_hd_t essiv; /* NULL where the IV is not encrypted */
    struct context *next;
};

struct cipher {
    int algorithm, mode;
    int essiv_algorithm; /* 0 without */
    enum iv_kind iv;
    size_t block; /* bytes */
    struct secret *key, *essiv_key;

    pthread_mutex_t mutex; /* guards what follows; a leaf */
    pthread_cond_t idle_again;
    struct context *idle;
    unsigned contexts, contexts_max;
};

/* --- What is known ---------------------------------------------------------------------- */

/* The algorithm of a cipher with a key of `key_length` bytes; 0: there is none. */
static int find_algorithm(const char *name, size_t key_length)
{
    static const struct {
        const char *name;
        size_t key_length;
        int number;
    } algorithms[] = {
        {"aes", 16, GCRY_CIPHER_AES128},           {"aes", 24, GCRY_CIPHER_AES192},
        {"aes", 32, GCRY_CIPHER_AES256},           {"serpent", 16, GCRY_CIPHER_SERPENT128},
        {"serpent", 24, GCRY_CIPHER_SERPENT192},   {"serpent", 32, GCRY_CIPHER_SERPENT256},
        {"twofish", 16, GCRY_CIPHER_TWOFISH128},   {"twofish", 32, GCRY_CIPHER_TWOFISH},
        {"cast5", 16, GCRY_CIPHER_CAST5},          {"camellia", 16, GCRY_CIPHER_CAMELLIA128},
        {"camellia", 24, GCRY_CIPHER_CAMELLIA192}, {"camellia", 32, GCRY_CIPHER_CAMELLIA256},
    };

    for (size_t i = 0; i < sizeof(algorithms) / sizeof(algorithms[0]); i++) {
        if (strcmp(name, algorithms[i].name) == 0 && key_length == algorithms[i].key_length) {
            return gcry_cipher_test_algo(algorithms[i].number) == 0 ? algorithms[i].number : 0;
        }
    }
    return 0;
}

static int find_mode(const char *name)
{
    static const struct {
        const char *name;
        int number;
    } modes[] = {
        {"xts", GCRY_CIPHER_MODE_XTS},
        {"cbc", GCRY_CIPHER_MODE_CBC},
        {"ecb", GCRY_CIPHER_MODE_ECB},
        {"ctr", GCRY_CIPHER_MODE_CTR},
    };

    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(name, modes[i].name) == 0) {
            return modes[i].number;
        }
    }
    return GCRY_CIPHER_MODE_NONE;
}

static bool find_iv(const char *name, enum iv_kind *iv)
{
    static const char *const names[] = {"", "plain", "plain64", "essiv"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            *iv = (enum iv_kind)i;
            return true;
        }
    }
    return false;
}

/* --- Creating ----------------------------------------------------------------------------- */

/* The key of ESSIV is the hash of the key; the cipher is the same, with a key of that length. */
static int prepare_essiv(struct cipher *cipher, const struct cipher_kind *kind)
{
    int hash = crypto_hash(kind->iv_hash), result;
    size_t length;

    if (hash == 0) {
        return -ENOTSUP;
    }
    length = gcry_md_get_algo_dlen(hash);
    cipher->essiv_algorithm = find_algorithm(kind->name, length);
    if (cipher->essiv_algorithm == 0) {
        return -ENOTSUP;
    }
    result = secret_create(length, &cipher->essiv_key);
    if (result == 0) {
        gcry_md_hash_buffer(hash, cipher->essiv_key->bytes, cipher->key->bytes,
                            cipher->key->length);
    }
    return result;
}

static int prepare(struct cipher *cipher, const struct cipher_kind *kind, const void *key,
                   size_t key_length)
{
    int result;

    cipher->mode = find_mode(kind->mode);
    if (cipher->mode == GCRY_CIPHER_MODE_NONE || !find_iv(kind->iv, &cipher->iv)) {
        return -ENOTSUP;
    }
    if (cipher->mode == GCRY_CIPHER_MODE_XTS && key_length % 2 != 0) {
        return -ENOTSUP;
    }
    cipher->algorithm = find_algorithm(
        kind->name, cipher->mode == GCRY_CIPHER_MODE_XTS ? key_length / 2 : key_length);
    if (cipher->algorithm == 0) {
        return -ENOTSUP;
    }
    cipher->block = gcry_cipher_get_algo_blklen(cipher->algorithm);
    if (cipher->block > BLOCK_MAX ||
        (cipher->mode == GCRY_CIPHER_MODE_XTS && cipher->block != 16)) {
        return -ENOTSUP;
    }
    if (cipher->mode == GCRY_CIPHER_MODE_ECB) {
        cipher->iv = IV_NONE; /* whatever is said of one */
    } else if (cipher->iv == IV_NONE) {
        return -ENOTSUP;
    }
    result = secret_copy(key, key_length, &cipher->key);
    return result == 0 && cipher->iv == IV_ESSIV ? prepare_essiv(cipher, kind) : result;
}

static void context_destroy(struct context *context)
{
    gcry_cipher_close(context->data); /* wipes it; NULL is possible */
    gcry_cipher_close(context->essiv);
    free(context);
}

static int open_handle(gcry_cipher_hd_t *handle, int algorithm, int mode, const struct secret *key)
{
    if (gcry_cipher_open(handle, algorithm, mode, GCRY_CIPHER_SECURE) != 0) {
        *handle = NULL;
        return -ENOMEM;
    }
    /* Weak keys of a cipher are keys: the key was another's choice. */
    switch (gcry_err_code(gcry_cipher_setkey(*handle, key->bytes, key->length))) {
    case GPG_ERR_NO_ERROR:
    case GPG_ERR_WEAK_KEY:
        return 0;
    default:
        return -ENOTSUP;
    }
}

static int context_create(const struct cipher *cipher, struct context **context)
{
    int result;

    *context = calloc(1, sizeof(**context));
    if (*context == NULL) {
        return -ENOMEM;
    }
    result = open_handle(&(*context)->data, cipher->algorithm, cipher->mode, cipher->key);
    if (result == 0 && cipher->iv == IV_ESSIV) {
        result = open_handle(&(*context)->essiv, cipher->essiv_algorithm, GCRY_CIPHER_MODE_ECB,
                             cipher->essiv_key);
    }
    if (result < 0) {
        context_destroy(*context);
        *context = NULL;
    }
    return result;
}

int cipher_create(const struct cipher_kind *kind, const void *key, size_t key_length,
                  struct cipher **cipher)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    struct cipher *created;
    int result = crypto_begin();

    *cipher = NULL;
    if (result < 0) {
        return result;
    }
    created = calloc(1, sizeof(*created));
    if (created == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_init(&created->mutex, NULL);
    pthread_cond_init(&created->idle_again, NULL);
    created->contexts_max = (unsigned)min_u64(
        CONTEXTS_MAX, processors > CONTEXTS_MIN ? (uint64_t)processors : CONTEXTS_MIN);
    result = prepare(created, kind, key, key_length);
    if (result == 0) {
        result = context_create(created, &created->idle); /* there is always one */
    }
    if (result < 0) {
        cipher_destroy(created);
        return result;
    }
    created->contexts = 1;
    *cipher = created;
    return 0;
}

int cipher_create_random(struct cipher **cipher)
{
    static const struct cipher_kind kind = {
        .name = "aes",
        .mode = "xts",
        .iv = "plain64",
        .iv_hash = "",
    };
    struct secret *key = NULL;
    int result = crypto_begin();

    *cipher = NULL;
    if (result == 0) {
        result = secret_create(CIPHER_KEY_MAX, &key);
    }
    if (result == 0) {
        gcry_randomize(key->bytes, key->length, GCRY_STRONG_RANDOM);
        result = cipher_create(&kind, key->bytes, key->length, cipher);
    }
    secret_destroy(key);
    return result;
}

void cipher_destroy(struct cipher *cipher)
{
    if (cipher == NULL) {
        return;
    }
    while (cipher->idle != NULL) {
        struct context *context = cipher->idle;

        cipher->idle = context->next;
        context_destroy(context);
    }
    secret_destroy(cipher->essiv_key);
    secret_destroy(cipher->key);
    pthread_cond_destroy(&cipher->idle_again);
    pthread_mutex_destroy(&cipher->mutex);
    free(cipher);
}

bool cipher_lock(const struct cipher *cipher)
{
    bool locked = secret_lock(cipher->key);

    return (cipher->essiv_key == NULL || secret_lock(cipher->essiv_key)) && locked;
}

static bool is_aes(const struct cipher *cipher)
{
    return cipher->algorithm == GCRY_CIPHER_AES128 || cipher->algorithm == GCRY_CIPHER_AES192 ||
           cipher->algorithm == GCRY_CIPHER_AES256;
}

size_t cipher_piece(const struct cipher *cipher)
{
    /* Some 20 us for AES where the processor has instructions for it, and 300 us for the others. */
    return (size_t)(is_aes(cipher) ? 128 : 32) << 10;
}

/* --- Contexts --------------------------------------------------------------------------------- */

/* An idle one, or a new one, or one that another thread is done with. */
static struct context *borrow(struct cipher *cipher)
{
    struct context *context;

    pthread_mutex_lock(&cipher->mutex);
    if (cipher->idle == NULL && cipher->contexts < cipher->contexts_max) {
        cipher->contexts++;
        pthread_mutex_unlock(&cipher->mutex);
        if (context_create(cipher, &context) == 0) {
            return context;
        }
        pthread_mutex_lock(&cipher->mutex); /* no memory for more than there are */
        cipher->contexts_max = --cipher->contexts;
    }
    while (cipher->idle == NULL) {
        pthread_cond_wait(&cipher->idle_again, &cipher->mutex);
    }
    context = cipher->idle;
    cipher->idle = context->next;
    pthread_mutex_unlock(&cipher->mutex);
    return context;
}

static void give_back(struct cipher *cipher, struct context *context)
{
    pthread_mutex_lock(&cipher->mutex);
    context->next = cipher->idle;
    cipher->idle = context;
    pthread_cond_signal(&cipher->idle_again);
    pthread_mutex_unlock(&cipher->mutex);
}

/* --- Work --------------------------------------------------------------------------------------
 */

static gcry_error_t set_iv(const struct cipher *cipher, const struct context *context,
                           uint64_t sector)
{
    uint8_t iv[BLOCK_MAX] = {0};
    gcry_error_t error = 0;

    if (cipher->iv == IV_NONE) {
        return 0;
    }
    if (cipher->iv == IV_PLAIN) {
        sector &= UINT32_MAX;
    }
    for (size_t i = 0; i < sizeof(sector); i++) {
        iv[i] = (uint8_t)(sector >> 8 * i);
    }
    if (cipher->iv == IV_ESSIV) {
        error = gcry_cipher_encrypt(context->essiv, iv, cipher->block, NULL, 0);
    }
    if (error != 0) {
        return error;
    }
    return cipher->mode == GCRY_CIPHER_MODE_CTR
               ? gcry_cipher_setctr(context->data, iv, cipher->block)
               : gcry_cipher_setiv(context->data, iv, cipher->block);
}

/* Sector by sector; `from` NULL: decrypts `to` where it is. */
static int work(struct cipher *cipher, uint64_t sector, const uint8_t *from, uint8_t *to,
                size_t length)
{
    struct context *context;
    gcry_error_t error = 0;

    if (length % cipher->block != 0) {
        return -EINVAL;
    }
    context = borrow(cipher);
    while (length > 0 && error == 0) {
        size_t part = min_size(length, CIPHER_SECTOR);

        error = set_iv(cipher, context, sector);
        if (error == 0) {
            error = from != NULL
                        ? gcry_cipher_encrypt(context->data, to, part, from == to ? NULL : from,
                                              from == to ? 0 : part)
                        : gcry_cipher_decrypt(context->data, to, part, NULL, 0);
        }
        from = from != NULL ? from + part : NULL;
        to += part;
        length -= part;
        sector++;
    }
    give_back(cipher, context);
    return error == 0 ? 0 : -EIO;
}

int cipher_decrypt(struct cipher *cipher, uint64_t sector, void *bytes, size_t length)
{
    return work(cipher, sector, NULL, bytes, length);
}

int cipher_encrypt(struct cipher *cipher, uint64_t sector, const void *from, void *to,
                   size_t length)
{
    return work(cipher, sector, from, to, length);
}

#endif
