/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/daemon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void daemon_begin(struct control_message *request, const char *ask)
{
    request->length = 0;
    (void)control_put(request, "version", CONTROL_VERSION);
    (void)control_put(request, "ask", ask);
}

static int no_answer(const struct stack *stack, int result, struct error *error)
{
    return error_set(error, -result, "%s: its qcow2fs (process %ld) does not answer: %s",
                     stack->daemon.image, (long)stack->daemon.pid, strerror(-result));
}

int daemon_ask(const struct stack *stack, const struct control_message *request, int milliseconds,
               struct control_message *answer, struct error *error)
{
    int socket = registry_connect(stack->descriptor, milliseconds);
    const char *code, *message;
    int result;

    if (socket < 0) {
        return no_answer(stack, socket, error);
    }
    /* A name in another user's directory may lead to anybody's socket. */
    result = control_is_of(socket, stack->daemon.user) ? control_send(socket, request) : -EPERM;
    if (result == 0) {
        result = control_receive(socket, milliseconds, answer);
    }
    close(socket);
    if (result != 0) {
        return no_answer(stack, result, error);
    }
    code = control_get(answer, "error");
    message = control_get(answer, "message");
    result = code != NULL ? -abs(atoi(code)) : -EPROTO;
    return result == 0
               ? 0
               : error_set(error, -result, "%s", message != NULL ? message : strerror(-result));
}
