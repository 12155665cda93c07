/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "codec/codec.h"

#include "codec/backend.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct codec {
    const struct codec_decoder *decoder;
    pthread_mutex_t mutex;      /* guards `idle`; a leaf, never held during the work */
    struct codec_context *idle; /* as many as threads ever decompressed at once */
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
    pthread_mutex_init(&created->mutex, NULL);
    *codec = created;
    return 0;
}

void codec_destroy(struct codec *codec)
{
    if (codec == NULL) {
        return;
    }
    while (codec->idle != NULL) {
        struct codec_context *context = codec->idle;

        codec->idle = context->next;
        codec->decoder->destroy(context);
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
    }
    pthread_mutex_unlock(&codec->mutex);
    return context != NULL ? context : codec->decoder->create();
}

static void context_return(struct codec *codec, struct codec_context *context)
{
    pthread_mutex_lock(&codec->mutex);
    context->next = codec->idle;
    codec->idle = context;
    pthread_mutex_unlock(&codec->mutex);
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
