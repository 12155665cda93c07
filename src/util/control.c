/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/control.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

bool control_put(struct control_message *message, const char *name, const char *value)
{
    size_t name_length = strlen(name), value_length = strlen(value);
    char *at = message->text + message->length;

    if (value_length >= CONTROL_MAX ||
        name_length + 1 + value_length + 1 > CONTROL_MAX - message->length) {
        return false;
    }
    memcpy(at, name, name_length);
    at[name_length] = '=';
    memcpy(at + name_length + 1, value, value_length + 1);
    message->length += name_length + 1 + value_length + 1;
    return true;
}

const char *control_get(const struct control_message *message, const char *name)
{
    const char *end = message->text + message->length;
    size_t length = strlen(name);

    for (const char *at = message->text; at < end; at += strlen(at) + 1) {
        if (strncmp(at, name, length) == 0 && at[length] == '=') {
            return at + length + 1;
        }
    }
    return NULL;
}

int control_send(int socket, const struct control_message *message)
{
    ssize_t count;

    do {
        count = send(socket, message->text, message->length, MSG_NOSIGNAL);
    } while (count < 0 && errno == EINTR);
    return count < 0 ? -errno : 0;
}

int control_receive(int socket, int milliseconds, struct control_message *message)
{
    struct pollfd waiting = {.fd = socket, .events = POLLIN};
    ssize_t count;
    int ready;

    do {
        ready = poll(&waiting, 1, milliseconds);
    } while (ready < 0 && errno == EINTR);
    if (ready <= 0) {
        return ready == 0 ? -ETIMEDOUT : -errno;
    }
    count = recv(socket, message->text, CONTROL_MAX, MSG_TRUNC);
    if (count <= 0) {
        return count == 0 ? -EPIPE : -errno;
    }
    /* Each pair ends within it, so that nothing is read behind its end. */
    if ((size_t)count > CONTROL_MAX || message->text[count - 1] != '\0') {
        message->length = 0;
        return -EMSGSIZE;
    }
    message->length = (size_t)count;
    return 0;
}

bool control_is_of(int socket, uid_t user)
{
    struct ucred other;
    socklen_t length = sizeof(other);

    return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &other, &length) == 0 && other.uid == user;
}

bool control_is_allowed(int socket)
{
    return control_is_of(socket, geteuid()) || control_is_of(socket, 0);
}
