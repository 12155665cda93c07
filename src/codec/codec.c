/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "codec/codec.h"

#include "codec/backend.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

/*
 * A context is 100 to 200 KiB. Kept for each thread that ever decompressed they would be more
 * memory than processors can use.
 */
#define IDLE_MAX       4
#define INPUT_KEPT_MAX ((size_t)128 << 10) /* bytes; larger than that only of large clusters */
#define INPUT_UNIT     ((size_t)4 << 10)

struct codec {
    const struct codec_decoder *decoder;
    pthread_mutex_t mutex; /* guards what follows; a leaf, never held during the work */
    struct codec_context *idle;
    unsigned idle_count; /* at most IDLE_MAX */
};

static const struct compression {
    const char *name;
    const char *library;
    const struct codec_decoder *(*decoder)(enum codec_backend backend);
} compressions[] = {
    [COMPRESSION_DEFLATE] = {"zlib", "zlib", codec_deflate_decoder},
    [COMPRESSION_ZSTD] = {"zstd", "libzstd", codec_zstd_decoder},
};

static const struct compression *compression_find(uint8_t type)
{
    return type < sizeof(compressions) / sizeof(compressions[0]) ? &compressions[type] : NULL;
}

const char *compression_type_name(uint8_t type)
{
    const struct compression *compression = compression_find(type);

    return compression == NULL ? NULL : compression->name;
}

const char *compression_type_missing(uint8_t type)
{
    const struct compression *compression = compression_find(type);

    if (compression == NULL || compression->decoder(CODEC_FASTEST) != NULL) {
        return NULL;
    }
    return compression->library;
}

int codec_create(uint8_t type, enum codec_backend backend, struct codec **codec)
{
    const struct compression *compression = compression_find(type);
    const struct codec_decoder *decoder;
    struct codec *created;

    decoder = compression == NULL ? NULL : compression->decoder(backend);
    if (decoder == NULL) {
        return -ENOTSUP;
    }
    created = malloc(sizeof(*created));
    if (created == NULL) {
        return -ENOMEM;
    }
    created->decoder = decoder;
    created->idle = NULL;
    created->idle_count = 0;
    pthread_mutex_init(&created->mutex, NULL);
    *codec = created;
    return 0;
}

static void context_destroy(struct codec *codec, struct codec_context *context)
{
    free(context->input);
    codec->decoder->destroy(context);
}

void codec_destroy(struct codec *codec)
{
    if (codec == NULL) {
        return;
    }
    while (codec->idle != NULL) {
        struct codec_context *context = codec->idle;

        codec->idle = context->next;
        context_destroy(codec, context);
    }
    pthread_mutex_destroy(&codec->mutex);
    free(codec);
}

/* The context used last is the one whose memory a CPU cache still holds, so the list is a stack. */
static struct codec_context *context_borrow(struct codec *codec)
{
    struct codec_context *context;

    pthread_mutex_lock(&codec->mutex);
    context = codec->idle;
    if (context != NULL) {
        codec->idle = context->next;
        codec->idle_count--;
    }
    pthread_mutex_unlock(&codec->mutex);
    return context != NULL ? context : codec->decoder->create();
}

static void context_return(struct codec *codec, struct codec_context *context)
{
    bool kept;

    pthread_mutex_lock(&codec->mutex);
    kept = codec->idle_count < IDLE_MAX;
    if (kept) {
        context->next = codec->idle;
        codec->idle = context;
        codec->idle_count++;
    }
    pthread_mutex_unlock(&codec->mutex);
    if (!kept) {
        context_destroy(codec, context);
    }
}

/* Makes room for `size` bytes in context->input. 0 or -ENOMEM. */
static int input_reserve(struct codec_context *context, size_t size)
{
    size_t rounded = (size / INPUT_UNIT + 1) * INPUT_UNIT;
    void *input;

    if (size <= context->input_size) {
        return 0;
    }
    input = malloc(rounded);
    if (input == NULL) {
        return -ENOMEM;
    }
    free(context->input);
    context->input = input;
    context->input_size = rounded;
    return 0;
}

static void input_trim(struct codec_context *context)
{
    if (context->input_size > INPUT_KEPT_MAX) {
        free(context->input);
        context->input = NULL;
        context->input_size = 0;
    }
}

int codec_decompress(struct codec *codec, const void *input, size_t input_size, void *output,
                     size_t output_size)
{
    struct codec_context *context;
    int result;

    if (output_size == 0) {
        return 0;
    }
    context = context_borrow(codec);
    if (context == NULL) {
        return -ENOMEM;
    }
    result = codec->decoder->decompress(context, input, input_size, output, output_size);
    context_return(codec, context);
    return result;
}

int codec_decompress_read(struct codec *codec, codec_read_fn *read, void *read_context,
                          size_t input_size, void *output, size_t output_size)
{
    struct codec_context *context = context_borrow(codec);
    int result;

    if (context == NULL) {
        return -ENOMEM;
    }
    result = input_reserve(context, input_size);
    if (result == 0) {
        result = read(read_context, context->input, input_size);
    }
    if (result == 0 && output_size > 0) {
        result =
            codec->decoder->decompress(context, context->input, input_size, output, output_size);
        result = result == -EIO ? -EBADMSG : result;
    }
    input_trim(context);
    context_return(codec, context);
    return result;
}
