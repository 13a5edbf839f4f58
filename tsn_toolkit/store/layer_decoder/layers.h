/* A layer of one owner, over what it inherits. */

#ifndef TSN_LAYERS_H
#define TSN_LAYERS_H

#include "box.h"
#include "values.h"

enum { SHARED = 0xFF, PLANES = 0xFE };
enum { MOST_BITS = 8 };

typedef struct {
    Blob masks, values, codebooks, scales;
    int half;
} Owner;

/* A byte for each slot; where `all` is not below 0, each of them is that, and none need stand anywhere. */
typedef struct {
    uint8_t *bytes;
    int all;
} Slots;

typedef struct {
    int8_t *q;
    Slots known, states;
    float *scale;
    Py_ssize_t size;
    int held; /* whether anybody has the layer; else q and scale are not there yet */
} Layer;

static uint8_t *spelled_out(Slots *slots, Py_ssize_t size)
{
    if (slots->all >= 0)
        memset(slots->bytes, slots->all, (size_t)size);
    slots->all = -1;
    return slots->bytes;
}

/* What is known of the kept slots; NULL where nothing is. */
static uint8_t *known_of_kept(Layer *layer, const Box *box, Scratch *scratch)
{
    if (layer->known.all == 0)
        return NULL;
    if (holds_all(box))
        return spelled_out(&layer->known, layer->size);
    if (layer->known.all > 0)
        memset(scratch->known, layer->known.all, (size_t)(box->kept_rows * box->kept_columns * box->inner));
    else
        gather(box, layer->known.bytes, scratch->known);
    return scratch->known;
}

static int read_scale(Owner *owner, const Box *box, Layer *layer, int must_own)
{
    int own;
    if (!take_byte(&owner->scales, &own))
        return 0;
    if (own == 1) {
        if (!layer->held)
            memset(layer->scale, 0, (size_t)box->row_count * sizeof *layer->scale);
        return take_vector(&owner->scales, box->rows, box->row_count, box->kept_rows, owner->half, layer->scale);
    }
    return own == 0 && layer->held && !must_own ? 1 : fail("a scale is neither its own nor one that an ancestor has");
}

static int read_trunk_layer(Owner *owner, int bits, const Box *box, Layer *layer, Scratch *scratch, PyObject *read_large)
{
    int8_t book[256];
    Codes codes;
    if (bits < 1 || bits > MOST_BITS)
        return fail("a layer of a trunk of another kind");
    if (!read_codes(&owner->values, layer->size, bits, read_large, scratch->spare, &codes))
        return 0;
    int read = take_codebook(&owner->codebooks, bits, book);
    if (read)
        put_all(&codes, book, layer->q);
    release_codes(&codes);
    layer->states.all = OWN;
    return read && read_scale(owner, box, layer, 1);
}

static int read_codes_layer(Owner *owner, int own_bits, int refine_bits, const Box *box, Layer *layer, Scratch *scratch, PyObject *read_large)
{
    Py_ssize_t row_length = box->kept_columns * box->inner, n = box->kept_rows * row_length;
    uint8_t *states = holds_all(box) ? layer->states.bytes : scratch->states;
    int8_t book[256];
    Codes codes;
    if (!read_mask(&owner->masks, known_of_kept(layer, box, scratch), n, row_length, refine_bits > 0, scratch, states))
        return 0;
    layer->states.all = -1;
    Py_ssize_t owned = count_byte(states, n, OWN), refined = refine_bits ? count_byte(states, n, REFINE) : 0;
    if (owned && !own_bits)
        return fail("a layer owns slots with 0 bits");
    if (!holds_all(box))
        scatter(box, states, layer->states.bytes);
    states = layer->states.bytes;
    if (!layer->held && owned < layer->size)
        memset(layer->q, 0, (size_t)layer->size);
    if (!read_codes(&owner->values, owned, own_bits, read_large, scratch->spare, &codes))
        return 0;
    int read = take_codebook(&owner->codebooks, own_bits, book);
    if (read && owned == layer->size)
        put_all(&codes, book, layer->q);
    else if (read && owned == n) { /* every kept slot */
        put_all(&codes, book, (int8_t *)scratch->known);
        put_back(box, scratch->known, (uint8_t *)layer->q);
    } else if (read)
        put(&codes, book, states, layer->size, OWN, layer->q);
    release_codes(&codes);
    if (read && refine_bits) {
        if (!read_codes(&owner->values, refined, refine_bits, read_large, scratch->spare, &codes))
            return 0;
        read = take_codebook(&owner->codebooks, refine_bits, book);
        if (read)
            put(&codes, book, states, layer->size, REFINE, layer->q);
        release_codes(&codes);
    }
    return read && read_scale(owner, box, layer, 0);
}

/* q + gain where the sign is set, else q - gain. */
LOOP add_plane(const uint8_t *restrict signs, int gain, Py_ssize_t n, int8_t *restrict q)
{
    int16_t plus = (int16_t)gain;
    for (Py_ssize_t i = 0; i < n; i++) {
        int16_t value = (int16_t)(q[i] + (signs[i] ? plus : -plus));
        value = value > MOST_CODE ? MOST_CODE : value;
        q[i] = (int8_t)(value < -MOST_CODE ? -MOST_CODE : value);
    }
}

/* The same where the slot is used. */
LOOP add_used_plane(const uint8_t *restrict signs, const uint8_t *restrict states, int gain, Py_ssize_t n, int8_t *restrict q)
{
    int16_t plus = (int16_t)gain;
    for (Py_ssize_t i = 0; i < n; i++) {
        int16_t step = (int16_t)(signs[i] ? plus : -plus), value = (int16_t)(q[i] + (states[i] ? step : 0));
        value = value > MOST_CODE ? MOST_CODE : value;
        q[i] = (int8_t)(value < -MOST_CODE ? -MOST_CODE : value);
    }
}

static int read_planes_layer(Owner *owner, const Box *box, Layer *layer, Scratch *scratch, PyObject *read_large)
{
    Py_ssize_t length = box->column_count * box->inner, n = box->kept_rows * box->kept_columns * box->inner;
    Codes codes;
    if (!read_codes(&owner->values, n, 1, read_large, scratch->spare, &codes))
        return 0;
    const uint8_t *gains = take(&owner->codebooks, box->kept_rows);
    uint8_t *signs = holds_all(box) ? scratch->spare : scratch->states;
    int known_form = codes.width == 1 || codes.width == 8;
    if (codes.width == 1)
        unpack(codes.data, n, signs);
    else if (known_form)
        memmove(signs, codes.data, (size_t)n);
    release_codes(&codes);
    if (!gains || !known_form)
        return gains ? fail("signs of another width") : 0;
    for (Py_ssize_t row = 0; row < box->kept_rows; row++)
        if (gains[row] > MOST_CODE)
            return fail("a gain of a plane is negative");
    layer->states.all = REFINE;
    if (!holds_all(box)) {
        scatter(box, signs, scratch->spare);
        memset(scratch->states, REFINE, (size_t)n);
        scatter(box, scratch->states, layer->states.bytes);
        layer->states.all = -1;
    }
    if (!layer->held)
        memset(layer->q, 0, (size_t)layer->size);
    for (Py_ssize_t row = 0, first = 0; row < box->row_count; row++, first += length) {
        if (box->rows && !box->rows[row])
            continue;
        if (layer->states.all < 0)
            add_used_plane(scratch->spare + first, layer->states.bytes + first, *gains++, length, layer->q + first);
        else
            add_plane(scratch->spare + first, *gains++, length, layer->q + first);
    }
    return read_scale(owner, box, layer, 0);
}

/* REUSE where the view holds a value. */
LOOP states_of_known(uint8_t *restrict states, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++)
        states[i] &= 1;
}

static int read_shared_layer(const Box *box, Layer *layer, Scratch *scratch)
{
    if (!layer->held)
        return fail("a layer is shared, but nobody holds it");
    layer->states.all = -1;
    if (holds_all(box) && layer->known.all >= 0) {
        layer->states.all = layer->known.all & 1;
        return 1;
    }
    uint8_t *known = known_of_kept(layer, box, scratch);
    if (!known)
        layer->states.all = PRUNED;
    else if (holds_all(box))
        memcpy(layer->states.bytes, known, (size_t)layer->size);
    else
        scatter(box, known, layer->states.bytes);
    if (known)
        states_of_known(layer->states.bytes, layer->size);
    return 1;
}

/* What the children of an owner know of a slot; the trunk is no ancestor that uses any. */
static inline uint8_t passed_on(uint8_t known, uint8_t state, uint8_t used)
{
    return (uint8_t)((known >> 1 & 0x7E) | (state != PRUNED ? used : 0) | (known & 1) | (state >= OWN));
}

LOOP pass_on_each(const uint8_t *restrict states, Py_ssize_t n, uint8_t used, uint8_t *restrict known)
{
    for (Py_ssize_t i = 0; i < n; i++)
        known[i] = passed_on(known[i], states[i], used);
}

static void pass_on(Layer *layer, int trunk)
{
    uint8_t used = trunk ? 0 : 0x80;
    if (layer->known.all >= 0 && layer->states.all >= 0)
        layer->known.all = passed_on((uint8_t)layer->known.all, (uint8_t)layer->states.all, used);
    else
        pass_on_each(spelled_out(&layer->states, layer->size), layer->size, used, spelled_out(&layer->known, layer->size));
}

LOOP scale_row(const int8_t *restrict q, float scale, Py_ssize_t n, float *restrict weights)
{
    for (Py_ssize_t i = 0; i < n; i++)
        weights[i] = (float)q[i] * scale;
}

LOOP scale_used_row(const int8_t *restrict q, const uint8_t *restrict states, float scale, Py_ssize_t n, float *restrict weights)
{
    for (Py_ssize_t i = 0; i < n; i++)
        weights[i] = (float)(int8_t)(states[i] ? q[i] : 0) * scale;
}

LOOP keep_used(const int8_t *restrict q, const uint8_t *restrict states, Py_ssize_t n, int8_t *restrict used)
{
    for (Py_ssize_t i = 0; i < n; i++)
        used[i] = (int8_t)(states[i] ? q[i] : 0);
}

static void weights_of(Layer *layer, Py_ssize_t rows, float *weights)
{
    Py_ssize_t length = layer->size / rows;
    const uint8_t *states = layer->states.all > PRUNED ? NULL : spelled_out(&layer->states, layer->size);
    for (Py_ssize_t row = 0, first = 0; row < rows; row++, first += length) {
        if (states)
            scale_used_row(layer->q + first, states + first, layer->scale[row], length, weights + first);
        else
            scale_row(layer->q + first, layer->scale[row], length, weights + first);
    }
}

static void q_of(Layer *layer, int8_t *q)
{
    if (layer->states.all > PRUNED)
        memcpy(q, layer->q, (size_t)layer->size);
    else
        keep_used(layer->q, spelled_out(&layer->states, layer->size), layer->size, q);
}

#endif
