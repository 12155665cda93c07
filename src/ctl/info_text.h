/* SPDX-License-Identifier: MIT */
/*
 * What `qcow2ctl info` prints for people: the same as admin/info.h tells in
 * JSON. Nothing that an image holds reaches the terminal as a command.
 */
#ifndef CTL_INFO_TEXT_H
#define CTL_INFO_TEXT_H

#include "admin/info.h"
#include "admin/inspect.h"

#include <stdbool.h>
#include <stdio.h>

/* One image. `extras` may be NULL; `is_top`: with a line for each image behind it. */
void info_text(const struct inspection *inspection, const struct info_extras *extras, bool is_top,
               FILE *out);

/* A table of the snapshots, each line behind `indent`; nothing where there are none. */
void info_text_snapshots(const struct snapshot_table *table, const char *indent, FILE *out);

#endif
