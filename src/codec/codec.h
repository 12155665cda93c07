/* SPDX-License-Identifier: MIT */
/*
 * Decompression of one cluster: bytes in, bytes out, nothing kept but scratch
 * contexts, which a `struct codec` lends to the threads that use it (its mutex
 * covers only the list of idle contexts, never the work).
 */
#ifndef CODEC_CODEC_H
#define CODEC_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Values of the header's compression_type field. */
enum compression_type {
    COMPRESSION_DEFLATE = 0, /* raw deflate (RFC 1951), no zlib header */
    COMPRESSION_ZSTD = 1,
};

/* "zlib", "zstd" as QEMU calls them; NULL for an unknown value. */
const char *compression_type_name(uint8_t type);

/* The library that this build lacks to read the type ("libzstd"), or NULL if it lacks none. */
const char *compression_type_missing(uint8_t type);

enum codec_backend {
    CODEC_FASTEST, /* libdeflate where it was built in, zlib behind it */
    CODEC_ZLIB,    /* zlib alone; for tests */
};

struct codec;

/* 0; -ENOTSUP when this build cannot read the type; -ENOMEM. codec_destroy() takes NULL too. */
int codec_create(uint8_t type, enum codec_backend backend, struct codec **codec);
void codec_destroy(struct codec *codec);

/*
 * Decompresses until exactly `output_size` bytes were produced. The input may
 * go on behind the compressed data: an entry says only how many sectors hold
 * it ("Compressed Clusters Descriptor"). 0; -EIO when the input does not yield
 * output_size bytes, in which case `output` holds anything; -ENOMEM.
 */
int codec_decompress(struct codec *codec, const void *input, size_t input_size, void *output,
                     size_t output_size);

/* Fills `input` with `size` bytes: 0 or a negative errno. */
typedef int codec_read_fn(void *context, void *input, size_t size);

/*
 * The same, of input that `read` fetches into memory which the codec keeps from
 * one call to the next. 0; what `read` returned; -EBADMSG when the input does
 * not yield output_size bytes; -ENOMEM.
 */
int codec_decompress_read(struct codec *codec, codec_read_fn *read, void *read_context,
                          size_t input_size, void *output, size_t output_size);

#endif
