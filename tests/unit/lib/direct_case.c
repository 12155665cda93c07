/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "direct_case.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef REPLACED_CALLS
struct direct_host direct_host;

/* What the host tells (UINT32_MAX: nothing), for tests that run with each of them. */
static const struct {
    unsigned block, memory;
} alignments[DIRECT_ALIGNMENTS] = {{0, 0}, {512, 512}, {4096, 4096}, {8192, 512}, {UINT32_MAX, 0}};

int statx(int fd, const char *path, int flags, unsigned mask, struct statx *status)
{
    int rc = (int)syscall(SYS_statx, fd, path, flags, mask, status);

    if (direct_host.silent) {
        status->stx_mask &= ~STATX_DIOALIGN;
    } else if (direct_host.block != 0) {
        status->stx_mask |= STATX_DIOALIGN;
        status->stx_dio_offset_align = direct_host.block;
        status->stx_dio_mem_align = direct_host.memory;
    }
    return rc;
}

int fcntl(int fd, int command, ...)
{
    va_list arguments;
    unsigned long argument;

    va_start(arguments, command);
    argument = va_arg(arguments, unsigned long);
    va_end(arguments);
    if (direct_host.refuses && command == F_SETFL && (argument & O_DIRECT) != 0) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

/* The length that the host takes; 0: none, with errno. */
static size_t host_takes(uintptr_t memory, size_t length, off_t offset)
{
    size_t block = direct_host.least != 0 ? direct_host.least : direct_host.block;

    atomic_fetch_add(&direct_host.transfers, 1);
    if (block != 0 && ((size_t)offset % block != 0 || length % block != 0 ||
                       memory % (direct_host.least != 0 ? block : direct_host.memory) != 0)) {
        errno = EINVAL;
        return 0;
    }
    return direct_host.most != 0 && length > direct_host.most ? direct_host.most : length;
}

ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
    size_t part = host_takes((uintptr_t)buffer, length, offset);
    ssize_t done;

    if (part == 0 && length > 0) {
        return -1;
    }
    done = syscall(SYS_pread64, fd, buffer, length, offset);
    return done < (ssize_t)part ? done : (ssize_t)part;
}

ssize_t pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
    size_t part = host_takes((uintptr_t)buffer, length, offset);
    ssize_t done;

    if (direct_host.error != 0 && direct_host.errors_after-- == 0) {
        errno = direct_host.error;
        return -1;
    }
    if (part == 0 && length > 0) {
        return -1;
    }
    if (direct_host.most != 0) {
        direct_host.last_memory = buffer;
    }
    done = syscall(SYS_pwrite64, fd, buffer, length, offset);
    return done < (ssize_t)part ? done : (ssize_t)part;
}

int fdatasync(int fd)
{
    atomic_fetch_add(&direct_host.syncs, 1);
    return (int)syscall(SYS_fdatasync, fd);
}
#endif

void direct_restore(void)
{
#ifdef REPLACED_CALLS
    memset(&direct_host, 0, sizeof(direct_host));
#endif
}

void direct_ask_for(int number)
{
    direct_restore();
#ifdef REPLACED_CALLS
    direct_host.silent = alignments[number].block == UINT32_MAX;
    direct_host.block = direct_host.silent ? 0 : alignments[number].block;
    direct_host.memory = alignments[number].memory;
#else
    (void)number;
#endif
}

struct store *direct_open(const char *path)
{
    const struct store_file_options options = {.access = STORE_WRITE, .cache = STORE_CACHE_NONE};
    struct store *store = NULL;
    struct error error;
    int result = store_file_open(path, "image", &options, &store, &error);

    if (result == -EINVAL && strstr(error.text, "O_DIRECT") != NULL) {
        return NULL;
    }
    ck_assert_msg(result == 0, "%s", error.text);
    return store;
}

void direct_fill(uint8_t *bytes, size_t length, unsigned *seed)
{
    for (size_t i = 0; i < length; i++) {
        bytes[i] = (uint8_t)(rand_r(seed) % 255 + 1);
    }
}

off_t direct_size(const char *path)
{
    struct stat status;

    ck_assert_int_eq(stat(path, &status), 0);
    return status.st_size;
}

void direct_expect_file(const char *path, const uint8_t *bytes, size_t size)
{
    uint8_t *found = malloc(size + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t at = 0;
    ssize_t done;

    ck_assert_ptr_nonnull(found);
    ck_assert_int_ge(fd, 0);
    while ((done = read(fd, found + at, size + 1 - at)) > 0) {
        at += (size_t)done;
    }
    ck_assert_uint_eq(at, size);
    for (at = 0; at < size; at++) {
        ck_assert_msg(found[at] == bytes[at], "byte %zu is %d, not %d", at, found[at], bytes[at]);
    }
    close(fd);
    free(found);
}
