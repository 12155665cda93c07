/* SPDX-License-Identifier: MIT */
/*
 * A directory of its own for the tests of one case, under $QCOW2FS_TMP (or /tmp,
 * without that and for root where not everybody can get there), that is the
 * current directory while they run: they name files "a", "b". To be used as
 *
 *     tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
 *
 * so that it is removed after failed tests too.
 */
#ifndef UNIT_SCRATCH_H
#define UNIT_SCRATCH_H

#include <stddef.h>

void scratch_enter(void);
void scratch_leave(void);

/* Makes (or replaces) a file in it of these bytes; a failure fails the test. */
void scratch_file(const char *name, const void *bytes, size_t size);

#endif
