/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "writer_case.h"

#include "check/check.h"
#include "meta/format.h"
#include "meta/mapping_internal.h"
#include "meta/refcount_block.h"
#include "util/bytes.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* --- Opening and closing --------------------------------------------------------------------- */

static void open_all(struct writer_case *subject, struct store *file, struct store *data_file,
                     struct image *backing, const struct writer_options *options)
{
    const struct writer_options none = {0};
    struct error error = {0};
    int result;

    memset(subject, 0, sizeof(*subject));
    log_lines_init(&subject->log);
    subject->file = file;
    subject->image = assemble_image(file, IMAGE_QCOW2, 0, &subject->log.log);
    if (data_file != NULL) {
        store_close(subject->image->data_file);
        subject->image->data_file = data_file;
        subject->image->active->source.data_file = data_file;
    }
    if (backing != NULL) {
        assemble_behind(subject->image, backing);
    }
    assemble_cache(subject->image, 0);
    result =
        writer_open(subject->image, options != NULL ? options : &none, &subject->writer, &error);
    ck_assert_msg(result == 0, "%s", error.text);
    ck_assert_int_eq(view_open_active(subject->image, &subject->view), 0);
}

void writer_case_open_on(struct writer_case *subject, struct store *file, struct image *backing,
                         const struct writer_options *options)
{
    open_all(subject, file, NULL, backing, options);
}

void writer_case_open_with(struct writer_case *subject, struct store *file, struct store *data_file,
                           const struct writer_options *options)
{
    open_all(subject, file, data_file, NULL, options);
}

void writer_case_open(struct writer_case *subject, struct store *file,
                      const struct writer_options *options)
{
    open_all(subject, file, NULL, NULL, options);
}

void writer_case_build(struct writer_case *subject, struct builder *builder,
                       const struct writer_options *options)
{
    struct store *file = builder_store(builder);

    builder_destroy(builder);
    writer_case_open(subject, file, options);
}

struct store *writer_case_end(struct writer_case *subject, int *result)
{
    struct store *copy;
    int closed;

    view_close(subject->view);
    closed = writer_close(subject->writer);
    if (result != NULL) {
        *result = closed;
    } else {
        ck_assert_int_eq(closed, 0);
    }
    copy = memory_store_from(memory_store_data(subject->file), memory_store_size(subject->file));
    image_close(subject->image);
    log_release(&subject->log.log);
    return copy;
}

void writer_case_close(struct writer_case *subject)
{
    store_close(writer_case_end(subject, NULL));
}

/* --- Requests --------------------------------------------------------------------------------- */

static uint8_t *allocate(size_t size)
{
    uint8_t *memory = calloc(1, size > 0 ? size : 1);

    ck_assert_ptr_nonnull(memory);
    return memory;
}

void expect_write(struct writer_case *subject, uint64_t guest_offset, size_t length, uint32_t seed)
{
    uint8_t *bytes = allocate(length);

    builder_pattern(bytes, length, seed);
    ck_assert_int_eq(writer_write(subject->writer, guest_offset, bytes, length), 0);
    free(bytes);
}

void expect_zero(struct writer_case *subject, uint64_t guest_offset, uint64_t length, bool unmap)
{
    ck_assert_int_eq(writer_zero(subject->writer, guest_offset, length, unmap, NULL), 0);
}

void expect_flush(struct writer_case *subject)
{
    ck_assert_int_eq(writer_flush(subject->writer), 0);
}

static void expect_bytes(struct writer_case *subject, uint64_t guest_offset,
                         const uint8_t *expected, size_t length)
{
    uint8_t *actual = allocate(length);

    ck_assert_int_eq(view_read(subject->view, guest_offset, actual, length), 0);
    ck_assert_mem_eq(actual, expected, length);
    free(actual);
}

void expect_pattern(struct writer_case *subject, uint64_t guest_offset, size_t length,
                    uint32_t seed, size_t skip)
{
    uint8_t *bytes = allocate(skip + length);

    builder_pattern(bytes, skip + length, seed);
    expect_bytes(subject, guest_offset, bytes + skip, length);
    free(bytes);
}

void expect_zeros(struct writer_case *subject, uint64_t guest_offset, size_t length)
{
    uint8_t *bytes = allocate(length);

    expect_bytes(subject, guest_offset, bytes, length);
    free(bytes);
}

/* --- What a file holds ------------------------------------------------------------------------ */

/* The bytes there, which are in the file. */
static uint8_t *disk_at(struct store *file, uint64_t host_offset, size_t length)
{
    ck_assert_uint_le(host_offset + length, memory_store_size(file));
    return memory_store_data(file) + host_offset;
}

uint32_t disk_u32(struct store *file, uint64_t host_offset)
{
    return load_be32(disk_at(file, host_offset, sizeof(uint32_t)));
}

uint64_t disk_u64(struct store *file, uint64_t host_offset)
{
    return load_be64(disk_at(file, host_offset, sizeof(uint64_t)));
}

void disk_set_u64(struct store *file, uint64_t host_offset, uint64_t value)
{
    store_be64(disk_at(file, host_offset, sizeof(value)), value);
}

static uint32_t cluster_bits(struct store *file)
{
    return disk_u32(file, HEADER_CLUSTER_BITS);
}

static uint64_t entry_bytes(struct store *file)
{
    bool extended = disk_u32(file, HEADER_VERSION) >= 3 &&
                    (disk_u64(file, HEADER_INCOMPATIBLE_FEATURES) & INCOMPATIBLE_EXTENDED_L2) != 0;

    return extended ? L2_ENTRY_BYTES_EXTENDED : L2_ENTRY_BYTES;
}

static uint64_t table_entries(struct store *file)
{
    return (UINT64_C(1) << cluster_bits(file)) / entry_bytes(file);
}

uint64_t disk_l1_entry(struct store *file, uint64_t guest_offset)
{
    uint64_t index = (guest_offset >> cluster_bits(file)) / table_entries(file);

    ck_assert_uint_lt(index, disk_u32(file, HEADER_L1_SIZE));
    return disk_u64(file, disk_u64(file, HEADER_L1_TABLE_OFFSET) + index * L1_ENTRY_BYTES);
}

uint64_t disk_l2_place(struct store *file, uint64_t guest_offset)
{
    uint64_t table = l1_entry_table(disk_l1_entry(file, guest_offset));
    uint64_t index = (guest_offset >> cluster_bits(file)) % table_entries(file);

    return table == 0 ? 0 : table + index * entry_bytes(file);
}

uint64_t disk_l2_entry(struct store *file, uint64_t guest_offset)
{
    uint64_t place = disk_l2_place(file, guest_offset);

    return place == 0 ? 0 : disk_u64(file, place);
}

/* The block that counts a cluster, NULL where there is none; which of its counts, of what width. */
static void *refcount_block(struct store *file, uint64_t host_offset, uint64_t *index,
                            uint32_t *order)
{
    uint64_t cluster = host_offset >> cluster_bits(file), counts, block;
    uint64_t table = disk_u64(file, HEADER_REFCOUNT_TABLE_OFFSET);

    *order = disk_u32(file, HEADER_VERSION) < 3 ? REFCOUNT_ORDER_V2
                                                : disk_u32(file, HEADER_REFCOUNT_ORDER);
    counts = (UINT64_C(8) << cluster_bits(file)) >> *order;
    *index = cluster % counts;
    ck_assert_uint_lt(cluster / counts * 8, (uint64_t)disk_u32(file, HEADER_REFCOUNT_TABLE_CLUSTERS)
                                                << cluster_bits(file));
    block = disk_u64(file, table + cluster / counts * REFCOUNT_TABLE_ENTRY_BYTES);
    return block == 0 ? NULL : disk_at(file, block, UINT64_C(1) << cluster_bits(file));
}

unsigned disk_refcount(struct store *file, uint64_t host_offset)
{
    uint64_t index;
    uint32_t order;
    const void *block = refcount_block(file, host_offset, &index, &order);

    return block == NULL ? 0 : (unsigned)refcount_load(block, index, order);
}

void disk_set_refcount(struct store *file, uint64_t host_offset, unsigned count)
{
    uint64_t index;
    uint32_t order;
    void *block = refcount_block(file, host_offset, &index, &order);

    ck_assert_ptr_nonnull(block);
    refcount_store(block, index, order, count);
}

static void report(void *context, enum check_finding finding, const char *line)
{
    char *text = context;

    (void)finding;
    if (strlen(text) + strlen(line) + 2 < 1000) {
        strcat(strcat(text, line), "\n");
    }
}

void expect_sound(struct store *file, bool leaks)
{
    char text[1000] = "";
    const struct check_options options = {.report = report, .context = text};
    struct check_result found = {0};
    struct error error = {0};
    struct header *header;
    int result;

    result = header_read(file, memory_store_size(file), "memory.qcow2", &header, &error);
    ck_assert_msg(result == 0, "%s", error.text);
    result = check_image(header, file, "memory.qcow2", &options, &found, &error);
    ck_assert_msg(result == 0, "%s", error.text);
    ck_assert_msg(found.errors == 0 && found.unreadable == 0, "%s", text);
    ck_assert_msg(leaks || found.leaks == 0, "%s", text);
    header_free(header);
}

struct builder_options writer_case_large_disk(void)
{
    struct builder_options options = builder_defaults();

    options.virtual_size = UINT64_C(256) << 20;
    return options;
}

uint64_t writer_case_pattern(struct builder *builder, uint64_t guest_offset, uint32_t seed)
{
    uint64_t size = builder_cluster_size(builder), host_offset;
    uint8_t *bytes = malloc(size);

    builder_pattern(bytes, size, seed);
    host_offset = builder_data(builder, guest_offset, bytes, size);
    free(bytes);
    return host_offset;
}

uint64_t disk_refcount_block(struct store *file)
{
    return disk_u64(file, disk_u64(file, HEADER_REFCOUNT_TABLE_OFFSET));
}
