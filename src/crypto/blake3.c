/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "crypto/blake3.h"

#ifdef HAVE_BLAKE3

#include <blake3.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define LIBRARY "libblake3.so.0"

_Static_assert(BLAKE3_BYTES == BLAKE3_OUT_LEN, "the digest is the library's");

/* Filled in once, and never changed from then on. */
static struct {
    pthread_once_t once;
    __typeof__(&blake3_hasher_init) init;
    __typeof__(&blake3_hasher_update) update;
    __typeof__(&blake3_hasher_finalize) finalize;
} library = {.once = PTHREAD_ONCE_INIT};

struct blake3 {
    blake3_hasher state;
};

static void load(void)
{
    void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    void *init, *update, *finalize;

    if (handle == NULL) {
        return;
    }
    init = dlsym(handle, "blake3_hasher_init");
    update = dlsym(handle, "blake3_hasher_update");
    finalize = dlsym(handle, "blake3_hasher_finalize");
    if (init != NULL && update != NULL && finalize != NULL) {
        memcpy(&library.init, &init, sizeof(init));
        memcpy(&library.update, &update, sizeof(update));
        memcpy(&library.finalize, &finalize, sizeof(finalize));
    }
}

const char *blake3_missing(void)
{
    pthread_once(&library.once, load);
    return library.init != NULL ? NULL : LIBRARY;
}

struct blake3 *blake3_create(void)
{
    struct blake3 *made = blake3_missing() == NULL ? malloc(sizeof(*made)) : NULL;

    if (made != NULL) {
        library.init(&made->state);
    }
    return made;
}

void blake3_destroy(struct blake3 *blake3)
{
    free(blake3);
}

void blake3_add(struct blake3 *blake3, const void *bytes, size_t length)
{
    library.update(&blake3->state, bytes, length);
}

void blake3_take(struct blake3 *blake3, uint8_t digest[BLAKE3_BYTES])
{
    library.finalize(&blake3->state, digest, BLAKE3_BYTES);
    library.init(&blake3->state);
}

#else

const char *blake3_missing(void)
{
    return "libblake3";
}

struct blake3 *blake3_create(void)
{
    return NULL;
}

void blake3_destroy(struct blake3 *blake3)
{
    (void)blake3;
}

void blake3_add(struct blake3 *blake3, const void *bytes, size_t length)
{
    (void)blake3;
    (void)bytes;
    (void)length;
}

void blake3_take(struct blake3 *blake3, uint8_t digest[BLAKE3_BYTES])
{
    (void)blake3;
    (void)digest;
}

#endif
