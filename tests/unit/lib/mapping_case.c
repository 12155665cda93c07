/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "mapping_case.h"

#include "memory_store.h"

#include <check.h>
#include <errno.h>
#include <string.h>

#define L2_BUDGET (UINT64_C(1) << 20)

void mapping_case_open(struct mapping_case *mapping_case, struct builder *builder,
                       uint64_t slice_size)
{
    struct mapping_source source = {.owner = 3};
    struct error error = {0};
    struct header *header;
    int result;

    memset(mapping_case, 0, sizeof(*mapping_case));
    mapping_case->file = builder_store(builder);
    builder_destroy(builder);
    result = header_read(mapping_case->file, memory_store_size(mapping_case->file), "image",
                         &mapping_case->header, &error);
    ck_assert_msg(result == 0, "%s", error.text);
    header = mapping_case->header;
    mapping_case->data_file =
        header->external_data_file ? memory_store_create(header->virtual_size) : mapping_case->file;
    source.header = header;
    source.file = mapping_case->file;
    source.data_file = mapping_case->data_file;
    result = mapping_open(&source, "image", header->l1_offset, header->l1_entries,
                          &mapping_case->mapping, &error);
    ck_assert_msg(result == 0, "%s", error.text);
    ck_assert_int_eq(cache_pool_create(L2_BUDGET, slice_size, &mapping_case->l2), 0);
    mapping_set_cache(mapping_case->mapping, mapping_case->l2, slice_size);
}

void mapping_case_close(struct mapping_case *mapping_case)
{
    mapping_close(mapping_case->mapping);
    cache_pool_destroy(mapping_case->l2);
    header_free(mapping_case->header);
    if (mapping_case->data_file != mapping_case->file) {
        store_close(mapping_case->data_file);
    }
    store_close(mapping_case->file);
}

struct extent expect_extent(struct mapping_case *mapping_case, uint64_t guest_offset,
                            uint64_t length, enum extent_kind kind, uint64_t found)
{
    struct extent extent;
    int result =
        mapping_lookup(mapping_case->mapping, guest_offset, length, &extent, &mapping_case->fault);

    ck_assert_msg(result == 0, "%s", mapping_case->fault.text);
    ck_assert_int_eq(extent.kind, kind);
    ck_assert_uint_eq(extent.length, found);
    return extent;
}

void expect_data(struct mapping_case *mapping_case, uint64_t guest_offset, uint64_t length,
                 uint64_t host_offset, uint64_t found)
{
    struct extent extent = expect_extent(mapping_case, guest_offset, length, EXTENT_DATA, found);

    ck_assert_ptr_eq(extent.store, mapping_case->data_file);
    ck_assert_uint_eq(extent.host_offset, host_offset);
}

void expect_fault(struct mapping_case *mapping_case, uint64_t lookup_offset, uint64_t guest_offset,
                  uint64_t host_offset, const char *text)
{
    struct mapping_fault *fault = &mapping_case->fault;
    struct extent extent;

    memset(fault, 0, sizeof(*fault));
    ck_assert_int_eq(mapping_lookup(mapping_case->mapping, lookup_offset, 1, &extent, fault), -EIO);
    ck_assert_uint_eq(fault->guest_offset, guest_offset);
    ck_assert_uint_eq(fault->host_offset, host_offset);
    ck_assert_msg(strstr(fault->text, text) != NULL, "%s: no '%s'", fault->text, text);
}
