/* SPDX-License-Identifier: MIT */
/* With a libfuse of its own, of which a request is what the test makes of it. */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/long_requests.h"
#include "suite.h"

#include <fuse_lowlevel.h>
#include <semaphore.h>
#include <stdlib.h>

/* --- libfuse -------------------------------------------------------------------------------- */

struct fuse_req {
    bool interrupted;
    fuse_interrupt_func_t func;
    void *data;
    sem_t *go_on; /* what serving it waits for, or NULL */
    sem_t began;
    sem_t *then; /* posted at its end */
    bool waits_for_stop;
    bool was_stopped;
    pthread_t server;
    int answer;
};

static atomic_bool session_has_ended;

int fuse_session_exited(struct fuse_session *session)
{
    (void)session;
    return atomic_load(&session_has_ended);
}

void fuse_req_interrupt_func(fuse_req_t request, fuse_interrupt_func_t func, void *data)
{
    request->func = func;
    request->data = data;
    if (request->interrupted && func != NULL) {
        func(request, data);
    }
}

int fuse_reply_err(fuse_req_t request, int error)
{
    request->answer = error;
    return 0;
}

/* --- requests ------------------------------------------------------------------------------- */

static void serve(struct long_request *asked)
{
    struct fuse_req *request = asked->request;

    request->server = pthread_self();
    sem_post(&request->began);
    if (request->go_on != NULL) {
        sem_wait(request->go_on);
    }
    while (request->waits_for_stop && !stop_requested(&asked->stop)) {
        sched_yield();
    }
    request->was_stopped = stop_requested(&asked->stop);
    long_request_end(asked);
    ck_assert(request->func == NULL);
    fuse_reply_err(request, 0);
    sem_post(request->then);
}

struct subject {
    struct long_requests all;
    struct fuse_req requests[4];
    sem_t go_on, ended;
};

static void begin(struct subject *subject, unsigned threads)
{
    *subject = (struct subject){0};
    sem_init(&subject->go_on, 0, 0);
    sem_init(&subject->ended, 0, 0);
    for (size_t i = 0; i < 4; i++) {
        sem_init(&subject->requests[i].began, 0, 0);
        subject->requests[i].answer = -1;
        subject->requests[i].then = &subject->ended;
    }
    long_requests_init(&subject->all, threads);
    session_has_ended = false;
}

static void take(struct subject *subject, size_t number)
{
    const struct long_request asked = {.request = &subject->requests[number], .serve = serve};

    long_requests_take(&subject->all, &asked);
}

static void *take_first(void *subject)
{
    take(subject, 0);
    return NULL;
}

START_TEST(one_that_would_occupy_the_last_thread_waits_for_the_thread_of_another)
{
    struct subject subject;
    pthread_t thread;

    begin(&subject, 2);
    subject.requests[0].go_on = &subject.go_on;
    ck_assert_int_eq(pthread_create(&thread, NULL, take_first, &subject), 0);
    sem_wait(&subject.requests[0].began);
    for (size_t i = 1; i < 4; i++) {
        take(&subject, i); /* it returns */
        ck_assert_int_eq(subject.requests[i].answer, -1);
    }
    ck_assert(long_requests_wait(&subject.all));
    sem_post(&subject.go_on);
    for (size_t i = 0; i < 4; i++) {
        sem_wait(&subject.ended);
    }
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(subject.requests[i].answer, 0);
        ck_assert(pthread_equal(subject.requests[i].server, thread));
    }
    pthread_join(thread, NULL);
    ck_assert(!long_requests_wait(&subject.all));
    /* With nothing under way it is served at once. */
    subject.requests[1].answer = -1;
    take(&subject, 1);
    ck_assert_int_eq(subject.requests[1].answer, 0);
    ck_assert(pthread_equal(subject.requests[1].server, pthread_self()));
    long_requests_destroy(&subject.all);
}
END_TEST

START_TEST(the_only_thread_serves_all)
{
    struct subject subject;

    begin(&subject, 1);
    take(&subject, 0);
    take(&subject, 1);
    ck_assert_int_eq(subject.requests[0].answer, 0);
    ck_assert_int_eq(subject.requests[1].answer, 0);
    ck_assert(!subject.requests[1].was_stopped);
    long_requests_destroy(&subject.all);
}
END_TEST

START_TEST(an_interrupt_stops_the_request_and_no_other_also_one_that_waited)
{
    struct subject subject;
    pthread_t thread;

    begin(&subject, 2);
    subject.requests[0].waits_for_stop = true;
    ck_assert_int_eq(pthread_create(&thread, NULL, take_first, &subject), 0);
    sem_wait(&subject.requests[0].began);
    take(&subject, 1);
    take(&subject, 2);
    subject.requests[1].interrupted = true; /* it is not served, and nobody is called */
    subject.requests[0].func(&subject.requests[0], subject.requests[0].data);
    pthread_join(thread, NULL);
    ck_assert(subject.requests[0].was_stopped);
    ck_assert(subject.requests[1].was_stopped);
    ck_assert_int_eq(subject.requests[2].answer, 0);
    ck_assert(!subject.requests[2].was_stopped);
    long_requests_destroy(&subject.all);
}
END_TEST

START_TEST(the_end_stops_all)
{
    struct subject subject;
    pthread_t thread;

    begin(&subject, 2);
    long_requests_end_with(&subject.all, NULL);
    subject.requests[0].waits_for_stop = true;
    ck_assert_int_eq(pthread_create(&thread, NULL, take_first, &subject), 0);
    sem_wait(&subject.requests[0].began);
    if (_i == 0) {
        long_requests_end(&subject.all);
    } else {
        session_has_ended = true;
    }
    pthread_join(thread, NULL);
    take(&subject, 1);
    ck_assert(subject.requests[0].was_stopped);
    ck_assert(subject.requests[1].was_stopped);
    long_requests_destroy(&subject.all);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("long requests");
    TCase *tests = tcase_create("all");

    tcase_add_test(tests, one_that_would_occupy_the_last_thread_waits_for_the_thread_of_another);
    tcase_add_test(tests, the_only_thread_serves_all);
    tcase_add_test(tests, an_interrupt_stops_the_request_and_no_other_also_one_that_waited);
    tcase_add_loop_test(tests, the_end_stops_all, 0, 2);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
