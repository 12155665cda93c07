/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "header_case.h"

#include "memory_store.h"
#include "meta/format.h"

#include <check.h>
#include <errno.h>
#include <string.h>

struct store *make_image(const struct builder_options *options)
{
    struct builder *builder = builder_create(options);
    struct store *store = builder_store(builder);

    builder_destroy(builder);
    return store;
}

struct store *make_default(void)
{
    struct builder_options options = builder_defaults();

    return make_image(&options);
}

struct store *make_extended(uint32_t type, const void *data, size_t length)
{
    struct builder_options options = builder_defaults();
    struct builder *builder = builder_create(&options);
    struct store *store;

    builder_extension(builder, type, data, length);
    store = builder_store(builder);
    builder_destroy(builder);
    return store;
}

void put32(struct store *store, size_t at, uint32_t value)
{
    store_be32(memory_store_data(store) + at, value);
}

void put64(struct store *store, size_t at, uint64_t value)
{
    store_be64(memory_store_data(store) + at, value);
}

uint64_t get64(struct store *store, size_t at)
{
    return load_be64(memory_store_data(store) + at);
}

struct header *read_good(struct store *store)
{
    struct error error = {0};
    struct header *header;
    int result = header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, &error);

    ck_assert_msg(result == 0, "%s", error.text);
    store_close(store);
    return header;
}

void expect_refused(struct store *store, int code, const char *text, const char *value)
{
    struct error error = {0};
    struct header *header;
    int result = header_read(store, memory_store_size(store), HEADER_CASE_NAME, &header, &error);

    ck_assert_int_eq(result, -code);
    ck_assert_int_eq(error.code, code);
    ck_assert_ptr_null(header);
    ck_assert_msg(strncmp(error.text, HEADER_CASE_NAME ": ", strlen(HEADER_CASE_NAME ": ")) == 0,
                  "%s", error.text);
    ck_assert_msg(strstr(error.text, text) != NULL, "%s: no '%s'", error.text, text);
    ck_assert_msg(strstr(error.text, value) != NULL, "%s: no '%s'", error.text, value);
    store_close(store);
}

void expect_refused_field32(size_t at, uint32_t field, const char *text, const char *value)
{
    struct store *store = make_default();

    put32(store, at, field);
    expect_refused(store, EINVAL, text, value);
}

void expect_refused_field64(size_t at, uint64_t field, const char *text, const char *value)
{
    struct store *store = make_default();

    put64(store, at, field);
    expect_refused(store, EINVAL, text, value);
}
