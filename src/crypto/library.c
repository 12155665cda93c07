/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "crypto/library.h"

#ifdef HAVE_GCRYPT

#include "crypto/library_internal.h"

#include <errno.h>
#include <gcrypt.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The library's own memory for expanded keys: some 300 contexts of AES, 60 of Twofish. */
#define POOL_SIZE 524288

/*
 * The library has one state for the whole process, and this is a part of it: where its memory for
 * keys is. Written once, by begin(), which pthread_once() has all others wait for.
 */
static struct {
    pthread_once_t once;
    bool ready;
    void *pool; /* NULL where it could not be found */
} library = {.once = PTHREAD_ONCE_INIT};

/*
 * The library locks its pool but leaves it in core dumps, and does not say where it is. What is
 * taken first lies at its beginning.
 */
static void *find_pool(void)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    void *first = gcry_malloc_secure(1);
    uintptr_t offset = (uintptr_t)first & (page - 1);

    gcry_free(first);
    return first != NULL && offset < 64 ? (uint8_t *)first - offset : NULL;
}

static void begin(void)
{
    if (gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P) != 0) {
        library.ready = true; /* somebody else in this process uses it */
        return;
    }
    if (gcry_check_version("1.8.0") == NULL) {
        return;
    }
    gcry_control(GCRYCTL_DISABLE_SECMEM_WARN); /* it would go to stderr; see crypto_lock() */
    gcry_control(GCRYCTL_DISABLE_PRIV_DROP);
    if (gcry_control(GCRYCTL_INIT_SECMEM, POOL_SIZE, 0) == 0) {
        library.pool = find_pool();
    }
    gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
    if (library.pool != NULL) {
        (void)madvise(library.pool, POOL_SIZE, MADV_DONTDUMP);
    }
    library.ready = true;
}

const char *crypto_missing(void)
{
    return NULL;
}

int crypto_begin(void)
{
    pthread_once(&library.once, begin);
    return library.ready ? 0 : -ENOSYS;
}

bool crypto_lock(void)
{
    return crypto_begin() == 0 && library.pool != NULL && mlock(library.pool, POOL_SIZE) == 0;
}

int crypto_random(void *bytes, size_t length)
{
    int result = crypto_begin();

    if (result == 0) {
        gcry_randomize(bytes, length, GCRY_STRONG_RANDOM);
    }
    return result;
}

int crypto_hash(const char *name)
{
    static const struct {
        const char *name;
        int number;
    } hashes[] = {
        {"sha256", GCRY_MD_SHA256},
        {"sha1", GCRY_MD_SHA1},
        {"sha224", GCRY_MD_SHA224},
        {"sha384", GCRY_MD_SHA384},
        {"sha512", GCRY_MD_SHA512},
        {"ripemd160", GCRY_MD_RMD160},
        {"whirlpool", GCRY_MD_WHIRLPOOL},
        {"md5", GCRY_MD_MD5},
#if GCRYPT_VERSION_NUMBER >= 0x010900
        {"sm3", GCRY_MD_SM3},
#endif
    };

    for (size_t i = 0; i < sizeof(hashes) / sizeof(hashes[0]); i++) {
        if (strcmp(name, hashes[i].name) == 0) {
            return gcry_md_test_algo(hashes[i].number) == 0 ? hashes[i].number : 0;
        }
    }
    return 0;
}

bool crypto_knows_hash(const char *name)
{
    return crypto_begin() == 0 && crypto_hash(name) != 0;
}

size_t crypto_hash_length(const char *name)
{
    return crypto_knows_hash(name) ? gcry_md_get_algo_dlen(crypto_hash(name)) : 0;
}

#endif
