/* SPDX-License-Identifier: MIT */
/*
 * Raw deflate. zlib is the reference; libdeflate, about twice as fast, goes
 * first where it was built in. libdeflate knows only whole streams, though: one
 * that would go on behind the end of the cluster, or was cut off behind its
 * last byte, counts as bad to it. So only its success is taken, and of
 * everything else zlib is the judge.
 *
 * Of streams that no compressor makes, libdeflate takes some that zlib refuses:
 * those with a code table longer than RFC 1951 has symbols for, or with a
 * repeated code length that runs past the table's end. It then decodes what is
 * there; about one corrupted cluster in five thousand is noticed by zlib only.
 */
#include "config.h"

#include "codec/backend.h"

#include "util/checked.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include <zlib.h>
#ifdef HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif

#define RAW_DEFLATE_WINDOW_BITS (-15) /* negative: without header and checksum */

struct deflate_context {
    struct codec_context codec;
    z_stream zlib;
#ifdef HAVE_LIBDEFLATE
    struct libdeflate_decompressor *libdeflate; /* NULL in a context of zlib alone */
#endif
};

static struct deflate_context *deflate_context_of(struct codec_context *context)
{
    return (struct deflate_context *)context;
}

static struct codec_context *zlib_create(void)
{
    struct deflate_context *context = calloc(1, sizeof(*context));

    if (context == NULL) {
        return NULL;
    }
    if (inflateInit2(&context->zlib, RAW_DEFLATE_WINDOW_BITS) != Z_OK) {
        free(context);
        return NULL;
    }
    return &context->codec;
}

static void zlib_destroy(struct codec_context *codec_context)
{
    struct deflate_context *context = deflate_context_of(codec_context);

    inflateEnd(&context->zlib);
    free(context);
}

/*
 * Full output is success whether the stream ended there (Z_STREAM_END) or wants
 * to go on (Z_BUF_ERROR). What zlib calls corrupt is not, even where its output
 * is full: it may then have looked one symbol further.
 */
static int zlib_decompress(struct codec_context *codec_context, const void *input,
                           size_t input_size, void *output, size_t output_size)
{
    z_stream *stream = &deflate_context_of(codec_context)->zlib;
    int status;

    /* zlib counts in unsigned int. A cluster has at most 2 MiB, its compressed data too. */
    if (output_size > UINT_MAX || inflateReset(stream) != Z_OK) {
        return -EIO;
    }
    stream->next_in = (z_const Bytef *)(uintptr_t)input;
    stream->avail_in = (uInt)min_u64(input_size, UINT_MAX);
    stream->next_out = output;
    stream->avail_out = (uInt)output_size;
    status = inflate(stream, Z_FINISH);
    if (status == Z_MEM_ERROR) {
        return -ENOMEM;
    }
    if (stream->avail_out != 0 || (status != Z_STREAM_END && status != Z_BUF_ERROR)) {
        return -EIO;
    }
    return 0;
}

static const struct codec_decoder zlib_decoder = {
    .create = zlib_create,
    .destroy = zlib_destroy,
    .decompress = zlib_decompress,
};

#ifdef HAVE_LIBDEFLATE
static struct codec_context *libdeflate_create(void)
{
    struct codec_context *codec_context = zlib_create();
    struct deflate_context *context;

    if (codec_context == NULL) {
        return NULL;
    }
    context = deflate_context_of(codec_context);
    context->libdeflate = libdeflate_alloc_decompressor();
    if (context->libdeflate == NULL) {
        zlib_destroy(codec_context);
        return NULL;
    }
    return codec_context;
}

static void libdeflate_destroy(struct codec_context *codec_context)
{
    libdeflate_free_decompressor(deflate_context_of(codec_context)->libdeflate);
    zlib_destroy(codec_context);
}

static int libdeflate_decompress(struct codec_context *codec_context, const void *input,
                                 size_t input_size, void *output, size_t output_size)
{
    struct deflate_context *context = deflate_context_of(codec_context);
    enum libdeflate_result result;
    size_t consumed; /* asking for it allows garbage behind the stream */

    /* No pointer for the size of the output: then success means all of output_size. */
    result = libdeflate_deflate_decompress_ex(context->libdeflate, input, input_size, output,
                                              output_size, &consumed, NULL);
    if (result == LIBDEFLATE_SUCCESS) {
        return 0;
    }
    return zlib_decompress(codec_context, input, input_size, output, output_size);
}

static const struct codec_decoder libdeflate_decoder = {
    .create = libdeflate_create,
    .destroy = libdeflate_destroy,
    .decompress = libdeflate_decompress,
};
#endif

const struct codec_decoder *codec_deflate_decoder(enum codec_backend backend)
{
#ifdef HAVE_LIBDEFLATE
    if (backend == CODEC_FASTEST) {
        return &libdeflate_decoder;
    }
#endif
    (void)backend;
    return &zlib_decoder;
}
