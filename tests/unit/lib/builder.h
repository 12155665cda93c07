/* SPDX-License-Identifier: MIT */
/*
 * Makes qcow2 images in memory, byte for byte as they lie in a file: header,
 * extensions, L1 and L2 tables, clusters of each kind, snapshots, bitmap
 * directory, refcounts. What it makes is in order; a test that wants something
 * broken changes single entries here, or bytes of the result.
 *
 *     struct builder *builder = builder_create(&options);
 *     builder_data(builder, 0, bytes, size);
 *     store = builder_store(builder);             or builder_file(builder, "a.qcow2");
 *     builder_destroy(builder);
 *
 * All offsets and sizes are in bytes. A test that asks for something impossible
 * is aborted. Not for more than one thread.
 */
#ifndef UNIT_BUILDER_H
#define UNIT_BUILDER_H

#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct builder_options {
    uint32_t version;
    uint32_t cluster_bits;
    uint32_t refcount_order;
    uint64_t virtual_size;
    bool extended_l2;
    uint8_t compression_type; /* of codec/codec.h */
    bool external_data_file;
    const char *data_file; /* the recorded name, NULL: not recorded */
    const char *backing_file;
    const char *backing_format;
    uint32_t more_l1_entries; /* beyond those that the disk needs */
    uint32_t header_length;   /* of version 3 */
    uint64_t incompatible_features, compatible_features, autoclear_features; /* to be added */
};

/* Version 3, clusters of 64 KiB, 16-bit refcounts, a disk of 1 MiB. */
struct builder_options builder_defaults(void);

struct builder;

struct builder *builder_create(const struct builder_options *options);
void builder_destroy(struct builder *builder);

uint64_t builder_cluster_size(const struct builder *builder);

/* --- L1 tables: the active one is number 0, and is the first to be selected --- */

/* Makes a further one, for a snapshot, and selects it; its number. */
unsigned builder_add_l1(struct builder *builder, uint32_t entries);

/* All functions below that take a guest offset work on the selected one. */
void builder_select_l1(struct builder *builder, unsigned l1);

void builder_set_l1_entry(struct builder *builder, uint64_t index, uint64_t entry);

/* Host offset of the L2 table that maps the guest offset; makes it where there is none. */
uint64_t builder_l2_table(struct builder *builder, uint64_t guest_offset);

/* Host offset of the L2 entry of the guest offset. */
uint64_t builder_l2_entry_offset(struct builder *builder, uint64_t guest_offset);

/* `bitmap` counts only with extended L2 entries. */
void builder_set_l2_entry(struct builder *builder, uint64_t guest_offset, uint64_t entry,
                          uint64_t bitmap);

/* --- Clusters: each function returns the host offset that it chose --- */

/* Clusters of zeros that belong together, referenced once. */
uint64_t builder_allocate(struct builder *builder, uint64_t clusters);

/*
 * A data cluster that begins with `length` bytes of `bytes` and goes on with
 * zeros. With an external data file only the entry is made: writing there is up
 * to the test.
 */
uint64_t builder_data(struct builder *builder, uint64_t guest_offset, const void *bytes,
                      size_t length);

/* The same at a host offset that was allocated before. */
void builder_data_at(struct builder *builder, uint64_t guest_offset, uint64_t host_offset,
                     const void *bytes, size_t length);

/* A zero cluster; preallocated: with a host cluster, which is full of bytes that must not show. */
uint64_t builder_zero(struct builder *builder, uint64_t guest_offset, bool preallocated);

/* A cluster with extended L2 entries, whose data cluster holds the `length` bytes. */
uint64_t builder_subclusters(struct builder *builder, uint64_t guest_offset, uint32_t allocated,
                             uint32_t zero, const void *bytes, size_t length);

/*
 * A compressed cluster of the cluster_size bytes at `bytes`. At `host_offset`,
 * which may be any byte of what was allocated before, or, where it is 0,
 * right behind the last compressed cluster.
 */
uint64_t builder_compressed(struct builder *builder, uint64_t guest_offset, const void *bytes,
                            uint64_t host_offset);

/* --- What else an image has --- */

void builder_extension(struct builder *builder, uint32_t type, const void *data, size_t length);

struct builder_snapshot {
    const char *id, *name;
    size_t name_length; /* 0: that of the string */
    unsigned l1;        /* the number of its L1 table */
    uint64_t disk_size, vm_state_size, vm_clock_nsec, icount;
    uint32_t date_sec, date_nsec;
    uint32_t extra_data_size; /* 16 or more hold vm_state_size and disk_size, 24 icount too */
};

void builder_snapshot(struct builder *builder, const struct builder_snapshot *snapshot);

struct builder_bitmap {
    const char *name;
    uint32_t flags;
    uint8_t granularity_bits;
    uint32_t extra_data_size;
};

void builder_bitmap(struct builder *builder, const struct builder_bitmap *bitmap);

/* --- The result --- */

/*
 * Writes what is missing: snapshot table, bitmap directory, refcounts, header.
 * Nothing can be added after it. The bytes belong to the builder.
 */
uint8_t *builder_finish(struct builder *builder, size_t *size);

/* The finished image as a store in memory, or as a file. */
struct store *builder_store(struct builder *builder);
void builder_file(struct builder *builder, const char *path);

/*
 * Bytes that tell where they come from: no two words of 8 bytes are alike, none
 * is zero, and both compressions make them smaller.
 */
void builder_pattern(void *buffer, size_t size, uint32_t seed);

#endif
