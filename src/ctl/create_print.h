/* SPDX-License-Identifier: MIT */
/* What `qcow2ctl create` says of the image that it has made. */
#ifndef CTL_CREATE_PRINT_H
#define CTL_CREATE_PRINT_H

#include "admin/create.h"
#include "ctl/command.h"

/* "falloc" */
const char *create_preallocation_name(enum preallocation preallocation);

/* One line, nothing, or JSON, as `common` says. 0, or a negative errno with a sentence. */
int create_print(struct ctl *ctl, const struct create_parameters *parameters,
                 const struct create_plan *plan, const struct common_flags *common);

#endif
