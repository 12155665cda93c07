/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/salvage_map.h"

#include "store/opener.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define DIGITS_MIN 8

/* NULL with errno. */
static FILE *make_file(const char *path)
{
    int fd = opener_make(path);
    FILE *file;

    if (fd < 0) {
        errno = -fd;
        return NULL;
    }
    file = fdopen(fd, "w");
    if (file == NULL) {
        close(fd);
    }
    return file;
}

int salvage_map_open(struct salvage_map *map, struct error *error)
{
    if (map->path == NULL) {
        return 0;
    }
    map->file = make_file(map->path);
    return map->file != NULL
               ? 0
               : error_set(error, errno, "%s: cannot be made: %s; name a file that does not exist",
                           map->path, strerror(errno));
}

/* As long whatever it says, so that it can be written over. */
static void print_head(const struct salvage_map *map, uint64_t reached)
{
    int digits = snprintf(NULL, 0, "%" PRIX64, map->size);

    fprintf(map->file,
            "# Mapfile. Made by qcow2ctl salvage\n"
            "# current_pos  current_status  current_pass\n"
            "0x%0*" PRIX64 "     %c               1\n"
            "#      pos        size  status\n",
            digits > DIGITS_MIN ? digits : DIGITS_MIN, reached, reached == map->size ? '+' : '?');
}

void salvage_map_begin(struct salvage_map *map, uint64_t size)
{
    map->size = size;
    if (map->file != NULL) {
        print_head(map, 0);
        (void)fflush(map->file); /* so that it has a block, also when the host is full later */
    }
}

static void print_run(const struct salvage_map *map, uint64_t end, char status)
{
    if (map->file != NULL && end > map->begin) {
        fprintf(map->file, "0x%08" PRIX64 "  0x%08" PRIX64 "  %c\n", map->begin, end - map->begin,
                status);
    }
}

static void end_run(struct salvage_map *map, uint64_t end)
{
    if (end > map->begin) {
        print_run(map, end, map->run_lost ? '-' : '+');
        map->begin = end;
    }
}

void salvage_map_note(struct salvage_map *map, uint64_t offset, bool lost)
{
    if (lost != map->run_lost) {
        end_run(map, offset);
        map->run_lost = lost;
    }
}

int salvage_map_close(struct salvage_map *map, uint64_t reached, struct error *error)
{
    bool failed;

    if (map->file == NULL) {
        return 0;
    }
    end_run(map, reached);
    print_run(map, map->size, '?');
    if (fseek(map->file, 0, SEEK_SET) == 0) {
        print_head(map, reached);
    }
    failed = ferror(map->file) != 0;
    errno = 0;
    failed |= fflush(map->file) != 0;
    failed |= fclose(map->file) != 0;
    map->file = NULL;
    return !failed ? 0
                   : error_set(error, errno != 0 ? errno : EIO, "%s: cannot be written: %s",
                               map->path, strerror(errno != 0 ? errno : EIO));
}
