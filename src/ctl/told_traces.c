/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/told_traces.h"

#include "disk/traces.h"

#define HOW "run this as one of them"

void ctl_tell_traces(struct ctl *ctl, const struct image *image)
{
    struct traces traces = {.count = 0};

    traces_add_image(&traces, image);
    traces_tell(&traces, ctl->log, HOW);
}

void ctl_tell_inspected_traces(struct ctl *ctl, const struct inspection *image)
{
    struct traces traces = {.count = 0};

    for (; image != NULL; image = image->backing) {
        traces_add(&traces, image->path, &image->info);
        if (image->data_file_found) {
            traces_add(&traces, image->data_file_path, &image->data_file_info);
        }
    }
    traces_tell(&traces, ctl->log, HOW);
}
