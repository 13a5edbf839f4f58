/* Codes, codebooks and scales, and codes put into the frozen view. */

#ifndef TSN_VALUES_H
#define TSN_VALUES_H

#include "masks.h"
#include <float.h>
#include <math.h>

enum { PACKED, CODED, COARSE, LARGE };
enum { MOST_CODE = 127 };

static uint16_t rungs[256];  /* of the ladder that int8 vectors may stand on */
static double powers[31];    /* what a 16-bit float's mantissa is multiplied by, by its exponent */

/* Codes of `width` bits, packed; `owner` keeps them alive where they are not the blob's or the scratch's. */
typedef struct {
    const uint8_t *data;
    Py_ssize_t count, size;
    int width;
    Py_buffer owner;
} Codes;

static void model_of_table(Model *model, const uint32_t *table, const uint8_t *possible, int symbols, Py_ssize_t uses)
{
    uint64_t sum = 0;
    for (int symbol = 0; symbol < symbols; symbol++) {
        model->starts[symbol] = (uint32_t)((((uint64_t)(1u << PRECISION) - symbols) * sum) >> 15) + symbol;
        sum += table[possible[symbol]];
    }
    model->starts[symbols] = 1u << PRECISION;
    index_model(model, uses);
}

/* Frequencies of 2^bits symbols, with sum 2^15. */
static int take_table(Blob *values, int form, int bits, uint32_t *table)
{
    int symbols = 1 << bits, largest = 0;
    uint32_t sum = 0;
    if (form == CODED) {
        const uint8_t *data = take(values, 2 * (symbols - 1));
        if (!data)
            return 0;
        for (int symbol = 0; symbol < symbols - 1; symbol++)
            sum += table[symbol] = data[2 * symbol] | (uint32_t)data[2 * symbol + 1] << 8;
        table[symbols - 1] = TOTAL - sum;
        return sum <= TOTAL ? 1 : fail("frequencies exceed their total");
    }
    const uint8_t *counts = take(values, symbols);
    uint32_t number = 0;
    if (!counts)
        return 0;
    for (int symbol = 0; symbol < symbols; symbol++) {
        number += counts[symbol];
        if (counts[symbol] > counts[largest])
            largest = symbol;
    }
    for (int symbol = 0; symbol < symbols; symbol++) {
        table[symbol] = number ? (uint32_t)counts[symbol] * TOTAL / number : 0;
        if (counts[symbol] && !table[symbol])
            table[symbol] = 1;
        sum += table[symbol];
    }
    table[largest] += TOTAL - sum;
    return 1;
}

static int read_stream_of_codes(Blob *values, int form, int bits, Py_ssize_t count, uint8_t *codes)
{
    uint32_t table[256];
    uint8_t possible[256];
    int symbols = 0;
    Py_ssize_t size;
    Stream stream;
    Model model;
    if (!take_table(values, form, bits, table) || !take_varint(values, &size))
        return 0;
    const uint8_t *data = take(values, size);
    if (!data || !open_stream(&stream, data, size))
        return 0;
    for (int symbol = 0; symbol < 1 << bits; symbol++)
        if (table[symbol])
            possible[symbols++] = (uint8_t)symbol;
    if (symbols == 1)
        memset(codes, possible[0], (size_t)count);
    else {
        model_of_table(&model, table, possible, symbols, count);
        for (Py_ssize_t i = 0; i < count; i++)
            codes[i] = possible[read_symbol(&stream, &model)];
    }
    return finish_stream(&stream);
}

/* The next `count` codes of 1..8 bits; `room` has a byte for each of them. */
static int read_codes(Blob *values, Py_ssize_t count, int bits, PyObject *read_large, uint8_t *room, Codes *codes)
{
    int form;
    Py_ssize_t size;
    memset(codes, 0, sizeof *codes);
    codes->count = count;
    codes->width = 8;
    codes->data = room;
    codes->size = count;
    if (!count)
        return 1;
    if (!take_byte(values, &form))
        return 0;
    if (form == PACKED) {
        codes->width = bits;
        codes->size = packed_size(count, bits);
        return (codes->data = take_packed(values, count, bits)) != NULL;
    }
    if (form != LARGE)
        return form > LARGE ? fail("there is no such form of codes") : read_stream_of_codes(values, form, bits, count, room);
    const uint8_t *payload = take_varint(values, &size) ? take(values, size) : NULL;
    if (!payload)
        return 0;
    PyObject *run = PyObject_CallFunction(read_large, "nnin", (Py_ssize_t)(payload - values->data), size, bits, count);
    PyObject *data;
    if (!run)
        return 0;
    int taken = PyArg_ParseTuple(run, "Oi", &data, &codes->width) && PyObject_GetBuffer(data, &codes->owner, PyBUF_SIMPLE) == 0;
    Py_DECREF(run);
    if (!taken)
        return 0;
    codes->data = codes->owner.buf;
    codes->size = codes->owner.len;
    if ((codes->width == 1 || codes->width == 2 || codes->width == 4 || codes->width == 8) && codes->size == packed_size(count, codes->width))
        return 1;
    PyBuffer_Release(&codes->owner);
    return fail("a large run of another size");
}

static void release_codes(Codes *codes)
{
    if (codes->owner.obj)
        PyBuffer_Release(&codes->owner);
}

/* Entries 0..255 of a codebook, those that it has not being 0. */
static int take_codebook(Blob *blob, int bits, int8_t *book)
{
    int entries = bits ? 1 << bits : 0, found = 0;
    memset(book, 0, 256);
    if (bits <= 5) {
        const uint8_t *data = take(blob, entries);
        if (!data)
            return 0;
        memcpy(book, data, (size_t)entries);
        for (int entry = 0; entry < entries; entry++)
            if (book[entry] < -MOST_CODE || (entry && book[entry] < book[entry - 1]))
                return fail("a codebook does not ascend");
        return 1;
    }
    const uint8_t *data = take_packed(blob, 2 * MOST_CODE + entries, 1);
    if (!data)
        return 0;
    for (int place = 0; place < 2 * MOST_CODE + entries; place++)
        if (data[place >> 3] >> (place & 7) & 1) {
            if (found == entries)
                return fail("a codebook has too many entries");
            book[found] = (int8_t)(place - MOST_CODE - found);
            found++;
        }
    return found == entries ? 1 : fail("a codebook has too few entries");
}

static double half_value(uint16_t half)
{
    int exponent = half >> 10 & 0x1F, mantissa = half & 0x3FF;
    double size = exponent == 0x1F ? NAN : ((exponent ? 1024 : 0) + mantissa) * powers[exponent]; /* infinity is refused like NaN */
    return half >> 15 ? -size : size;
}

/* The next vector, one value for each kept output (NULL: all), put where these are. */
static int take_vector(Blob *blob, const uint8_t *kept, Py_ssize_t outputs, Py_ssize_t count, int half, float *vector)
{
    const uint8_t *data = take(blob, half ? 1 + 2 * count : 4 + count);
    double step;
    Py_ssize_t taken = 0;
    if (!data)
        return 0;
    if (half)
        step = ldexp(1, (int8_t)data[0]);
    else {
        uint32_t bits = data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
        float single;
        memcpy(&single, &bits, sizeof single);
        step = single;
        if (!isfinite(step))
            return fail("the step of a vector is not finite");
    }
    for (Py_ssize_t output = 0; output < outputs; output++) {
        double value;
        if (kept && !kept[output])
            continue;
        if (half)
            value = step * half_value((uint16_t)(data[1 + 2 * taken] | data[2 + 2 * taken] << 8));
        else
            value = fabs(step) * (step < 0 ? (double)rungs[data[4 + taken]] : (double)(int8_t)data[4 + taken]);
        if (!(fabs(value) <= FLT_MAX))
            return fail("a stored value is not finite");
        vector[output] = (float)value;
        taken++;
    }
    return 1;
}

/* Whether none of eight states is this one. */
static int lacks(const uint8_t *states, uint8_t state)
{
    uint64_t eight;
    memcpy(&eight, states, sizeof eight);
    eight ^= 0x0101010101010101u * state;
    return !((eight - 0x0101010101010101u) & ~eight & 0x8080808080808080u);
}

/* q of every slot from its code. */
static void put_all(const Codes *codes, const int8_t *book, int8_t *q)
{
    if (codes->width == 8)
        for (Py_ssize_t i = 0; i < codes->count; i++)
            q[i] = book[codes->data[i]];
    else if (codes->width == 4) {
        uint16_t pairs[256];
        for (int byte = 0; byte < 256; byte++) {
            int8_t pair[2] = {book[byte & 15], book[byte >> 4]};
            memcpy(&pairs[byte], pair, 2);
        }
        for (Py_ssize_t i = 0; i < codes->count / 2; i++)
            memcpy(q + 2 * i, &pairs[codes->data[i]], 2);
        if (codes->count % 2)
            q[codes->count - 1] = book[codes->data[codes->count / 2] & 15];
    } else
        for (Py_ssize_t i = 0; i < codes->count; i++)
            q[i] = book[packed_at(codes->data, codes->size, codes->width, i)];
}

static int code_at(const Codes *codes, Py_ssize_t index)
{
    if (codes->width == 8)
        return codes->data[index];
    if (codes->width == 4)
        return codes->data[index >> 1] >> 4 * (index & 1) & 15;
    return (int)packed_at(codes->data, codes->size, codes->width, index);
}

/* q of the slots of one state, of which there is one for each code: the entry itself where they are OWN, added where they are REFINE. */
static void put(const Codes *codes, const int8_t *book, const uint8_t *states, Py_ssize_t size, uint8_t state, int8_t *q)
{
    Py_ssize_t taken = 0;
    for (Py_ssize_t first = 0; first < size; first += 8) {
        Py_ssize_t end = first + 8 <= size ? first + 8 : size;
        if (end == first + 8 && lacks(states + first, state))
            continue;
        for (Py_ssize_t i = first; i < end; i++)
            if (states[i] == state && taken < codes->count) {
                int value = book[code_at(codes, taken++)] + (state == OWN ? 0 : q[i]);
                q[i] = (int8_t)(value > MOST_CODE ? MOST_CODE : value < -MOST_CODE ? -MOST_CODE : value);
            }
    }
}

static void fill_vectors(void)
{
    for (int rung = 0; rung < 256; rung++)
        rungs[rung] = (uint16_t)(rung < 32 ? rung : (32 + rung % 32) << (rung / 32 - 1));
    for (int exponent = 0; exponent < 31; exponent++)
        powers[exponent] = ldexp(1, (exponent ? exponent : 1) - 25);
}

#endif
