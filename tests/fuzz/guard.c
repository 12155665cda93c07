/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "guard.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

/* Without AddressSanitizer, files in memory count too, and what malloc() keeps for later. */
#define ROUGHLY (UINT64_C(192) << 20)

/* Of the sanitizer's run-time library, where it is linked. */
int __sanitizer_install_malloc_and_free_hooks(void (*allocated)(const volatile void *, size_t),
                                              void (*freed)(const volatile void *))
    __attribute__((weak));
size_t __sanitizer_get_allocated_size(const volatile void *memory) __attribute__((weak));

/* The hooks get no context: this is a global because it cannot be anything else. */
static struct {
    bool installed;
    atomic_int_fast64_t live; /* bytes allocated since the hooks were installed, less those freed */
    atomic_int_fast64_t limit; /* 0: none */
    uint64_t first_peak;       /* without hooks: bytes, before the first input */
} counted;

void guard_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "%s:%d: this must be, and is not: %s", file, line, condition);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    abort();
}

void guard_trace(const char *format, ...)
{
    va_list arguments;

    if (getenv("QCOW2FS_FUZZ_TRACE") == NULL) {
        return;
    }
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static void allocated(const volatile void *memory, size_t size)
{
    int_fast64_t live, limit;

    (void)memory;
    live = atomic_fetch_add(&counted.live, (int_fast64_t)size) + (int_fast64_t)size;
    limit = atomic_load(&counted.limit);
    if (limit > 0 && live > limit) {
        atomic_store(&counted.limit, 0); /* the message allocates */
        guard_failed(__FILE__, __LINE__, "memory within its limit",
                     "(%zu bytes more were asked for)", size);
    }
}

static void freed(const volatile void *memory)
{
    if (memory != NULL) {
        atomic_fetch_sub(&counted.live, (int_fast64_t)__sanitizer_get_allocated_size(memory));
    }
}

static uint64_t peak_memory(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0;
}

void guard_begin(uint64_t bytes)
{
    if (__sanitizer_install_malloc_and_free_hooks == NULL) {
        if (counted.first_peak == 0) {
            counted.first_peak = peak_memory();
        }
        return;
    }
    if (!counted.installed) {
        counted.installed = true;
        __sanitizer_install_malloc_and_free_hooks(allocated, freed);
    }
    atomic_store(&counted.limit, atomic_load(&counted.live) + (int_fast64_t)bytes);
}

void guard_end(void)
{
    atomic_store(&counted.limit, 0);
    if (__sanitizer_install_malloc_and_free_hooks == NULL) {
        uint64_t grown = peak_memory() - counted.first_peak;

        FUZZ_EXPECT(grown < ROUGHLY, "(the process grew by %" PRIu64 " bytes)", grown);
    }
}
