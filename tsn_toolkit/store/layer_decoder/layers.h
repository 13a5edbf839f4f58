/* A layer of one owner, over what it inherits. */

#ifndef TSN_LAYERS_H
#define TSN_LAYERS_H

#include "values.h"

enum { SHARED = 0xFF, PLANES = 0xFE };
enum { MOST_BITS = 8 };

/* Kept slots: a box of rows, columns and all of the slots inside a column. NULL keeps all. */
typedef struct {
    const uint8_t *rows, *columns;
    Py_ssize_t row_count, column_count, inner, kept_rows, kept_columns;
} Box;

static int holds_all(const Box *box)
{
    return !box->rows && !box->columns;
}

static Py_ssize_t count_kept(const uint8_t *kept, Py_ssize_t length)
{
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < length; i++)
        count += kept ? kept[i] != 0 : 1;
    return count;
}

static void gather(const Box *box, const uint8_t *all, uint8_t *kept)
{
    for (Py_ssize_t row = 0; row < box->row_count; row++)
        for (Py_ssize_t column = 0; column < box->column_count; column++, all += box->inner)
            if ((!box->rows || box->rows[row]) && (!box->columns || box->columns[column])) {
                memcpy(kept, all, (size_t)box->inner);
                kept += box->inner;
            }
}

static void scatter(const Box *box, const uint8_t *kept, uint8_t *all)
{
    for (Py_ssize_t row = 0; row < box->row_count; row++)
        for (Py_ssize_t column = 0; column < box->column_count; column++, all += box->inner)
            if ((!box->rows || box->rows[row]) && (!box->columns || box->columns[column])) {
                memcpy(all, kept, (size_t)box->inner);
                kept += box->inner;
            } else
                memset(all, 0, (size_t)box->inner);
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

typedef struct {
    Blob masks, values, codebooks, scales;
    int half;
} Owner;

typedef struct {
    int8_t *q;
    uint8_t *known, *states;
    float *scale;
    Py_ssize_t size;
    int held; /* whether anybody has the layer; else nothing of the above is set but where this owner sets it */
} Layer;

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
    if (read) {
        put_all(&codes, book, layer->q);
        memset(layer->states, OWN, (size_t)layer->size);
    }
    release_codes(&codes);
    return read && read_scale(owner, box, layer, 1);
}

static int read_codes_layer(Owner *owner, int own_bits, int refine_bits, const Box *box, Layer *layer, Scratch *scratch, PyObject *read_large)
{
    Py_ssize_t row_length = box->kept_columns * box->inner, n = box->kept_rows * row_length;
    uint8_t *known = layer->held ? layer->known : NULL, *states = layer->states;
    int8_t book[256];
    Codes codes;
    if (!holds_all(box)) {
        states = scratch->states;
        if (known) {
            gather(box, known, scratch->known);
            known = scratch->known;
        }
    }
    if (!read_mask(&owner->masks, known, n, row_length, refine_bits > 0, scratch, states))
        return 0;
    Py_ssize_t owned = count_byte(states, n, OWN);
    if (owned && !own_bits)
        return fail("a layer owns slots with 0 bits");
    if (!holds_all(box))
        scatter(box, states, layer->states);
    if (!layer->held && owned < layer->size)
        memset(layer->q, 0, (size_t)layer->size);
    if (!read_codes(&owner->values, owned, own_bits, read_large, scratch->spare, &codes))
        return 0;
    int read = take_codebook(&owner->codebooks, own_bits, book);
    if (read && owned == layer->size)
        put_all(&codes, book, layer->q);
    else if (read)
        put(&codes, book, layer->states, layer->size, OWN, layer->q);
    release_codes(&codes);
    if (read && refine_bits) {
        if (!read_codes(&owner->values, count_byte(states, n, REFINE), refine_bits, read_large, scratch->spare, &codes))
            return 0;
        read = take_codebook(&owner->codebooks, refine_bits, book);
        if (read)
            put(&codes, book, layer->states, layer->size, REFINE, layer->q);
        release_codes(&codes);
    }
    return read && read_scale(owner, box, layer, 0);
}

/* q + gain where the sign is set, else q - gain, where the slot is used. */
LOOP add_plane(const uint8_t *restrict signs, const uint8_t *restrict states, int gain, Py_ssize_t n, int8_t *restrict q)
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
    Py_ssize_t row_length = box->column_count * box->inner, n = box->kept_rows * box->kept_columns * box->inner;
    Codes codes;
    if (!read_codes(&owner->values, n, 1, read_large, scratch->spare, &codes))
        return 0;
    const uint8_t *gains = take(&owner->codebooks, box->kept_rows);
    uint8_t *signs = holds_all(box) ? scratch->spare : scratch->states;
    if (codes.width == 1)
        unpack(codes.data, n, signs);
    else if (codes.width == 8 && n)
        memmove(signs, codes.data, (size_t)n);
    int known_form = codes.width == 1 || codes.width == 8;
    release_codes(&codes);
    if (!gains || !known_form)
        return gains ? fail("signs of another width") : 0;
    for (Py_ssize_t row = 0; row < box->kept_rows; row++)
        if (gains[row] > MOST_CODE)
            return fail("a gain of a plane is negative");
    memset(layer->states, REFINE, (size_t)layer->size);
    if (!holds_all(box)) {
        scatter(box, signs, scratch->spare);
        memset(scratch->states, REFINE, (size_t)n);
        scatter(box, scratch->states, layer->states);
    }
    if (!layer->held)
        memset(layer->q, 0, (size_t)layer->size);
    for (Py_ssize_t row = 0; row < box->row_count; row++)
        if (!box->rows || box->rows[row]) {
            Py_ssize_t first = row * row_length;
            add_plane(scratch->spare + first, layer->states + first, *gains++, row_length, layer->q + first);
        }
    return read_scale(owner, box, layer, 0);
}

static int read_shared_layer(const Box *box, Layer *layer, Scratch *scratch)
{
    if (!layer->held)
        return fail("a layer is shared, but nobody holds it");
    uint8_t *states = layer->states;
    if (holds_all(box))
        memcpy(states, layer->known, (size_t)layer->size);
    else {
        gather(box, layer->known, scratch->known);
        scatter(box, scratch->known, states);
    }
    for (Py_ssize_t i = 0, size = layer->size; i < size; i++)
        states[i] &= 1; /* REUSE where the view holds a value */
    return 1;
}

/* What the owner's children know of the slots; the trunk is no ancestor that uses any. */
LOOP pass_on(const uint8_t *restrict states, Py_ssize_t size, int held, int trunk, uint8_t *restrict known)
{
    if (trunk)
        for (Py_ssize_t i = 0; i < size; i++)
            known[i] = states[i] >= OWN;
    else if (!held)
        for (Py_ssize_t i = 0; i < size; i++)
            known[i] = (uint8_t)((states[i] != PRUNED ? 0x80 : 0) | (states[i] >= OWN));
    else
        for (Py_ssize_t i = 0; i < size; i++)
            known[i] = (uint8_t)((known[i] >> 1 & 0x7E) | (states[i] != PRUNED ? 0x80 : 0) | (known[i] & 1) | (states[i] >= OWN));
}

LOOP scale_row(const int8_t *restrict q, const uint8_t *restrict states, float scale, Py_ssize_t n, float *restrict weights)
{
    for (Py_ssize_t i = 0; i < n; i++)
        weights[i] = (float)(int8_t)(states[i] ? q[i] : 0) * scale;
}

LOOP keep_used(const int8_t *restrict q, const uint8_t *restrict states, Py_ssize_t n, int8_t *restrict used)
{
    for (Py_ssize_t i = 0; i < n; i++)
        used[i] = (int8_t)(states[i] ? q[i] : 0);
}

#endif
