/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/daemon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_MILLISECONDS 5000 /* then a line says what is waited for */

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

/* How long is waited, and who is told of what takes longer than that. */
struct patience {
    int milliseconds;
    struct log *log; /* NULL: nothing takes longer */
};

/* The first time; then there is no limit any more. */
static void tell_once(const struct stack *stack, struct patience *patience)
{
    log_line(patience->log, LOG_LEVEL_WARNING,
             "%s: its qcow2fs (process %ld) does not answer yet; still waiting",
             stack->daemon.image, (long)stack->daemon.pid);
    *patience = (struct patience){.milliseconds = -1};
}

static int connect_to(const struct stack *stack, struct patience *patience)
{
    int socket = registry_connect(stack->descriptor, patience->milliseconds);

    if (socket == -ETIMEDOUT && patience->log != NULL) {
        tell_once(stack, patience);
        socket = registry_connect(stack->descriptor, patience->milliseconds);
    }
    return socket;
}

static int receive_from(const struct stack *stack, int socket, struct patience *patience,
                        struct control_message *answer)
{
    int result = control_receive(socket, patience->milliseconds, answer);

    if (result == -ETIMEDOUT && patience->log != NULL) {
        tell_once(stack, patience);
        result = control_receive(socket, patience->milliseconds, answer);
    }
    return result;
}

static int ask(const struct stack *stack, const struct control_message *request,
               struct patience *patience, struct control_message *answer, struct error *error)
{
    int socket = connect_to(stack, patience);
    const char *code, *message;
    int result;

    if (socket < 0) {
        return no_answer(stack, socket, error);
    }
    /* A name in another user's directory may lead to anybody's socket. */
    result = control_is_of(socket, stack->daemon.user) ? control_send(socket, request) : -EPERM;
    if (result == 0) {
        result = receive_from(stack, socket, patience, answer);
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

int daemon_ask(const struct stack *stack, const struct control_message *request, int milliseconds,
               struct control_message *answer, struct error *error)
{
    struct patience patience = {.milliseconds = milliseconds};

    return ask(stack, request, &patience, answer, error);
}

int daemon_ask_patiently(const struct stack *stack, const struct control_message *request,
                         struct control_message *answer, struct log *log, struct error *error)
{
    struct patience patience = {.milliseconds = PATIENCE_MILLISECONDS, .log = log};

    return ask(stack, request, &patience, answer, error);
}
