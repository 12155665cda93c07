/* SPDX-License-Identifier: MIT */
/* What every unit-test program shares: its main. */
#ifndef UNIT_SUITE_H
#define UNIT_SUITE_H

#include <check.h>

/* Runs the suite; TAP on stdout where CK_TAP_LOG_FILE_NAME says so. Returns main()'s status. */
int suite_main(Suite *suite);

#endif
