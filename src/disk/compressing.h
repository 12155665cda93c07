/* SPDX-License-Identifier: MIT */
/*
 * Writing compressed clusters: what a request brings for whole clusters that have no place in the
 * image yet is compressed, by the thread that serves the request, and packed one behind the other
 * (allocator_pack()). What does not shrink, and all else, is stored plain.
 *
 * Owns compressors and buffers that are idle, as many as there are processors. Any thread may call.
 * The lock is a leaf; compressing, and writing, hold that of their range of guest clusters alone.
 */
#ifndef IMAGE_COMPRESSING_H
#define IMAGE_COMPRESSING_H

#include "meta/header.h"
#include "meta/mapping.h"
#include "util/error.h"

#include <stdint.h>

struct compressing;
struct writer;

/* The largest clusters that are compressed: no request brings more than this (bytes). */
#define COMPRESSING_CLUSTER_MAX (UINT64_C(1) << 20)

/*
 * Whether clusters of this image can be compressed, as the type of this name ("": whichever is the
 * image's). 0, or -EINVAL with a sentence.
 */
int compressing_check(const struct header *header, const char *type, const char *path,
                      struct error *error);

/* 0 or -ENOMEM. */
int compressing_create(const struct header *header, struct compressing **compressing);
void compressing_destroy(struct compressing *compressing); /* may be NULL */

/*
 * Writes a request's range, as writer_write_range() does, but together with others that meet it in
 * the midst of a cluster (disk/seams.h).
 */
int compressing_write_request(struct writer *writer, uint64_t guest_offset, const uint8_t *data,
                              uint64_t length);

/*
 * For writer_write_range(): writes what begins at guest_offset, where it has no place of its own:
 * *done bytes of it, at least to its end or that of a cluster; none where it has a place by now. 0,
 * or a negative errno with `fault`.
 */
int compressing_write(struct writer *writer, uint64_t guest_offset, const uint8_t *data,
                      uint64_t length, uint64_t *done, struct mapping_fault *fault);

#endif
