/* SPDX-License-Identifier: MIT */
#include "config.h"

#ifdef HAVE_LIBNBD

#include "store/nbd_library.h"

#include <dlfcn.h>
#include <string.h>

#define LIBRARY "libnbd.so.0"

const char *nbd_library_load(struct nbd_library *library)
{
    void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE), *symbol;

    if (handle == NULL) {
        return LIBRARY;
    }
#define TAKE(name)                        \
    symbol = dlsym(handle, "nbd_" #name); \
    if (symbol == NULL) {                 \
        return "nbd_" #name;              \
    }                                     \
    memcpy(&library->name, &symbol, sizeof(symbol));
    NBD_FUNCTIONS(TAKE)
    return NULL;
}

#else

typedef int nbd_library_is_not_built; /* a file is not empty */

#endif
