/* SPDX-License-Identifier: MIT */
/*
 * Between codec.c and the files that each know one compression library. A
 * decoder's scratch memory is a context: it serves one thread at a time, and
 * codec.c keeps the idle ones in a list.
 */
#ifndef CODEC_BACKEND_H
#define CODEC_BACKEND_H

#include "codec/codec.h"

#include <stddef.h>

/* The first member of every decoder's own context. */
struct codec_context {
    struct codec_context *next; /* in the list of idle contexts */
    void *input;                /* of codec_decompress_read(); codec.c's alone, NULL at first */
    size_t input_size;          /* bytes that it has room for */
};

struct codec_decoder {
    /* NULL when memory ran out. */
    struct codec_context *(*create)(void);
    void (*destroy)(struct codec_context *context);
    /* As codec_decompress(); output_size > 0. What an earlier call left behind has no effect. */
    int (*decompress)(struct codec_context *context, const void *input, size_t input_size,
                      void *output, size_t output_size);
};

/* The decoder of each compression type, or NULL where this build lacks its library. */
const struct codec_decoder *codec_deflate_decoder(enum codec_backend backend);
const struct codec_decoder *codec_zstd_decoder(enum codec_backend backend);

#endif
