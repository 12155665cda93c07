/* SPDX-License-Identifier: MIT */
/*
 * Replaces the header of an image that exists, so that a crash leaves the old
 * one or the new one, also where the host writes no more than a sector as a
 * whole. What spans several sectors is brought into force by the first one:
 *
 *     0     512                  length        behind
 *     | old | old extensions, name |              |        what was
 *     | old | old extensions, name | new, whole   |        sync
 *     | new fields, one extension that is no more than a leap to there   sync
 *     | .... | new extensions, name | new, whole  |        sync
 *     | new | new extensions, name | new, whole   |        sync
 *     | new | new extensions, name | zeros        |        what is to be
 *
 * Where clusters are too small to hold both, one write must do.
 */
#ifndef META_HEADER_REPLACE_H
#define META_HEADER_REPLACE_H

#include "meta/gate.h"
#include "meta/header_write.h"

/*
 * As header_write(), of an image whose `rest` was read just now; stable when it
 * returns 0. Each write of it passes `gate`, which is that of `file` (R8). Errors as there.
 */
int header_replace(struct gate *gate, struct store *file, const struct header *header,
                   const struct header_rest *rest, const char *name, struct error *error);

#endif
