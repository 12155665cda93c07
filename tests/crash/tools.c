/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "tools.h"

#include "util/checked.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

void die(const char *format, ...)
{
    va_list arguments;

    fflush(stdout);
    va_start(arguments, format);
    fputs("crash: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

void *grab(size_t size)
{
    void *memory = calloc(1, max_u64(size, 1));

    if (memory == NULL) {
        die("out of memory");
    }
    return memory;
}

void *room(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity) {
        return array;
    }
    *capacity = max_u64(64, *capacity * 2);
    array = realloc(array, *capacity * size);
    if (array == NULL) {
        die("out of memory");
    }
    return array;
}

struct chance chance_from(uint64_t seed, uint64_t a, uint64_t b)
{
    struct chance chance = {seed};

    chance.state = chance_next(&chance) ^ a;
    chance.state = chance_next(&chance) ^ b;
    return chance;
}

uint64_t chance_next(struct chance *chance)
{
    uint64_t mixed = chance->state += UINT64_C(0x9e3779b97f4a7c15);

    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ (mixed >> 31);
}

uint64_t chance_below(struct chance *chance, uint64_t limit)
{
    return chance_next(chance) % limit;
}

uint64_t hash_name(const char *name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (; *name != '\0'; name++) {
        hash = (hash ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
    }
    return hash;
}

int run_program(const char *const *arguments)
{
    pid_t child = fork();
    int status, null;

    if (child == 0) {
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        execvp(arguments[0], (char *const *)(uintptr_t)arguments);
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0 || !WIFEXITED(status) ||
        WEXITSTATUS(status) == 127) {
        die("%s cannot be run", arguments[0]);
    }
    return WEXITSTATUS(status);
}

/* Whether the argument is NAME=VALUE of the setting, which then has the value. */
static bool take(const struct setting *setting, const char *argument)
{
    size_t length = strlen(setting->name);
    const char *value;
    char *end;

    if (strncmp(argument, setting->name, length) != 0 || argument[length] != '=') {
        return false;
    }
    value = argument + length + 1;
    if (setting->text != NULL) {
        *setting->text = value;
        return true;
    }
    *setting->number = strtoull(value, &end, 10);
    if (*end != '\0' || end == value) {
        die("'%s' is no number", argument);
    }
    return true;
}

void take_settings(int count, char **arguments, const struct setting *settings,
                   size_t setting_count)
{
    int i;

    for (i = 1; i < count; i++) {
        size_t at = 0;

        while (at < setting_count && !take(&settings[at], arguments[i])) {
            at++;
        }
        if (at == setting_count) {
            die("'%s' is no option; see tests/crash/README.md", arguments[i]);
        }
    }
}

void tools_keep_memory(void)
{
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 128 << 20);
}

char *scratch_make(void)
{
    const char *parent = getenv("QCOW2FS_TMP");
    char *path = grab(4096);

    if (parent == NULL || access(parent, W_OK) < 0) {
        parent = "/tmp";
    }
    snprintf(path, 4096, "%s/crash-XXXXXX", parent);
    if (mkdtemp(path) == NULL) {
        die("%s: %s", path, strerror(errno));
    }
    return path;
}

void scratch_remove(char *directory)
{
    DIR *opened = opendir(directory);
    struct dirent *entry;

    while (opened != NULL && (entry = readdir(opened)) != NULL) {
        (void)unlinkat(dirfd(opened), entry->d_name, 0);
    }
    if (opened != NULL) {
        closedir(opened);
    }
    (void)rmdir(directory);
    free(directory);
}

void write_file(const char *path, const void *data, uint64_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    uint64_t done = 0;

    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        die("%s: %s", path, strerror(errno));
    }
    while (done < size) {
        ssize_t part = write(fd, (const uint8_t *)data + done, size - done);

        if (part <= 0) {
            die("%s: %s", path, strerror(errno));
        }
        done += (uint64_t)part;
    }
    close(fd);
}

uint8_t *read_file(const char *path, uint64_t *size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t done = 0;
    struct stat status;
    uint8_t *data;

    if (fd < 0 || fstat(fd, &status) < 0) {
        die("%s: %s", path, strerror(errno));
    }
    *size = (uint64_t)status.st_size;
    data = grab(*size);
    while (done < *size) {
        ssize_t part = read(fd, data + done, *size - done);

        if (part < 0) {
            die("%s: cannot be read", path);
        }
        if (part == 0) { /* it has been cut off since: as it is now */
            *size = done;
        }
        done += (uint64_t)part;
    }
    close(fd);
    return data;
}
