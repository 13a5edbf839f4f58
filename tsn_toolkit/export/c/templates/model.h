/*
 * Integer networks, C99. No heap, no floating point, no library calls of their own.
 *
 * A value is one int8. Its real value is STEP * (byte + OFFSET); OFFSET is 0 for signed codes and 128 for codes in [0, 255].
 * Images are channel, row, column.
 *
 * All functions work in one static memory of @arena bytes. So they must not run at the same time, not even in an interrupt.
 */
#ifndef TSN_MODEL_H
#define TSN_MODEL_H

#include <stdint.h>

@tasks
#endif
