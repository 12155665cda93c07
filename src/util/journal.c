/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/journal.h"

#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

bool journal_has_stderr(void)
{
    const char *told = getenv("JOURNAL_STREAM"); /* its device and inode */
    unsigned long long device, inode;
    struct stat status;

    return told != NULL && sscanf(told, "%llu:%llu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

/* NAME=value; or, where the value has lines, NAME, its length and the value. */
static void put_field(FILE *out, const struct journal_field *field)
{
    size_t length = strlen(field->value);

    fputs(field->name, out);
    if (memchr(field->value, '\n', length) == NULL) {
        fputc('=', out);
    } else {
        uint64_t size = htole64(length);

        fputc('\n', out);
        fwrite(&size, sizeof(size), 1, out);
    }
    fwrite(field->value, 1, length, out);
    fputc('\n', out);
}

/* The whole datagram, to be freed. NULL: out of memory. */
static char *make_datagram(const struct journal_field *fields, size_t count, size_t *length)
{
    char *made = NULL;
    FILE *out = open_memstream(&made, length);

    if (out == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        if (fields[i].value != NULL) {
            put_field(out, &fields[i]);
        }
    }
    if (fclose(out) != 0) {
        free(made);
        return NULL;
    }
    return made;
}

static int send_datagram(const char *datagram, size_t length)
{
    const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET};
    int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), r = 0;

    if (descriptor < 0) {
        return -errno;
    }
    while (sendto(descriptor, datagram, length, MSG_NOSIGNAL, (const struct sockaddr *)&address,
                  sizeof(address)) < 0) {
        if (errno != EINTR) {
            r = -errno;
            break;
        }
    }
    close(descriptor);
    return r;
}

int journal_send(const struct journal_field *fields, size_t count)
{
    size_t length = 0;
    char *datagram = make_datagram(fields, count, &length);
    int r = datagram != NULL ? send_datagram(datagram, length) : -ENOMEM;

    free(datagram);
    return r;
}
