/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/inherited.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Also within an option's value. */
static bool names(const char *argument, const char *directory, int number)
{
    size_t length = strlen(directory);

    for (const char *at = strstr(argument, directory); at != NULL; at = strstr(at, directory)) {
        char *end;

        at += length;
        if (strtol(at, &end, 10) == number && end > at) {
            return true;
        }
    }
    return false;
}

static bool is_named(char *const *arguments, int number)
{
    for (; *arguments != NULL; arguments++) {
        if (names(*arguments, "/dev/fd/", number) || names(*arguments, "/self/fd/", number)) {
            return true;
        }
    }
    return false;
}

static void add(struct inherited *inherited, int number)
{
    int *longer = realloc(inherited->numbers, (inherited->count + 1) * sizeof(*longer));

    if (longer != NULL) {
        longer[inherited->count++] = number;
        inherited->numbers = longer;
    }
}

void inherited_find(struct inherited *inherited, char *const *arguments, int used)
{
    DIR *stream = opendir("/proc/self/fd");
    struct dirent *item;

    *inherited = (struct inherited){0};
    while (stream != NULL && (item = readdir(stream)) != NULL) {
        int number = item->d_name[0] != '.' ? (int)strtol(item->d_name, NULL, 10) : -1;

        /* What a library has opened already is its own, and has the flag: it came by no exec. */
        if (number > STDERR_FILENO && number != used && number != dirfd(stream) &&
            (fcntl(number, F_GETFD) & FD_CLOEXEC) == 0 && !is_named(arguments, number)) {
            add(inherited, number);
        }
    }
    if (stream != NULL) {
        closedir(stream);
    }
}

void inherited_close(const struct inherited *inherited)
{
    for (size_t i = 0; i < inherited->count; i++) {
        close(inherited->numbers[i]);
    }
}

void inherited_release(struct inherited *inherited)
{
    free(inherited->numbers);
    *inherited = (struct inherited){0};
}
