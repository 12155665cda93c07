/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"

int main(void)
{
    return suite_main(suite_create("writer"));
}
