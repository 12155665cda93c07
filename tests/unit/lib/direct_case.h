/* SPDX-License-Identifier: MIT */
/*
 * What the suites of direct I/O share: a host whose answers can be chosen, and
 * files that are opened past its page cache. For programs that name direct_case.c
 * among their sources: it takes the place of calls of the C library.
 */
#ifndef UNIT_DIRECT_CASE_H
#define UNIT_DIRECT_CASE_H

#include "store/file.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/*
 * The host's calls, as they are but for these wishes; each transfer is checked
 * for what the host has asked for (64-bit off_t is one register).
 */
#if defined(__LP64__) && defined(STATX_DIOALIGN)
#define REPLACED_CALLS 1

struct direct_host {
    unsigned block, memory;  /* what statx(2) is to tell; 0: what it does */
    bool silent;             /* statx(2) tells nothing */
    bool refuses;            /* no O_DIRECT, as file systems say that have no direct I/O */
    size_t least;            /* of an aligned transfer: others are refused */
    size_t most;             /* of a transfer, in bytes; 0: no limit */
    int error;               /* the errno of writing; 0 for none */
    unsigned errors_after;   /* so many writes succeed before that */
    const void *last_memory; /* of the last transfer */
    atomic_uint transfers, syncs;
};

extern struct direct_host direct_host;
#endif

/* The host is as it is. A fixture, too. */
void direct_restore(void);

/* The host tells alignment `number` of DIRECT_ALIGNMENTS, and nothing else is wished. */
#define DIRECT_ALIGNMENTS 5
void direct_ask_for(int number);

/* NULL where the file system has no direct I/O: then there is nothing to test. */
struct store *direct_open(const char *path);

/* Bytes other than 0. */
void direct_fill(uint8_t *bytes, size_t length, unsigned *seed);

off_t direct_size(const char *path);

/* The file's bytes, and nothing behind them, as another program reads them. */
void direct_expect_file(const char *path, const uint8_t *bytes, size_t size);

#endif
