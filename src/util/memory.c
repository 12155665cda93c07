/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/memory.h"

#include "util/checked.h"

#include <inttypes.h>
#include <limits.h>
#include <link.h>
#ifdef HAVE_MALLOC_TRIM
#include <malloc.h>
#endif
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GROUPS_FILE     "/proc/self/cgroup"
#define GROUPS_ROOT     "/sys/fs/cgroup"
#define GROUPS_TEXT_MAX 4096

#define HEAP_MAX ((uintptr_t)1 << 20) /* bytes of a heap that is small, as at a start */

#ifndef MADV_POPULATE_READ /* since Linux 5.14 */
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

/* The number in the file, or `otherwise`: where there is none ("max"), or no such file. */
static uint64_t number_in(const char *path, uint64_t otherwise)
{
    FILE *file = fopen(path, "re");
    uint64_t number;

    if (file == NULL) {
        return otherwise;
    }
    if (fscanf(file, "%" SCNu64, &number) != 1) {
        number = otherwise;
    }
    fclose(file);
    return number;
}

/* The least limit of the group and of those that it is in. `group` is cut on the way. */
static uint64_t limit_of(const char *root, const char *controller, const char *name, char *group,
                         uint64_t most)
{
    for (;;) {
        char path[PATH_MAX], *last;
        int length = snprintf(path, sizeof(path), "%s%s%s/%s", root, controller, group, name);

        if (length > 0 && (size_t)length < sizeof(path)) {
            most = min_u64(most, number_in(path, most));
        }
        last = strrchr(group, '/');
        if (last == NULL) {
            return most;
        }
        *last = '\0';
    }
}

/* One line: NUMBER:CONTROLLERS:/PATH; the second version of groups has no controllers there. */
static uint64_t limit_of_line(const char *root, char *line, uint64_t most)
{
    char *controllers = strchr(line, ':');
    char *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;

    if (group == NULL) {
        return most;
    }
    *group++ = '\0';
    controllers++;
    if (*controllers == '\0') {
        return limit_of(root, "", "memory.max", group, most);
    }
    if (strcmp(controllers, "memory") == 0) {
        return limit_of(root, "/memory", "memory.limit_in_bytes", group, most);
    }
    return most;
}

uint64_t memory_size_in(uint64_t machine, const char *groups, const char *root)
{
    char *text = strdup(groups), *rest = text, *line;

    while (rest != NULL && (line = strsep(&rest, "\n")) != NULL) {
        machine = limit_of_line(root, line, machine);
    }
    free(text);
    return machine;
}

static uint64_t find_size(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t machine = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    char groups[GROUPS_TEXT_MAX] = "";
    FILE *file = fopen(GROUPS_FILE, "re");

    if (file != NULL) {
        groups[fread(groups, 1, sizeof(groups) - 1, file)] = '\0';
        fclose(file);
    }
    return memory_size_in(machine, groups, GROUPS_ROOT);
}

uint64_t memory_size(void)
{
    /* Found out once: a process in its box cannot ask any more. */
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static uint64_t size;
    static bool known;

    pthread_mutex_lock(&mutex);
    if (!known) {
        size = find_size();
        known = true;
    }
    pthread_mutex_unlock(&mutex);
    return size;
}

/* --- Mapped at once --------------------------------------------------------------------------- */

/* The whole pages in between. */
static void map(uintptr_t from, uintptr_t to, int how)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

    from = (from + page - 1) / page * page;
    to = to / page * page;
    if (from < to) {
        (void)madvise((void *)from, to - from, how);
    }
}

void memory_map(void *memory, size_t bytes)
{
    map((uintptr_t)memory, (uintptr_t)memory + bytes, MADV_POPULATE_WRITE);
}

static bool is_always_used(const char *name)
{
    static const char *const names[] = {"libc.so.", "ld-linux", "ld-musl", "libfuse3.so."};
    const char *file = strrchr(name, '/');

    file = file != NULL ? file + 1 : name;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strncmp(file, names[i], strlen(names[i])) == 0) {
            return true;
        }
    }
    return name[0] == '\0'; /* the program itself */
}

static int map_object(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size;
    (void)context;
    for (unsigned i = 0; i < info->dlpi_phnum && is_always_used(info->dlpi_name); i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t from = info->dlpi_addr + segment->p_vaddr;

        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_W) == 0) {
            map(from, from + segment->p_memsz, MADV_POPULATE_READ);
        }
    }
    return 0;
}

void memory_map_code(void)
{
    (void)dl_iterate_phdr(map_object, NULL);
}

void memory_map_heap(void)
{
    void *low = malloc(1);
    uintptr_t end = (uintptr_t)sbrk(0);

    if (low != NULL && (uintptr_t)low < end && end - (uintptr_t)low <= HEAP_MAX) {
        map((uintptr_t)low, end, MADV_POPULATE_WRITE);
    }
    free(low);
}

void memory_trim(size_t bytes)
{
    if (bytes > HEAP_MAX) {
#ifdef HAVE_MALLOC_TRIM
        malloc_trim(0);
#endif
    }
}
