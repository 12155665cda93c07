/* SPDX-License-Identifier: MIT */
/*
 * The valid images that mutations begin with: small, and together with
 * everything that the format has. They are the same each time.
 */
#ifndef FUZZ_BASES_H
#define FUZZ_BASES_H

#include <stddef.h>
#include <stdint.h>

unsigned bases_count(void);

/* A word for file names: "plain", "snapshots" ... */
const char *bases_name(unsigned base);

/* An image file: bytes for the caller to free. */
uint8_t *bases_make(unsigned base, size_t *size);

/* What lies behind an image that names a backing file, and the data file of one that has it. */
#define BASES_BACKING_NAME "behind.raw"
#define BASES_BACKING_SIZE (UINT64_C(40) << 10)
#define BASES_DATA_NAME    "data.raw"
#define BASES_DATA_SIZE    (UINT64_C(64) << 10)
void bases_fill_backing(uint8_t *bytes);
void bases_fill_data(uint8_t *bytes);

#endif
