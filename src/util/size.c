/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/size.h"

#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define SUFFIXES "bkmgtpe" /* each 1024 times the one before */

#define BITS_PER_SUFFIX 10
#define EXABYTE_SHIFT   60

static size_t count_digits(const char *text)
{
    return strspn(text, "0123456789");
}

/* Plain ASCII, whatever the locale says of upper and lower case. */
static bool is_letter(char letter, char lower)
{
    return (letter | 0x20) == lower;
}

/* "", "B" or "iB". */
static bool is_byte_word(const char *text)
{
    if (is_letter(text[0], 'i')) {
        return is_letter(text[1], 'b') && text[2] == '\0';
    }
    return text[0] == '\0' || (is_letter(text[0], 'b') && text[1] == '\0');
}

/* The power of two that a suffix stands for; none is bytes. False: it is not a suffix. */
static bool parse_suffix(const char *suffix, unsigned *shift)
{
    *shift = 0;
    if (*suffix == '\0') {
        return true;
    }
    for (const char *known = SUFFIXES; *known != '\0'; known++) {
        if (is_letter(*suffix, *known)) {
            return *shift == 0 ? suffix[1] == '\0' : is_byte_word(suffix + 1);
        }
        *shift += BITS_PER_SUFFIX;
    }
    return false;
}

/*
 * The fraction 0.DIGITS of 2^shift, exactly, rounded down. From the last digit
 * to the first, each step is (digit * 2^shift + what stood behind it) / 10; the
 * rounding down of each step does not change that of the next. The numbers stay
 * below 10 * 2^60.
 */
static uint64_t scale_fraction(const char *digits, size_t count, unsigned shift)
{
    uint64_t scaled = 0;

    while (count-- > 0) {
        scaled = (((uint64_t)(digits[count] - '0') << shift) + scaled) / 10;
    }
    return scaled;
}

/* False when it does not fit. */
static bool parse_whole(const char *digits, size_t count, uint64_t *whole)
{
    *whole = 0;
    for (size_t i = 0; i < count; i++) {
        if (!checked_mul(*whole, 10, whole) ||
            !checked_add(*whole, (uint64_t)(digits[i] - '0'), whole)) {
            return false;
        }
    }
    return true;
}

int size_parse(const char *text, uint64_t *bytes)
{
    size_t whole_digits = count_digits(text);
    const char *fraction = text + whole_digits;
    size_t fraction_digits = 0;
    const char *suffix = fraction;
    uint64_t value;
    unsigned shift;

    if (*fraction == '.') {
        fraction++;
        fraction_digits = count_digits(fraction);
        suffix = fraction + fraction_digits;
        if (fraction_digits == 0) {
            return -EINVAL;
        }
    }
    if (whole_digits == 0 || !parse_suffix(suffix, &shift)) {
        return -EINVAL;
    }
    /* There is no part of a byte. */
    if (shift == 0 && strspn(fraction, "0") < fraction_digits) {
        return -EINVAL;
    }
    if (!parse_whole(text, whole_digits, &value) ||
        !checked_mul(value, UINT64_C(1) << shift, &value) ||
        !checked_add(value, scale_fraction(fraction, fraction_digits, shift), &value) ||
        value > INT64_MAX) {
        return -ERANGE;
    }
    *bytes = value;
    return 0;
}

/*
 * `bytes` in units of 2^shift, rounded to the nearest number with so many
 * decimals, without the point: 1536 with shift 10 and 2 decimals is 150.
 */
static uint64_t round_to_decimals(uint64_t bytes, unsigned shift, unsigned decimals)
{
    uint64_t unit = UINT64_C(1) << shift;
    uint64_t number = bytes >> shift;
    uint64_t rest = bytes & (unit - 1);

    for (unsigned i = 0; i < decimals; i++) {
        rest *= 10; /* < 10 * 2^60 */
        number = number * 10 + (rest >> shift);
        rest &= unit - 1;
    }
    return number + (rest >= unit - rest);
}

const char *size_format(uint64_t bytes, char text[SIZE_TEXT_MAX])
{
    unsigned shift = 0;
    unsigned decimals;
    uint64_t number;
    uint64_t one = 1;

    while (shift < EXABYTE_SHIFT && bytes >> shift >= 1024) {
        shift += BITS_PER_SUFFIX;
    }
    /* 1023.7 KiB is 1 MiB, not 1024 KiB. */
    if (shift < EXABYTE_SHIFT && round_to_decimals(bytes, shift, 0) == 1024) {
        shift += BITS_PER_SUFFIX;
    }
    if (shift == 0) {
        snprintf(text, SIZE_TEXT_MAX, "%" PRIu64 " B", bytes);
        return text;
    }
    decimals = bytes >> shift >= 100 ? 0 : bytes >> shift >= 10 ? 1 : 2;
    number = round_to_decimals(bytes, shift, decimals);
    while (decimals > 0 && number % 10 == 0) {
        number /= 10;
        decimals--;
    }
    for (unsigned i = 0; i < decimals; i++) {
        one *= 10;
    }
    if (decimals == 0) {
        snprintf(text, SIZE_TEXT_MAX, "%" PRIu64 " %ciB", number, "BKMGTPE"[shift / 10]);
    } else {
        snprintf(text, SIZE_TEXT_MAX, "%" PRIu64 ".%0*" PRIu64 " %ciB", number / one, (int)decimals,
                 number % one, "BKMGTPE"[shift / 10]);
    }
    return text;
}
