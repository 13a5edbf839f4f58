/* ANS words: a stack of 32-bit words under a 64-bit state, and models of symbols with frequencies out of 2^24. */

#ifndef TSN_ANS_H
#define TSN_ANS_H

#include "bytes.h"

enum { PRECISION = 24, HALF = 1 << 14, TOTAL = 1 << 15, ALWAYS = 250, QUICK_BITS = 12 };

static uint16_t chances[ALWAYS + 1]; /* of a one, out of TOTAL, by the byte that stands for it; 0 and ALWAYS are certain */

typedef struct {
    uint64_t state;
    const uint8_t *words;
    Py_ssize_t left;
} Stream;

static void refill(Stream *stream)
{
    if (stream->state >> 32 == 0 && stream->left) {
        const uint8_t *word = stream->words + 4 * --stream->left;
        stream->state = stream->state << 32 | word[0] | (uint64_t)word[1] << 8 | (uint64_t)word[2] << 16 | (uint64_t)word[3] << 24;
    }
}

static int open_stream(Stream *stream, const uint8_t *data, Py_ssize_t size)
{
    static const uint8_t zero[4];
    if (size % 4 || (size && !memcmp(data + size - 4, zero, 4)))
        return fail("a stream is not a whole number of words that end in a nonzero one");
    stream->state = 0;
    stream->words = data;
    stream->left = size / 4;
    refill(stream);
    refill(stream);
    return 1;
}

static int finish_stream(const Stream *stream)
{
    return stream->state == 0 && stream->left == 0 ? 1 : fail("a stream does not end where its last symbol ends");
}

/* Symbol k stands for the numbers from starts[k] to starts[k + 1]; `first` has the symbol at which a search may begin, by a number's upper bits. */
typedef struct {
    int shift;
    uint32_t starts[257];
    uint8_t first[1 << QUICK_BITS];
} Model;

/* Makes ready to find symbols, of which so many will be read. */
static void index_model(Model *model, Py_ssize_t uses)
{
    int bits = 0;
    while (bits < QUICK_BITS && uses >> (bits + 2))
        bits++;
    model->shift = PRECISION - bits;
    for (uint32_t part = 0, symbol = 0; part < 1u << bits; part++) {
        while (model->starts[symbol + 1] <= part << model->shift)
            symbol++;
        model->first[part] = (uint8_t)symbol;
    }
}

static inline int read_symbol(Stream *stream, const Model *model)
{
    uint32_t rest = (uint32_t)stream->state & ((1u << PRECISION) - 1);
    int symbol = model->first[rest >> model->shift];
    while (rest >= model->starts[symbol + 1])
        symbol++;
    stream->state = (stream->state >> PRECISION) * (model->starts[symbol + 1] - model->starts[symbol]) + rest - model->starts[symbol];
    refill(stream);
    return symbol;
}

/* floor((2^24 - 2^bits) * one^ones * (2^15 - one)^(bits - ones) / 2^(15 * bits)), in numbers of 160 bits. */
static uint32_t scaled_chance(uint32_t one, int ones, int bits)
{
    uint32_t limbs[5] = {(1u << PRECISION) - (1u << bits), 0, 0, 0, 0};
    for (int factor = 0; factor < bits; factor++) {
        uint64_t carry = 0;
        for (int i = 0; i < 5; i++) {
            carry += (uint64_t)limbs[i] * (factor < ones ? one : TOTAL - one);
            limbs[i] = (uint32_t)carry;
            carry >>= 32;
        }
    }
    int limb = 15 * bits / 32, shift = 15 * bits % 32;
    uint64_t pair = limbs[limb] | (limb < 4 ? (uint64_t)limbs[limb + 1] << 32 : 0);
    return (uint32_t)(pair >> shift);
}

/* Of symbols that are `bits` bits of one chance. */
static void model_of_bits(Model *model, uint32_t one, int bits, Py_ssize_t uses)
{
    uint32_t by_ones[9], sum = 0;
    uint8_t ones[256] = {0};
    for (int count = 0; count <= bits; count++)
        by_ones[count] = 1 + scaled_chance(one, count, bits);
    for (int symbol = 1; symbol < 1 << bits; symbol++)
        ones[symbol] = ones[symbol >> 1] + (symbol & 1);
    for (int symbol = 0; symbol < 1 << bits; symbol++)
        sum += by_ones[ones[symbol]];
    model->starts[0] = 0;
    for (int symbol = 0; symbol < 1 << bits; symbol++)
        model->starts[symbol + 1] = model->starts[symbol] + by_ones[ones[symbol]] + (symbol == 0 && one <= HALF ? (1u << PRECISION) - sum : 0);
    model->starts[1 << bits] = 1u << PRECISION;
    index_model(model, uses);
}

/* A run of bits of one chance, packed: (count + 7) / 8 bytes. */
static void read_bits(Stream *stream, int chance, Py_ssize_t count, uint8_t *packed)
{
    Model model;
    Py_ssize_t whole = count / 8;
    int rest = (int)(count % 8);
    if (chance == 0 || chance == ALWAYS) {
        memset(packed, chance ? 0xFF : 0, (size_t)(whole + (rest > 0)));
        return;
    }
    if (whole) {
        model_of_bits(&model, chances[chance], 8, whole);
        for (Py_ssize_t i = 0; i < whole; i++)
            packed[i] = (uint8_t)read_symbol(stream, &model);
    }
    if (rest) {
        model_of_bits(&model, chances[chance], rest, 1);
        packed[whole] = (uint8_t)read_symbol(stream, &model);
    }
}

static void fill_chances(void)
{
    int index = 1;
    for (uint16_t chance = 4; chance < 8; chance++)
        chances[index++] = chance;
    for (int octave = 0; octave < 7; octave++)
        for (int step = 0; step < 8; step++)
            chances[index++] = (uint16_t)((8 + step) << octave);
    for (int octave = 6; octave < 10; octave++)
        for (int step = 0; step < 16; step++)
            chances[index++] = (uint16_t)((16 + step) << octave);
    chances[index] = HALF;
    for (int i = 0; i < index; i++)
        chances[ALWAYS - i] = (uint16_t)(TOTAL - chances[i]);
}

#endif
