/* SPDX-License-Identifier: MIT */
/* An export alone, without what stands before it (store/nbd_open.c). Internal to the store. */
#ifndef STORE_NBD_INTERNAL_H
#define STORE_NBD_INTERNAL_H

#include "store/nbd.h"
#include "store/nbd_library.h"

/*
 * As store_nbd_open(), of which all is checked already. `server` is the address to connect to,
 * which lives as long as the store: what `address` stands for.
 */
int nbd_export_open(const char *address, const char *server, const char *what,
                    const struct nbd_library *library, const struct store_file_options *options,
                    struct store **store, struct error *error);

#endif
