/* SPDX-License-Identifier: MIT */
/*
 * What the files of this room share, where they are built with libgcrypt. It is loaded when it is
 * first needed (crypto_begin()): few images are encrypted, and linked it would be a tenth of the
 * time that any other takes to be mounted. So its functions are pointers here, under their names.
 */
#ifndef CRYPTO_LIBRARY_INTERNAL_H
#define CRYPTO_LIBRARY_INTERNAL_H

#include <gcrypt.h>

#define CRYPTO_FUNCTIONS(USE)   \
    USE(check_version)          \
    USE(cipher_algo_info)       \
    USE(cipher_close)           \
    USE(cipher_decrypt)         \
    USE(cipher_encrypt)         \
    USE(cipher_get_algo_blklen) \
    USE(cipher_open)            \
    USE(cipher_setctr)          \
    USE(cipher_setiv)           \
    USE(cipher_setkey)          \
    USE(control)                \
    USE(free)                   \
    USE(kdf_derive)             \
    USE(malloc_secure)          \
    USE(md_algo_info)           \
    USE(md_close)               \
    USE(md_get_algo_dlen)       \
    USE(md_hash_buffer)         \
    USE(md_open)                \
    USE(md_read)                \
    USE(md_reset)               \
    USE(md_write)               \
    USE(randomize)

#define CRYPTO_FUNCTION(name) __typeof__(&gcry_##name) name;
struct crypto_functions {
    CRYPTO_FUNCTIONS(CRYPTO_FUNCTION)
};
#undef CRYPTO_FUNCTION

/* Filled in by crypto_begin(), and never changed from then on. */
extern struct crypto_functions crypto_functions;

#define gcry_check_version          crypto_functions.check_version
#define gcry_cipher_algo_info       crypto_functions.cipher_algo_info
#define gcry_cipher_close           crypto_functions.cipher_close
#define gcry_cipher_decrypt         crypto_functions.cipher_decrypt
#define gcry_cipher_encrypt         crypto_functions.cipher_encrypt
#define gcry_cipher_get_algo_blklen crypto_functions.cipher_get_algo_blklen
#define gcry_cipher_open            crypto_functions.cipher_open
#define gcry_cipher_setctr          crypto_functions.cipher_setctr
#define gcry_cipher_setiv           crypto_functions.cipher_setiv
#define gcry_cipher_setkey          crypto_functions.cipher_setkey
#define gcry_control                crypto_functions.control
#define gcry_free                   crypto_functions.free
#define gcry_kdf_derive             crypto_functions.kdf_derive
#define gcry_malloc_secure          crypto_functions.malloc_secure
#define gcry_md_algo_info           crypto_functions.md_algo_info
#define gcry_md_close               crypto_functions.md_close
#define gcry_md_get_algo_dlen       crypto_functions.md_get_algo_dlen
#define gcry_md_hash_buffer         crypto_functions.md_hash_buffer
#define gcry_md_open                crypto_functions.md_open
#define gcry_md_read                crypto_functions.md_read
#define gcry_md_reset               crypto_functions.md_reset
#define gcry_md_write               crypto_functions.md_write
#define gcry_randomize              crypto_functions.randomize

/* The library's number of a hash (enum gcry_md_algos), or 0 for one that is not known. */
int crypto_hash(const char *name);

#endif
