/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define STACK_SIZE ((size_t)1 << 20)

int process_hold_standard_descriptors(void)
{
    for (int wanted = STDIN_FILENO; wanted <= STDERR_FILENO; wanted++) {
        if (fcntl(wanted, F_GETFD) >= 0) {
            continue;
        }
        /* Where even that is missing, something that cannot be read or written. */
        if (open("/dev/null", O_RDWR) < 0 && open("/", O_PATH) < 0) {
            return -errno;
        }
    }
    return 0;
}

unsigned process_processors(void)
{
    cpu_set_t allowed;

    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
        return 1;
    }
    return (unsigned)CPU_COUNT(&allowed);
}

void process_limit_stacks(void)
{
    pthread_attr_t attributes;
    size_t size;

    if (pthread_getattr_default_np(&attributes) != 0) {
        return;
    }
    if (pthread_attr_getstacksize(&attributes, &size) == 0 && size > STACK_SIZE &&
        pthread_attr_setstacksize(&attributes, STACK_SIZE) == 0) {
        (void)pthread_setattr_default_np(&attributes);
    }
    pthread_attr_destroy(&attributes);
}

/* What a thread with a name begins with. */
struct beginning {
    const char *name;
    void *(*run)(void *context);
    void *context;
};

/* The name of another thread is a file, which nobody can open in a box (util/box.h). */
static void *begin(void *argument)
{
    struct beginning beginning = *(struct beginning *)argument;

    free(argument);
    (void)pthread_setname_np(pthread_self(), beginning.name);
    return beginning.run(beginning.context);
}

static int create(pthread_t *thread, const char *name, void *(*run)(void *context), void *context)
{
    struct beginning *beginning;
    int result;

    if (name == NULL) {
        return -pthread_create(thread, NULL, run, context);
    }
    beginning = malloc(sizeof(*beginning));
    if (beginning == NULL) {
        return -ENOMEM;
    }
    *beginning = (struct beginning){.name = name, .run = run, .context = context};
    result = -pthread_create(thread, NULL, begin, beginning);
    if (result < 0) {
        free(beginning);
    }
    return result;
}

int process_start_thread(pthread_t *thread, const char *name, void *(*run)(void *context),
                         void *context)
{
    sigset_t all, before;
    int result;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = create(thread, name, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

bool process_may_leave_memory(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(leak_sanitizer)
    return false;
#else
    return true;
#endif
#else
    return true;
#endif
}

void process_raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

bool process_real_user(pid_t pid, uid_t *user)
{
    char path[48], line[256];
    bool found = false;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%ld/status", (long)pid);
    file = fopen(path, "re");
    while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
        unsigned number;

        found = sscanf(line, "Uid: %u", &number) == 1;
        *user = number;
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

/* The number of the connection that such a descriptor is one of; 0: it is none, or is not said. */
static unsigned connection_of(int descriptors, const char *number)
{
    int file = openat(descriptors, number, O_RDONLY | O_CLOEXEC);
    char text[1024];
    const char *found;
    ssize_t length;

    if (file < 0) {
        return 0;
    }
    length = read(file, text, sizeof(text) - 1);
    close(file);
    text[length > 0 ? length : 0] = '\0';
    found = strstr(text, "fuse_connection:");
    return found != NULL ? (unsigned)strtoul(strchr(found, ':') + 1, NULL, 10) : 0;
}

bool process_visit_connections(pid_t pid, bool (*each)(void *context, unsigned number),
                               void *context)
{
    char path[48];
    struct dirent *item;
    bool ended = false;
    DIR *stream;

    snprintf(path, sizeof(path), "/proc/%ld/fdinfo", (long)pid);
    stream = opendir(path);
    while (stream != NULL && !ended && (item = readdir(stream)) != NULL) {
        unsigned number = item->d_name[0] != '.' ? connection_of(dirfd(stream), item->d_name) : 0;

        ended = number != 0 && each(context, number);
    }
    if (stream != NULL) {
        closedir(stream);
    }
    return ended;
}

int process_find_room(unsigned descriptors)
{
    int opened = open("/", O_PATH | O_CLOEXEC), result = 0;

    if (opened < 0) {
        return -errno;
    }
    if (descriptors > 1) {
        result = process_find_room(descriptors - 1);
    }
    close(opened);
    return result;
}
