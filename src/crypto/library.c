/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "crypto/library.h"

#ifdef HAVE_GCRYPT

#include "crypto/library_internal.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The library's own memory for expanded keys: some 300 contexts of AES, 60 of Twofish. */
#define POOL_SIZE 524288

#define LIBRARY "libgcrypt.so.20"

struct crypto_functions crypto_functions;

static pthread_once_t loading = PTHREAD_ONCE_INIT;
static bool is_loaded;

static void load(void)
{
    void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    bool complete = handle != NULL;

#define TAKE(name)                                               \
    if (complete) {                                              \
        void *symbol = dlsym(handle, "gcry_" #name);             \
                                                                 \
        complete = symbol != NULL;                               \
        memcpy(&crypto_functions.name, &symbol, sizeof(symbol)); \
    }
    CRYPTO_FUNCTIONS(TAKE)
#undef TAKE
    is_loaded = complete;
}

struct area {
    void *begin; /* NULL: there is none */
    size_t length;
};

/*
 * The library locks its pool but leaves it in core dumps, and does not say where it is: in the
 * mapping that has what is taken of it, and in the same, perhaps, there are other secrets.
 */
static struct area find_pool(void)
{
    void *taken = gcry_malloc_secure(1);
    uintptr_t address = (uintptr_t)taken, begin, end;
    struct area pool = {0};
    FILE *maps = taken != NULL ? fopen("/proc/self/maps", "re") : NULL;
    char line[512];

    while (maps != NULL && pool.begin == NULL && fgets(line, sizeof(line), maps) != NULL) {
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &begin, &end) == 2 && begin <= address &&
            address < end) {
            pool =
                (struct area){.begin = (uint8_t *)taken - (address - begin), .length = end - begin};
        }
    }
    if (maps != NULL) {
        fclose(maps);
    }
    gcry_free(taken);
    return pool;
}

/* Makes the pool, and takes it out of core dumps: it is a mapping of its own from then on. */
static void begin(void)
{
    uint8_t *first;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), offset;

    gcry_control(GCRYCTL_DISABLE_SECMEM_WARN); /* it would go to stderr; see crypto_lock() */
    gcry_control(GCRYCTL_DISABLE_PRIV_DROP);
    if (gcry_control(GCRYCTL_INIT_SECMEM, POOL_SIZE, 0) != 0) {
        gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
        return;
    }
    gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
    first = gcry_malloc_secure(1); /* at the beginning of the pool, behind what describes it */
    offset = (uintptr_t)first & (page - 1);
    if (first != NULL && offset < 64) {
        (void)madvise(first - offset, POOL_SIZE, MADV_DONTDUMP);
    }
    gcry_free(first);
}

const char *crypto_missing(void)
{
    return NULL;
}

int crypto_begin(void)
{
    pthread_once(&loading, load);
    if (!is_loaded) {
        return -ENOSYS;
    }
    if (gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P) != 0) {
        return 0; /* by us, or somebody else in this process uses it */
    }
    if (gcry_check_version("1.8.0") == NULL) {
        return -ENOSYS;
    }
    begin();
    return 0;
}

bool crypto_lock(void)
{
    struct area pool = {0};

    if (crypto_begin() == 0) {
        pool = find_pool();
    }
    return pool.begin != NULL && mlock(pool.begin, pool.length) == 0;
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
