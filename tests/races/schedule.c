/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "schedule.h"

#include "crash/tools.h"
#include "crypto/cipher.h"
#include "util/process.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TASKS_MAX    512                  /* of one run, with those that have ended */
#define POINTS_MAX   (UINT64_C(50) << 20) /* more: the run does not end */
#define TIMEOUT_ODDS 48                   /* one of so many switches lets a timeout come, if any */
#define WAKE_ODDS    64                   /* one of so many waits ends without a reason */

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __real_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int __real_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                  const struct timespec *until);
int __real_pthread_cond_signal(pthread_cond_t *cond);
int __real_pthread_cond_broadcast(pthread_cond_t *cond);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *context);
int __real_pthread_join(pthread_t thread, void **result);

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                  const struct timespec *until);
int __wrap_pthread_cond_signal(pthread_cond_t *cond);
int __wrap_pthread_cond_broadcast(pthread_cond_t *cond);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *context);
int __wrap_pthread_join(pthread_t thread, void **result);
unsigned __wrap_process_processors(void);
size_t __wrap_cipher_piece(const struct cipher *cipher);

/* A small host must not keep the threads that help from being looked at, */
unsigned __wrap_process_processors(void)
{
    return 4;
}

/* nor small disks. */
size_t __wrap_cipher_piece(const struct cipher *cipher)
{
    (void)cipher;
    return CIPHER_SECTOR;
}

enum task_state {
    TASK_READY,
    TASK_ON_MUTEX,
    TASK_ON_COND,
    TASK_ON_JOIN,
    TASK_DONE,
};

struct task {
    sem_t go; /* it is this one's turn */
    pthread_t thread;
    void *(*run)(void *);
    void *context;
    enum task_state state;
    const void *what; /* that it waits for */
    bool timed, timed_out;
    uint64_t until; /* the point at which its pause ends */
};

/* Serial: touched only by the thread whose turn it is. */
static struct {
    bool on;
    struct schedule_options options;
    struct chance chance;
    struct task *tasks[TASKS_MAX];
    size_t count;
    uint64_t points, switches;
    void (*report)(void);
} schedule;

static _Thread_local struct task *self;

/* --- Free ------------------------------------------------------------------------------------- */

static atomic_uint_fast64_t free_threads;

static void free_pause(void)
{
    static _Thread_local struct chance chance;
    const struct schedule_options *options = &schedule.options;

    if (!schedule.on || !options->free) {
        return;
    }
    if (chance.state == 0) {
        chance = chance_from(options->seed, 11, atomic_fetch_add(&free_threads, 1));
    }
    if (chance_below(&chance, options->often) == 0) {
        long usecs = 1 + (long)chance_below(&chance, options->longest);

        nanosleep(&(struct timespec){.tv_nsec = usecs * 1000}, NULL);
    }
}

/* --- Serial: whose turn it is ---------------------------------------------------------------- */

static _Noreturn void deadlock(void)
{
    static const char *const names[] = {"ready", "waits for a mutex", "waits for a condition",
                                        "joins", "has ended"};

    for (size_t i = 0; i < schedule.count; i++) {
        printf("  thread %zu %s\n", i, names[schedule.tasks[i]->state]);
    }
    if (schedule.report != NULL) {
        schedule.report();
    }
    fflush(stdout);
    _exit(1);
}

/* Of the tasks for which `fits` is true, one by chance, or NULL. */
static struct task *choose(bool (*fits)(const struct task *task, const void *what),
                           const void *what)
{
    struct task *chosen = NULL;
    uint64_t count = 0;

    for (size_t i = 0; i < schedule.count; i++) {
        struct task *task = schedule.tasks[i];

        if (fits(task, what) && chance_below(&schedule.chance, ++count) == 0) {
            chosen = task;
        }
    }
    return chosen;
}

static bool is_awake(const struct task *task, const void *what)
{
    (void)what;
    return task->state == TASK_READY && task->until <= schedule.points;
}

static bool is_timed(const struct task *task, const void *what)
{
    (void)what;
    return task->state == TASK_ON_COND && task->timed;
}

static bool waits_for_cond(const struct task *task, const void *what)
{
    return task->state == TASK_ON_COND && task->what == what;
}

/* The ready task whose pause ends first. */
static struct task *first_to_wake(void)
{
    struct task *first = NULL;

    for (size_t i = 0; i < schedule.count; i++) {
        struct task *task = schedule.tasks[i];

        if (task->state == TASK_READY && (first == NULL || task->until < first->until)) {
            first = task;
        }
    }
    return first;
}

static struct task *next_task(void)
{
    struct task *next = NULL;

    if (chance_below(&schedule.chance, TIMEOUT_ODDS) == 0) {
        next = choose(is_timed, NULL);
    }
    if (next == NULL) {
        next = choose(is_awake, NULL);
    }
    if (next == NULL) {
        next = first_to_wake();
    }
    if (next == NULL) {
        next = choose(is_timed, NULL);
    }
    if (next == NULL) {
        printf("DEADLOCK: nobody can run\n");
        deadlock();
    }
    if (next->state == TASK_ON_COND) {
        next->timed_out = true;
        next->state = TASK_READY;
    }
    return next;
}

/* Gives the turn to another; returns when it is this one's again. */
static void give_turn(struct task *me)
{
    struct task *next = next_task();

    if (next != me) {
        schedule.switches++;
        sem_post(&next->go);
        while (sem_wait(&me->go) != 0) {
        }
    }
}

static void serial_point(struct task *me)
{
    if (++schedule.points > POINTS_MAX) {
        printf("NO END: %llu points\n", (unsigned long long)schedule.points);
        deadlock();
    }
    if (chance_below(&schedule.chance, schedule.options.often) == 0) {
        me->until = schedule.points + chance_below(&schedule.chance, schedule.options.longest);
        give_turn(me);
    }
}

void schedule_point(void)
{
    if (self != NULL) {
        serial_point(self);
    } else {
        free_pause();
    }
}

/* --- Serial: locks ---------------------------------------------------------------------------- */

static void wake(enum task_state state, const void *what)
{
    for (size_t i = 0; i < schedule.count; i++) {
        struct task *task = schedule.tasks[i];

        if (task->state == state && task->what == what) {
            task->state = TASK_READY;
        }
    }
}

static void serial_lock(struct task *me, pthread_mutex_t *mutex)
{
    while (pthread_mutex_trylock(mutex) != 0) {
        me->state = TASK_ON_MUTEX;
        me->what = mutex;
        give_turn(me);
    }
}

static void serial_unlock(pthread_mutex_t *mutex)
{
    __real_pthread_mutex_unlock(mutex);
    wake(TASK_ON_MUTEX, mutex);
}

static int serial_wait(struct task *me, pthread_cond_t *cond, pthread_mutex_t *mutex, bool timed)
{
    serial_unlock(mutex);
    me->timed = timed;
    me->timed_out = false;
    if (chance_below(&schedule.chance, WAKE_ODDS) != 0) {
        me->state = TASK_ON_COND;
        me->what = cond;
    }
    give_turn(me);
    serial_lock(me, mutex);
    return me->timed_out ? ETIMEDOUT : 0;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    schedule_point();
    if (self == NULL) {
        return __real_pthread_mutex_lock(mutex);
    }
    serial_lock(self, mutex);
    return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    if (self == NULL) {
        int result = __real_pthread_mutex_unlock(mutex);

        free_pause();
        return result;
    }
    serial_unlock(mutex);
    serial_point(self);
    return 0;
}

int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    return self == NULL ? __real_pthread_cond_wait(cond, mutex)
                        : serial_wait(self, cond, mutex, false);
}

/* Seconds are milliseconds here: nobody waits for a ticker. */
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                  const struct timespec *until)
{
    struct timespec soon;

    if (self != NULL) {
        return serial_wait(self, cond, mutex, true);
    }
    clock_gettime(CLOCK_MONOTONIC, &soon);
    if (schedule.on && until->tv_sec >= soon.tv_sec) {
        soon.tv_nsec += 1000000 * (1 + until->tv_sec - soon.tv_sec);
        soon.tv_sec += soon.tv_nsec / 1000000000;
        soon.tv_nsec %= 1000000000;
        until = &soon;
    }
    return __real_pthread_cond_timedwait(cond, mutex, until);
}

int __wrap_pthread_cond_signal(pthread_cond_t *cond)
{
    struct task *task;

    if (self == NULL) {
        return __real_pthread_cond_signal(cond);
    }
    task = choose(waits_for_cond, cond);
    if (task != NULL) {
        task->state = TASK_READY;
    }
    return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *cond)
{
    if (self == NULL) {
        return __real_pthread_cond_broadcast(cond);
    }
    wake(TASK_ON_COND, cond);
    return 0;
}

/* --- Serial: threads ---------------------------------------------------------------------------
 */

static struct task *add_task(void *(*run)(void *), void *context)
{
    struct task *task = grab(sizeof(*task));

    if (schedule.count == TASKS_MAX) {
        die("more than %d threads in one run", TASKS_MAX);
    }
    task->run = run;
    task->context = context;
    sem_init(&task->go, 0, 0);
    schedule.tasks[schedule.count++] = task;
    return task;
}

static void *run_task(void *context)
{
    struct task *task = context;
    void *result;

    while (sem_wait(&task->go) != 0) {
    }
    self = task;
    result = task->run(task->context);
    self = NULL;
    task->state = TASK_DONE;
    wake(TASK_ON_JOIN, task);
    sem_post(&next_task()->go);
    return result;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *context)
{
    struct task *task;
    int result;

    if (self == NULL) {
        return __real_pthread_create(thread, attributes, run, context);
    }
    task = add_task(run, context);
    result = __real_pthread_create(thread, attributes, run_task, task);
    if (result != 0) {
        die("no thread can be created: %s", strerror(result));
    }
    task->thread = *thread;
    serial_point(self);
    return 0;
}

int __wrap_pthread_join(pthread_t thread, void **result)
{
    for (size_t i = 0; self != NULL && i < schedule.count; i++) {
        struct task *task = schedule.tasks[i];

        /* The number of a thread that was joined may be another's by now. */
        if (task->run != NULL && pthread_equal(task->thread, thread)) {
            while (task->state != TASK_DONE) {
                self->state = TASK_ON_JOIN;
                self->what = task;
                give_turn(self);
            }
            task->run = NULL;
        }
    }
    return __real_pthread_join(thread, result);
}

/* --- Begin and end ---------------------------------------------------------------------------- */

void schedule_begin(const struct schedule_options *options)
{
    schedule.options = *options;
    schedule.chance = chance_from(options->seed, 10, 0);
    schedule.points = schedule.switches = 0;
    schedule.count = 0;
    schedule.on = true;
    atomic_store(&free_threads, 0);
    if (!options->free) {
        self = add_task(NULL, NULL);
    }
}

void schedule_end(void)
{
    schedule.on = false;
    self = NULL;
    for (size_t i = 0; i < schedule.count; i++) {
        sem_destroy(&schedule.tasks[i]->go);
        free(schedule.tasks[i]);
    }
    schedule.count = 0;
}

uint64_t schedule_points(void)
{
    return schedule.points;
}

uint64_t schedule_switches(void)
{
    return schedule.switches;
}

void schedule_on_deadlock(void (*report)(void))
{
    schedule.report = report;
}
