/* SPDX-License-Identifier: MIT */
/*
 * What the suites of the writer share: an image in memory with a writer, and a
 * look at what the file holds, past all caches. No thread writes back: what is
 * written is what the test asked for.
 */
#ifndef UNIT_WRITER_CASE_H
#define UNIT_WRITER_CASE_H

#include "assemble.h"
#include "builder.h"
#include "disk/view.h"
#include "disk/writer.h"
#include "memory_store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct writer_case {
    struct log_lines log;
    struct store *file;
    struct image *image;
    struct view *view; /* of the active disk */
    struct writer *writer;
};

/* Takes the store, or the builder's image, which is destroyed. `options` may be NULL. */
void writer_case_open(struct writer_case *subject, struct store *file,
                      const struct writer_options *options);
void writer_case_build(struct writer_case *subject, struct builder *builder,
                       const struct writer_options *options);

/* The same with a chain behind it, which belongs to the image from then on. */
void writer_case_open_on(struct writer_case *subject, struct store *file, struct image *backing,
                         const struct writer_options *options);

/* The same with a data file, which belongs to the image, in place of the one that it names. */
void writer_case_open_with(struct writer_case *subject, struct store *file, struct store *data_file,
                           const struct writer_options *options);

/* Ends it; what the file holds then. `result`: of writer_close(), which must be 0 where it is NULL.
 */
struct store *writer_case_end(struct writer_case *subject, int *result);

/* The same where nobody wants to know. */
void writer_case_close(struct writer_case *subject);

/* For images to open: a disk of 256 MiB. */
struct builder_options writer_case_large_disk(void);

/* A cluster of builder_pattern() at guest_offset; its host offset. */
uint64_t writer_case_pattern(struct builder *builder, uint64_t guest_offset, uint32_t seed);

/* Requests that must succeed: whole patterns of builder_pattern(), zeros. */
void expect_write(struct writer_case *subject, uint64_t guest_offset, size_t length, uint32_t seed);
void expect_zero(struct writer_case *subject, uint64_t guest_offset, uint64_t length, bool unmap);
void expect_flush(struct writer_case *subject);

/* What the disk shows: this pattern, from its `skip`th byte on; zeros. */
void expect_pattern(struct writer_case *subject, uint64_t guest_offset, size_t length,
                    uint32_t seed, size_t skip);
void expect_zeros(struct writer_case *subject, uint64_t guest_offset, size_t length);

/* --- What a file holds; counts are 16 bits wide --------------------------------------------- */

uint32_t disk_u32(struct store *file, uint64_t host_offset);
uint64_t disk_u64(struct store *file, uint64_t host_offset);
void disk_set_u64(struct store *file, uint64_t host_offset, uint64_t value);

/* Host offset of the cluster's L2 entry in the active state, 0 where there is no table. */
uint64_t disk_l2_place(struct store *file, uint64_t guest_offset);
/* The entry, 0 where there is no table; and the L1 entry that leads there. */
uint64_t disk_l2_entry(struct store *file, uint64_t guest_offset);
uint64_t disk_l1_entry(struct store *file, uint64_t guest_offset);

/* Host offset of the first refcount block. */
uint64_t disk_refcount_block(struct store *file);

unsigned disk_refcount(struct store *file, uint64_t host_offset);
void disk_set_refcount(struct store *file, uint64_t host_offset, unsigned count);

/* Has the check say that the file is in order; leaks are allowed where `leaks`. */
void expect_sound(struct store *file, bool leaks);

#endif
