/* SPDX-License-Identifier: MIT */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/kernel_options.h"

#include "fuse/ops.h"

#include <fuse_opt.h>
#include <stdio.h>
#include <stdlib.h>

/* Appends NAME=VALUE, escaped. False when memory ran out. */
static bool add_value(char **list, const char *name, const char *value)
{
    char *item;
    bool added;

    if (asprintf(&item, "%s=%s", name, value) < 0) {
        return false;
    }
    added = fuse_opt_add_opt_escaped(list, item) == 0;
    free(item);
    return added;
}

static bool add_if(char **list, bool wanted, const char *option)
{
    return !wanted || fuse_opt_add_opt(list, option) == 0;
}

char *kernel_options(const struct session_settings *settings)
{
    const struct mount_options *options = settings->options;
    const char *image_path = image_named(settings->source->image)->path;
    char *absolute = realpath(image_path, NULL);
    const char *fsname = absolute != NULL ? absolute : image_path;
    char max_read[32];
    char *list = NULL;
    bool complete;

    snprintf(max_read, sizeof(max_read), "max_read=%u", OPS_REQUEST_MAX);
    complete = add_if(&list, options->kernel != NULL, options->kernel) &&
               add_if(&list, settings->source->writer == NULL, "ro") &&
               fuse_opt_add_opt(&list, "default_permissions") == 0 &&
               fuse_opt_add_opt(&list, max_read) == 0 &&
               add_if(&list, options->allow_other.value, "allow_other") &&
               add_if(&list, options->allow_root.value, "allow_root") &&
               add_if(&list, options->io_uring.value, "io_uring") &&
               add_value(&list, "fsname", options->fsname != NULL ? options->fsname : fsname) &&
               add_value(&list, "subtype", options->subtype != NULL ? options->subtype : "qcow2fs");
    free(absolute);
    if (!complete) {
        free(list);
        return NULL;
    }
    return list;
}
