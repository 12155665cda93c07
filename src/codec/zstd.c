/* SPDX-License-Identifier: MIT */
/*
 * Zstandard (RFC 8878), one frame at a time straight into the output. A
 * decoder that streams would allocate the window that a frame's header asks
 * for, up to gigabytes of a hostile image; here the output is the window.
 */
#include "config.h"

#include "codec/backend.h"

#ifdef HAVE_ZSTD

#include "util/bytes.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include <zstd.h>

struct zstd_context {
    struct codec_context codec;
    ZSTD_DCtx *dctx;
};

static struct codec_context *zstd_create(void)
{
    struct zstd_context *context = calloc(1, sizeof(*context));

    if (context == NULL) {
        return NULL;
    }
    context->dctx = ZSTD_createDCtx();
    if (context->dctx == NULL) {
        free(context);
        return NULL;
    }
    return &context->codec;
}

static void zstd_destroy(struct codec_context *codec_context)
{
    struct zstd_context *context = (struct zstd_context *)codec_context;

    ZSTD_freeDCtx(context->dctx);
    free(context);
}

/*
 * RFC 8878 knows two kinds of frames. The library may know older ones, from
 * before the format was fixed; no image has them, and no hostile one shall
 * reach their decoders.
 */
static bool frame_is_known(const uint8_t *frame, size_t size)
{
    uint32_t magic;

    if (size < sizeof(magic)) {
        return false;
    }
    magic = __builtin_bswap32(load_be32(frame)); /* stored little-endian */
    return magic == ZSTD_MAGICNUMBER ||
           (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

/* Each round consumes a frame, so that one without output cannot keep the loop alive. */
static int zstd_decompress(struct codec_context *codec_context, const void *input,
                           size_t input_size, void *output, size_t output_size)
{
    struct zstd_context *context = (struct zstd_context *)codec_context;
    const uint8_t *frame = input;
    uint8_t *to = output;

    while (output_size > 0) {
        size_t frame_size, produced;

        if (!frame_is_known(frame, input_size)) {
            return -EIO;
        }
        frame_size = ZSTD_findFrameCompressedSize(frame, input_size);
        if (ZSTD_isError(frame_size) || frame_size == 0 || frame_size > input_size) {
            return -EIO;
        }
        /* A frame that holds more than the rest of the output is an error of the library's. */
        produced = ZSTD_decompressDCtx(context->dctx, to, output_size, frame, frame_size);
        if (ZSTD_isError(produced) || produced > output_size) {
            return -EIO;
        }
        frame += frame_size;
        input_size -= frame_size;
        to += produced;
        output_size -= produced;
    }
    return 0;
}

static const struct codec_decoder zstd_decoder = {
    .create = zstd_create,
    .destroy = zstd_destroy,
    .decompress = zstd_decompress,
};

const struct codec_decoder *codec_zstd_decoder(enum codec_backend backend)
{
    (void)backend;
    return &zstd_decoder;
}

#else

const struct codec_decoder *codec_zstd_decoder(enum codec_backend backend)
{
    (void)backend;
    return NULL;
}

#endif
