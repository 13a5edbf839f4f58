/* A blob's bytes, taken in order, and what every other file here needs. Functions return 0, with ValueError set, where the bytes break the format. */

#ifndef TSN_BYTES_H
#define TSN_BYTES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* Loops over slots stand in functions of their own, where compilers can tell that the arrays lie apart, and make vectors of them. */
#if defined(__GNUC__)
#define LOOP static __attribute__((noinline)) void
#elif defined(_MSC_VER)
#define LOOP static __declspec(noinline) void
#else
#define LOOP static void
#endif

static uint64_t spread_bits[256]; /* of each byte: its bits, one to a byte */

static int fail(const char *what)
{
    PyErr_SetString(PyExc_ValueError, what);
    return 0;
}

typedef struct {
    const uint8_t *data;
    Py_ssize_t size, at; /* bytes in all, and how many are taken */
} Blob;

static const uint8_t *take(Blob *blob, Py_ssize_t size)
{
    if (size < 0 || size > blob->size - blob->at) {
        fail("a blob ends early");
        return NULL;
    }
    blob->at += size;
    return blob->data + blob->at - size;
}

static int take_byte(Blob *blob, int *value)
{
    const uint8_t *byte = take(blob, 1);
    if (byte)
        *value = *byte;
    return byte != NULL;
}

static int take_varint(Blob *blob, Py_ssize_t *value)
{
    uint64_t number = 0;
    for (int position = 0, byte; position < 5; position++) {
        if (!take_byte(blob, &byte))
            return 0;
        number |= (uint64_t)(byte & 0x7F) << 7 * position;
        if (byte < 0x80) {
            if (position && !byte)
                break;
            *value = number > (uint64_t)PY_SSIZE_T_MAX ? PY_SSIZE_T_MAX : (Py_ssize_t)number;
            return 1;
        }
    }
    return fail("a number is not written in the fewest bytes");
}

static Py_ssize_t packed_size(Py_ssize_t count, int width)
{
    return count / 8 * width + (count % 8 * width + 7) / 8;
}

/* `count` packed values of `width` bits, whose unused bits must be 0. */
static const uint8_t *take_packed(Blob *blob, Py_ssize_t count, int width)
{
    const uint8_t *data = take(blob, packed_size(count, width));
    int used = (int)(count % 8 * width % 8);
    if (data && used && data[packed_size(count, width) - 1] >> used) {
        fail("a bit is set beyond the last packed value");
        return NULL;
    }
    return data;
}

/* Value `index` of packed data that takes `size` bytes, width 1..16. */
static uint32_t packed_at(const uint8_t *data, Py_ssize_t size, int width, Py_ssize_t index)
{
    Py_ssize_t byte = index / 8 * width + (index % 8 * width >> 3);
    int shift = (int)(index % 8 * width & 7);
    uint32_t bits = data[byte];
    if (byte + 1 < size)
        bits |= (uint32_t)data[byte + 1] << 8;
    if (byte + 2 < size)
        bits |= (uint32_t)data[byte + 2] << 16;
    return bits >> shift & ((1u << width) - 1);
}

/* Bits one to a byte. */
static void unpack(const uint8_t *data, Py_ssize_t count, uint8_t *bits)
{
    Py_ssize_t whole = count / 8;
    for (Py_ssize_t i = 0; i < whole; i++)
        memcpy(bits + 8 * i, &spread_bits[data[i]], 8);
    for (Py_ssize_t i = 8 * whole; i < count; i++)
        bits[i] = data[whole] >> (i - 8 * whole) & 1;
}

static void fill_spread_bits(void)
{
    for (int byte = 0; byte < 256; byte++) {
        uint8_t bits[8];
        for (int bit = 0; bit < 8; bit++)
            bits[bit] = byte >> bit & 1;
        memcpy(&spread_bits[byte], bits, 8);
    }
}

#endif
