/* SPDX-License-Identifier: MIT */
/*
 * The levels are such that a cluster gets no larger than with QEMU, which uses the libraries'
 * default and, for deflate, looks back 4 KiB only. Readers need no window for that: whoever reads a
 * cluster has all of it before his eyes, and zlib and libdeflate look back in the output itself.
 */
#include "config.h"

#include "codec/compress.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include <zlib.h>
#ifdef HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#define RAW_DEFLATE_WINDOW_BITS (-15) /* negative: without header and checksum */
#define ZLIB_LEVEL              6
#define ZLIB_MEMORY_LEVEL       9
#define LIBDEFLATE_LEVEL        6
#define ZSTD_LEVEL              3

struct compressor {
    size_t (*run)(struct compressor *compressor, const void *input, size_t size, void *output,
                  size_t room);
    void (*destroy)(struct compressor *compressor);
    z_stream zlib;
#ifdef HAVE_LIBDEFLATE
    struct libdeflate_compressor *libdeflate;
#endif
#ifdef HAVE_ZSTD
    ZSTD_CCtx *zstd;
#endif
};

/* --- Deflate ---------------------------------------------------------------------------- */

static size_t zlib_run(struct compressor *compressor, const void *input, size_t size, void *output,
                       size_t room)
{
    z_stream *stream = &compressor->zlib;

    if (size > UINT_MAX || room > UINT_MAX || deflateReset(stream) != Z_OK) {
        return 0;
    }
    stream->next_in = (z_const Bytef *)(uintptr_t)input;
    stream->avail_in = (uInt)size;
    stream->next_out = output;
    stream->avail_out = (uInt)room;
    return deflate(stream, Z_FINISH) == Z_STREAM_END ? room - stream->avail_out : 0;
}

static void zlib_destroy(struct compressor *compressor)
{
    deflateEnd(&compressor->zlib);
}

static int zlib_create(struct compressor *compressor)
{
    compressor->run = zlib_run;
    compressor->destroy = zlib_destroy;
    return deflateInit2(&compressor->zlib, ZLIB_LEVEL, Z_DEFLATED, RAW_DEFLATE_WINDOW_BITS,
                        ZLIB_MEMORY_LEVEL, Z_DEFAULT_STRATEGY) == Z_OK
               ? 0
               : -ENOMEM;
}

#ifdef HAVE_LIBDEFLATE
static size_t libdeflate_run(struct compressor *compressor, const void *input, size_t size,
                             void *output, size_t room)
{
    return libdeflate_deflate_compress(compressor->libdeflate, input, size, output, room);
}

static void libdeflate_destroy(struct compressor *compressor)
{
    libdeflate_free_compressor(compressor->libdeflate);
}
#endif

static int deflate_create(struct compressor *compressor, enum codec_backend backend)
{
#ifdef HAVE_LIBDEFLATE
    if (backend == CODEC_FASTEST) {
        compressor->run = libdeflate_run;
        compressor->destroy = libdeflate_destroy;
        compressor->libdeflate = libdeflate_alloc_compressor(LIBDEFLATE_LEVEL);
        return compressor->libdeflate != NULL ? 0 : -ENOMEM;
    }
#endif
    (void)backend;
    return zlib_create(compressor);
}

/* --- Zstandard ---------------------------------------------------------------------------- */

#ifdef HAVE_ZSTD
static size_t zstd_run(struct compressor *compressor, const void *input, size_t size, void *output,
                       size_t room)
{
    size_t length = ZSTD_compressCCtx(compressor->zstd, output, room, input, size, ZSTD_LEVEL);

    return ZSTD_isError(length) ? 0 : length;
}

static void zstd_destroy(struct compressor *compressor)
{
    ZSTD_freeCCtx(compressor->zstd);
}

static int zstd_create(struct compressor *compressor)
{
    compressor->run = zstd_run;
    compressor->destroy = zstd_destroy;
    compressor->zstd = ZSTD_createCCtx();
    return compressor->zstd != NULL ? 0 : -ENOMEM;
}
#else
static int zstd_create(struct compressor *compressor)
{
    (void)compressor;
    return -ENOTSUP;
}
#endif

/* --- Either ------------------------------------------------------------------------------- */

int compressor_create(uint8_t type, enum codec_backend backend, struct compressor **compressor)
{
    struct compressor *created = calloc(1, sizeof(*created));
    int result = -ENOTSUP;

    *compressor = NULL;
    if (created == NULL) {
        return -ENOMEM;
    }
    if (type == COMPRESSION_DEFLATE) {
        result = deflate_create(created, backend);
    } else if (type == COMPRESSION_ZSTD) {
        result = zstd_create(created);
    }
    if (result < 0) {
        free(created);
        return result;
    }
    *compressor = created;
    return 0;
}

void compressor_destroy(struct compressor *compressor)
{
    if (compressor != NULL) {
        compressor->destroy(compressor);
        free(compressor);
    }
}

size_t compressor_run(struct compressor *compressor, const void *input, size_t size, void *output,
                      size_t room)
{
    return room > 0 ? compressor->run(compressor, input, size, output, room) : 0;
}
