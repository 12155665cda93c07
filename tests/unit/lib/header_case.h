/* SPDX-License-Identifier: MIT */
/*
 * What the suites of the header and of its extensions share: images of which
 * single fields are changed, and what reading their header must give.
 */
#ifndef UNIT_HEADER_CASE_H
#define UNIT_HEADER_CASE_H

#include "builder.h"
#include "meta/header.h"

#include <stddef.h>
#include <stdint.h>

#define HEADER_CASE_NAME "disk.qcow2" /* the file name that sentences begin with */

/* An image of nothing but its tables. */
struct store *make_image(const struct builder_options *options);
struct store *make_default(void);

/* A default one with this header extension, at offset HEADER_CASE_EXTENSION. */
#define HEADER_CASE_EXTENSION 112
struct store *make_extended(uint32_t type, const void *data, size_t length);

/* Bytes of a store in memory. */
void put32(struct store *store, size_t at, uint32_t value);
void put64(struct store *store, size_t at, uint64_t value);
uint64_t get64(struct store *store, size_t at);

/* All below close the store. The header must be read, and is for the caller to free. */
struct header *read_good(struct store *store);

/* It must be refused with this errno, and a sentence that names the file and holds both texts. */
void expect_refused(struct store *store, int code, const char *text, const char *value);

/* A default image must be refused with -EINVAL after one field was changed. */
void expect_refused_field32(size_t at, uint32_t field, const char *text, const char *value);
void expect_refused_field64(size_t at, uint64_t field, const char *text, const char *value);

#endif
