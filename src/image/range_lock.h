/* SPDX-License-Identifier: MIT */
/* Moved to util/range_lock.h; here until its last user includes that. */
#ifndef IMAGE_RANGE_LOCK_H
#define IMAGE_RANGE_LOCK_H

#include "util/range_lock.h"

#endif
