/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct control_message sent, received;
static int ends[2];

static void setup(void)
{
    sent.length = received.length = 0;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
}

static void teardown(void)
{
    close(ends[0]);
    close(ends[1]);
}

START_TEST(pairs_arrive_as_they_were_put)
{
    ck_assert(control_put(&sent, "version", CONTROL_VERSION));
    ck_assert(control_put(&sent, "name", ""));
    ck_assert(control_put(&sent, "new-name", "a=b\nc"));
    ck_assert_int_eq(control_send(ends[0], &sent), 0);
    ck_assert_int_eq(control_receive(ends[1], 1000, &received), 0);
    ck_assert_uint_eq(received.length, sent.length);
    ck_assert_str_eq(control_get(&received, "version"), CONTROL_VERSION);
    ck_assert_str_eq(control_get(&received, "name"), "");
    ck_assert_str_eq(control_get(&received, "new-name"), "a=b\nc");
    ck_assert_ptr_null(control_get(&received, "new"));
    ck_assert_ptr_null(control_get(&received, "c"));
}
END_TEST

START_TEST(a_message_is_filled_to_its_last_byte_and_no_further)
{
    static char value[CONTROL_MAX + 1];

    memset(value, 'x',
           CONTROL_MAX - 2); /* with '=' and the NUL it would have room, without a name */
    ck_assert(!control_put(&sent, "n", value));
    ck_assert_uint_eq(sent.length, 0);
    value[CONTROL_MAX - 3] = '\0';
    ck_assert(control_put(&sent, "n", value));
    ck_assert_uint_eq(sent.length, CONTROL_MAX);
    ck_assert(!control_put(&sent, "", ""));
    ck_assert_uint_eq(sent.length, CONTROL_MAX);
    ck_assert_int_eq(control_send(ends[0], &sent), 0);
    ck_assert_int_eq(control_receive(ends[1], 1000, &received), 0);
    ck_assert_uint_eq(strlen(control_get(&received, "n")), CONTROL_MAX - 3);
}
END_TEST

START_TEST(what_is_no_message_is_refused)
{
    static char long_one[CONTROL_MAX + 10];

    ck_assert_int_eq(send(ends[0], "name=x", 6, 0), 6); /* without its end */
    ck_assert_int_eq(control_receive(ends[1], 1000, &received), -EMSGSIZE);
    ck_assert_uint_eq(received.length, 0);
    ck_assert_int_eq(send(ends[0], long_one, sizeof(long_one), 0), (int)sizeof(long_one));
    ck_assert_int_eq(control_receive(ends[1], 1000, &received), -EMSGSIZE);
    ck_assert_int_eq(control_receive(ends[1], 0, &received), -ETIMEDOUT);
    shutdown(ends[0], SHUT_WR);
    ck_assert_int_eq(control_receive(ends[1], 1000, &received), -EPIPE);
    ck_assert(control_is_allowed(ends[1]));
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("control");
    TCase *tcase = tcase_create("control");

    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, pairs_arrive_as_they_were_put);
    tcase_add_test(tcase, a_message_is_filled_to_its_last_byte_and_no_further);
    tcase_add_test(tcase, what_is_no_message_is_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void)
{
    return suite_main(make_suite());
}
