/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "crypto/secret.h"

#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int secret_create(size_t length, struct secret **secret)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct secret *created;
    uint64_t mapped;
    void *pages;

    *secret = NULL;
    if (!checked_round_up(length == 0 ? 1 : length, page, &mapped) || mapped > SIZE_MAX) {
        return -ENOMEM;
    }
    created = malloc(sizeof(*created));
    if (created == NULL) {
        return -ENOMEM;
    }
    pages =
        mmap(NULL, in_memory(mapped), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
        free(created);
        return -ENOMEM;
    }
    (void)madvise(pages, in_memory(mapped), MADV_DONTDUMP);
    *created = (struct secret){.bytes = pages, .length = length, .mapped = in_memory(mapped)};
    (void)secret_lock(created);
    *secret = created;
    return 0;
}

int secret_copy(const void *bytes, size_t length, struct secret **secret)
{
    int result = secret_create(length, secret);

    if (result == 0 && length > 0) {
        memcpy((*secret)->bytes, bytes, length);
    }
    return result;
}

void secret_destroy(struct secret *secret)
{
    if (secret != NULL) {
        explicit_bzero(secret->bytes, secret->mapped);
        munmap(secret->bytes, secret->mapped);
        free(secret);
    }
}

bool secret_lock(const struct secret *secret)
{
    return mlock(secret->bytes, secret->mapped) == 0;
}
