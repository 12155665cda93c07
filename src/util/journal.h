/* SPDX-License-Identifier: MIT */
/*
 * systemd's journal, which keeps fields with a message by which it can be found again
 * (journalctl QCOW2FS_IMAGE=/srv/disk.qcow2). Its protocol is a datagram with a field a line; it is
 * documented and does not change, so that it is spoken here without systemd's library, as the
 * service manager's is. Any thread may call.
 */
#ifndef UTIL_JOURNAL_H
#define UTIL_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>

/* `name`: capital letters, digits and underscores. A field whose value is NULL is left out. */
struct journal_field {
    const char *name;
    const char *value; /* any bytes */
};

/* Whether what is written to standard error goes to the journal anyway, without any fields. */
bool journal_has_stderr(void);

/* One message, of which MESSAGE is a field. 0, or a negative errno: no journal is there, or it got
 * nothing. */
int journal_send(const struct journal_field *fields, size_t count);

#endif
