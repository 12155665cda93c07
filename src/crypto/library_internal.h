/* SPDX-License-Identifier: MIT */
/* What the files of this room share, where they are built with libgcrypt. */
#ifndef CRYPTO_LIBRARY_INTERNAL_H
#define CRYPTO_LIBRARY_INTERNAL_H

/* The library's number of a hash (enum gcry_md_algos), or 0 for one that is not known. */
int crypto_hash(const char *name);

#endif
