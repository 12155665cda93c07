/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/stop.h"

START_TEST(work_stops_once_that_was_requested)
{
    struct stop stop;

    stop_init(&stop, NULL);
    ck_assert(!stop_requested(&stop));
    stop_request(&stop);
    ck_assert(stop_requested(&stop));
    ck_assert(!stop_requested(NULL));
}
END_TEST

START_TEST(work_stops_with_what_it_belongs_to_and_not_the_other_way_round)
{
    struct stop daemon, request, other;

    stop_init(&daemon, NULL);
    stop_init(&request, &daemon);
    stop_init(&other, &daemon);
    stop_request(&request);
    ck_assert(stop_requested(&request));
    ck_assert(!stop_requested(&daemon));
    ck_assert(!stop_requested(&other));
    stop_request(&daemon);
    ck_assert(stop_requested(&other));
}
END_TEST

static bool look(const void *context)
{
    return *(const bool *)context;
}

START_TEST(work_stops_when_it_is_asked_about_and_that_is_affirmed)
{
    bool ends = false;
    struct stop daemon, request;

    stop_init(&daemon, NULL);
    stop_ask(&daemon, look, &ends);
    stop_init(&request, &daemon);
    ck_assert(!stop_requested(&request));
    ends = true;
    ck_assert(stop_requested(&request));
}
END_TEST

START_TEST(work_stops_when_its_time_is_over)
{
    struct stop stop, part;

    stop_init(&stop, NULL);
    stop_init(&part, &stop);
    stop_after(&stop, UINT64_C(1000) * 3600);
    ck_assert(!stop_requested(&part));
    stop_after(&stop, 0);
    ck_assert(stop_requested(&stop));
    ck_assert(stop_requested(&part));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stop");
    TCase *tests = tcase_create("all");

    tcase_add_test(tests, work_stops_once_that_was_requested);
    tcase_add_test(tests, work_stops_with_what_it_belongs_to_and_not_the_other_way_round);
    tcase_add_test(tests, work_stops_when_it_is_asked_about_and_that_is_affirmed);
    tcase_add_test(tests, work_stops_when_its_time_is_over);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
