/* SPDX-License-Identifier: MIT */
/* What commands that examine say of the times of access that they may change (disk/traces.h). */
#ifndef CTL_TOLD_TRACES_H
#define CTL_TOLD_TRACES_H

#include "admin/inspect.h"
#include "ctl/command.h"
#include "disk/image.h"

/* A warning, where there is something to say. */
void ctl_tell_traces(struct ctl *ctl, const struct image *image);
void ctl_tell_inspected_traces(struct ctl *ctl, const struct inspection *image);

#endif
