/* SPDX-License-Identifier: MIT */
/*
 * Compression of one cluster: bytes in, bytes out. The other direction of codec/codec.h.
 *
 * A compressor is scratch memory, of one thread at a time: who compresses with several threads
 * makes one for each.
 */
#ifndef CODEC_COMPRESS_H
#define CODEC_COMPRESS_H

#include "codec/codec.h"

#include <stddef.h>
#include <stdint.h>

struct compressor;

/*
 * Of libdeflate, where that is built in and `backend` is CODEC_FASTEST, or of zlib or libzstd. 0;
 * -ENOTSUP where this build has not the library; -ENOMEM.
 */
int compressor_create(uint8_t type, enum codec_backend backend, struct compressor **compressor);
void compressor_destroy(struct compressor *compressor);

/*
 * Compresses `size` bytes (of a cluster: at most 2 MiB), so that codec_decompress() of the result
 * gives them back. How many bytes of `output` that takes; 0 where it is more than `room`.
 */
size_t compressor_run(struct compressor *compressor, const void *input, size_t size, void *output,
                      size_t room);

#endif
