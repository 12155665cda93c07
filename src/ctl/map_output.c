/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/map_output.h"

#include "store/opener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- what must not be replaced ------------------------------------------------------ */

static bool is_file(struct store *store, const struct stat *status)
{
    struct store_info info;

    return store_info(store, &info) == 0 && info.device == status->st_dev &&
           info.inode == status->st_ino;
}

static bool is_of_chain(const struct image *image, const struct stat *status)
{
    for (; image != NULL; image = image->backing) {
        if (is_file(image->file, status) ||
            (image->data_file != NULL && is_file(image->data_file, status))) {
            return true;
        }
    }
    return false;
}

/* Whether the file is empty, or begins as a picture does. */
static bool may_be_replaced(const char *path, const struct stat *status)
{
    char start[5] = "";
    ssize_t length;
    int fd;

    if (status->st_size == 0) {
        return true;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return false;
    }
    length = read(fd, start, sizeof(start));
    close(fd);
    return length == (ssize_t)sizeof(start) &&
           (memcmp(start, "<?xml", 5) == 0 || memcmp(start, "<svg ", 5) == 0);
}

/* --- where it will be ---------------------------------------------------------------- */

/* Where a link leads, so that the link stays; else the name itself. For the caller to free. */
static char *real_place(const char *path)
{
    char *real = realpath(path, NULL);

    return real != NULL ? real : strdup(path);
}

int map_output_place(const char *path, struct map_output *output, struct error *error)
{
    struct stat status;

    *output = (struct map_output){.named = path};
    if (strcmp(path, "-") == 0) {
        return 0;
    }
    if (stat(path, &status) == 0) {
        output->is_there = true;
        output->is_regular = S_ISREG(status.st_mode);
        output->is_picture = output->is_regular && may_be_replaced(path, &status);
    } else if (errno != ENOENT) {
        return error_set(error, errno, "%s: the picture cannot be made there: %s", path,
                         strerror(errno));
    }
    output->path = real_place(path);
    if (output->path == NULL ||
        asprintf(&output->temporary, "%s.%ld.part", output->path, (long)getpid()) < 0) {
        free(output->path);
        *output = (struct map_output){0};
        return error_set(error, ENOMEM, "%s: out of memory", path);
    }
    return 0;
}

void map_output_release(struct map_output *output)
{
    free(output->temporary);
    free(output->path);
    *output = (struct map_output){0};
}

/* --- writing ------------------------------------------------------------------------- */

/* 0 where there is nothing of that name, or something that may be replaced. */
static int check_place(const struct map_output *output, const struct image *image,
                       struct error *error)
{
    struct stat status;

    if (opener_stat(output->path, &status) == 0 && is_of_chain(image, &status)) {
        return error_set(error, EINVAL,
                         "%s: this is a file of the image itself; name another for the picture",
                         output->named);
    }
    if (output->is_there && !output->is_regular) {
        return error_set(error, EINVAL,
                         "%s: this is no regular file; name one for the picture, or - for "
                         "standard output",
                         output->named);
    }
    if (output->is_there && !output->is_picture) {
        return error_set(error, EEXIST,
                         "%s: this file exists and is no picture; remove it first, or name another",
                         output->named);
    }
    return 0;
}

int map_output_open(struct map_output *output, const struct image *image, struct error *error)
{
    int fd, r;

    if (output->path == NULL) {
        output->file = stdout;
        return 0;
    }
    r = check_place(output, image, error);
    if (r != 0) {
        return r;
    }
    fd = opener_make(output->temporary);
    if (fd < 0) {
        return error_set(error, -fd, "%s: the picture cannot be made: %s", output->temporary,
                         strerror(-fd));
    }
    output->file = fdopen(fd, "w");
    if (output->file == NULL) {
        (void)opener_remove(output->temporary);
        close(fd);
        return error_set(error, ENOMEM, "%s: out of memory", output->path);
    }
    return 0;
}

int map_output_close(struct map_output *output, struct error *error)
{
    int r = 0;

    if (output->path == NULL) {
        return 0; /* main() looks after standard output */
    }
    if (ferror(output->file) || fflush(output->file) != 0) {
        r = errno != 0 ? -errno : -EIO;
    }
    if (fclose(output->file) != 0 && r == 0) {
        r = -errno;
    }
    if (r == 0) {
        r = opener_replace(output->temporary, output->path);
    }
    if (r != 0) {
        (void)opener_remove(output->temporary);
        error_set(error, -r, "%s: the picture could not be written: %s", output->path,
                  strerror(-r));
    }
    return r;
}

void map_output_abandon(struct map_output *output)
{
    if (output->path != NULL) {
        fclose(output->file);
        (void)opener_remove(output->temporary);
    }
}
