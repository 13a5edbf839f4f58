/* What an owner does at the kept slots of a layer. */

#ifndef TSN_MASKS_H
#define TSN_MASKS_H

#include "ans.h"

enum { PRUNED, REUSE, OWN, REFINE };
enum { SLOTS, BITMAP, POSITIONS, PARENT, BLOCKS, CHOICES };
enum { CONTEXTS = 256, NOWHERE = CONTEXTS, UNKNOWN = 0xFF, MOST_LENGTH = 1 << 24, MOST_GROUP = 99 };

static uint8_t context_of(int known, int depth)
{
    return (uint8_t)((depth ? known >> (8 - depth) << 1 : 0) | (known & 1));
}

/* Bits of one kind: the chances of its contexts stand in the blob when they first occur, and each kind is read once. */
static int take_chances(Blob *blob, const size_t *counts, uint8_t *chance, int *certain)
{
    *certain = 1;
    for (int number = 0; number < CONTEXTS; number++) {
        int index;
        if (!counts[number])
            continue;
        if (!take_byte(blob, &index))
            return 0;
        if (index > ALWAYS)
            return fail("there is no such chance");
        chance[number] = (uint8_t)index;
        *certain &= index == 0 || index == ALWAYS;
    }
    return 1;
}

/*
 * Slots are gone through in LANES pieces of n / LANES at a time, of which the last also has the rest: what one does in a loop waits for what it did
 * last, not for what the others did.
 */
enum { LANES = 4 };

/* How often each byte occurs in each piece. */
static void count_bytes(const uint8_t *restrict bytes, Py_ssize_t n, size_t counts[LANES][CONTEXTS])
{
    Py_ssize_t piece = n / LANES;
    for (Py_ssize_t i = 0; i < piece; i++)
        for (int lane = 0; lane < LANES; lane++)
            counts[lane][bytes[lane * piece + i]]++;
    for (Py_ssize_t i = LANES * piece; i < n; i++)
        counts[LANES - 1][bytes[i]]++;
}

static Py_ssize_t count_byte(const uint8_t *restrict bytes, Py_ssize_t n, uint8_t byte)
{
    Py_ssize_t count = 0;
    while (n > 0) {
        int piece = n < 1 << 14 ? (int)n : 1 << 14, found = 0; /* a short count is a vector's */
        for (int i = 0; i < piece; i++)
            found += bytes[i] == byte;
        count += found;
        bytes += piece;
        n -= piece;
    }
    return count;
}

/*
 * Reads one bit for each of n slots, whose context follows from what is known of it (NULL: nothing); `found` may be `known`. `packed` has room for n
 * bits and CONTEXTS bytes.
 */
static int read_by_context(Stream *stream, Blob *blob, int depth, const uint8_t *known, Py_ssize_t n, uint8_t *restrict packed, uint8_t *found)
{
    size_t by_known[LANES][CONTEXTS] = {{0}}, counts[CONTEXTS] = {0};
    size_t by_lane[LANES][CONTEXTS] = {{0}}; /* how many bits of a context each lane has, then where its next one stands */
    uint8_t context[CONTEXTS], chance[CONTEXTS], value[CONTEXTS];
    int certain, occurring = 0;
    Py_ssize_t byte = 0, piece = n / LANES;
    if (known)
        count_bytes(known, n, by_known);
    else
        by_known[0][0] = (size_t)n;
    for (int i = 0; i < CONTEXTS; i++) {
        context[i] = context_of(i, depth);
        for (int lane = 0; lane < LANES; lane++) {
            by_lane[lane][context[i]] += by_known[lane][i];
            counts[context[i]] += by_known[lane][i];
        }
    }
    if (!take_chances(blob, counts, chance, &certain))
        return 0;
    for (int number = 0; number < CONTEXTS; number++)
        occurring += counts[number] > 0;
    if (certain) {
        for (int i = 0; i < CONTEXTS; i++)
            value[i] = counts[context[i]] && chance[context[i]] == ALWAYS;
        if (occurring < 2)
            memset(found, n && value[known ? known[0] : 0], (size_t)n);
        else
            for (Py_ssize_t i = 0; i < n; i++)
                found[i] = value[known[i]];
        return 1;
    }
    for (int number = 0; number < CONTEXTS; number++)
        if (counts[number]) {
            size_t next = 8 * (size_t)byte;
            read_bits(stream, chance[number], (Py_ssize_t)counts[number], packed + byte);
            byte += ((Py_ssize_t)counts[number] + 7) / 8;
            for (int lane = 0; lane < LANES; lane++) {
                size_t in_lane = by_lane[lane][number];
                by_lane[lane][number] = next;
                next += in_lane;
            }
        }
    if (occurring == 1) {
        unpack(packed, n, found);
        return 1;
    }
    for (Py_ssize_t i = 0; i < piece; i++)
        for (int lane = 0; lane < LANES; lane++) {
            size_t bit = by_lane[lane][context[known[lane * piece + i]]]++;
            found[lane * piece + i] = packed[bit >> 3] >> (bit & 7) & 1;
        }
    for (Py_ssize_t i = LANES * piece; i < n; i++) {
        size_t bit = by_lane[LANES - 1][context[known[i]]]++;
        found[i] = packed[bit >> 3] >> (bit & 7) & 1;
    }
    return 1;
}

/*
 * Reads one bit for each of n slots where `found` is 1, all of which hold a value, and puts it there. `packed` has room for n bits and 2 * CONTEXTS
 * bytes.
 */
static int read_where(
    Stream *stream, Blob *blob, int depth, const uint8_t *restrict known, Py_ssize_t n, uint8_t *restrict packed, uint8_t *restrict found)
{
    size_t counts[CONTEXTS] = {0}, next[CONTEXTS + 1] = {0};
    uint16_t context[2 * CONTEXTS];
    uint8_t chance[CONTEXTS];
    int certain;
    Py_ssize_t byte = 1;
    for (int i = 0; i < 2 * CONTEXTS; i++)
        context[i] = i < CONTEXTS ? NOWHERE : context_of(i - CONTEXTS, depth);
    if (depth)
        for (Py_ssize_t i = 0; i < n; i++)
            counts[context_of(known[i], depth)] += found[i];
    else
        counts[1] = (size_t)count_byte(found, n, 1);
    if (!take_chances(blob, counts, chance, &certain))
        return 0;
    if (certain && !depth) {
        if (chance[1] != ALWAYS)
            memset(found, 0, (size_t)n);
        return 1;
    }
    packed[0] = 0; /* what a slot reads that has no bit, again and again */
    for (int number = 0; number < CONTEXTS; number++)
        if (counts[number]) {
            read_bits(stream, chance[number], (Py_ssize_t)counts[number], packed + byte);
            next[number] = 8 * (size_t)byte;
            byte += ((Py_ssize_t)counts[number] + 7) / 8;
        }
    for (Py_ssize_t i = 0; i < n; i++) {
        int here = found[i], number = context[known[i] + CONTEXTS * here];
        size_t bit = next[number];
        next[number] = bit + here;
        found[i] = packed[bit >> 3] >> (bit & 7) & 1;
    }
    return 1;
}

/*
 * Memory to work in; `known` and `states` are there for layers of which units are dropped alone.
 *
 * spare    a byte for each slot: while a mask is read blocks, choices and what is still open; then codes, or the signs of a plane
 * packed   a bit for each slot and 2 * CONTEXTS bytes: runs of mask bits
 * known    a byte for each slot: of kept slots, one behind the other, what is known; after the mask, their q
 * states   a byte for each slot: of kept slots their states, or the signs of a plane
 */
typedef struct {
    uint8_t *spare, *packed, *known, *states;
} Scratch;

static int read_blocks(Stream *stream, Blob *blob, int depth, const uint8_t *known, Py_ssize_t n, Py_ssize_t row_length, Py_ssize_t size,
                       Scratch *scratch, uint8_t *marks)
{
    Py_ssize_t rows = row_length ? n / row_length : 0, block = 0;
    uint8_t *bits = scratch->spare; /* first what is known of each block's first slot */
    for (Py_ssize_t row = 0; row < rows; row++)
        for (Py_ssize_t first = 0; first < row_length; first += size)
            bits[block++] = known ? known[row * row_length + first] : 0;
    if (!read_by_context(stream, blob, depth, known ? bits : NULL, block, scratch->packed, bits))
        return 0;
    for (Py_ssize_t row = 0; row < rows; row++)
        for (Py_ssize_t first = 0; first < row_length; first += size)
            memset(marks + row * row_length + first, *bits++, (size_t)(size < row_length - first ? size : row_length - first));
    return 1;
}

/* Marks of groups of `group` slots of a row, of which `keep` are marked; the last group of a row may be shorter. See the page for the order. */
static int read_choices(Stream *stream, Blob *blob, int depth, const uint8_t *known, Py_ssize_t n, Py_ssize_t row_length, int keep, int group,
                        Scratch *scratch, uint8_t *marks)
{
    int most = row_length < group ? (int)row_length : group; /* slots of the largest group */
    size_t by_left = (size_t)((keep < most ? keep : most) + 1) << (depth + 1), numbers = (size_t)(most + 1) * by_left;
    uint8_t *chance = PyMem_Malloc(numbers), *to_mark = scratch->spare, *packed;
    size_t *places = PyMem_Calloc(2 * by_left, sizeof *places); /* of each context: how many bits it has, then where its next bit stands */
    Py_ssize_t rows = row_length ? n / row_length : 0;
    int done = 0;
    if (!chance || !places) {
        PyErr_NoMemory();
        goto finish;
    }
    memset(chance, UNKNOWN, numbers);
    for (Py_ssize_t row = 0, number = 0; row < rows; row++)
        for (Py_ssize_t first = 0; first < row_length; first += group, number++)
            to_mark[number] = (uint8_t)(keep < row_length - first ? keep : row_length - first);
    Py_ssize_t in_row = (row_length + group - 1) / group;
    /* A number for each group, and behind them less than a byte for each that has a bit to read: such a group has two slots, so that both fit. */
    packed = to_mark + rows * in_row;
    int last = (int)(row_length % group); /* slots of a short group */
    for (int step = 0; step < most; step++) {
        Py_ssize_t byte = 0;
        memset(places, 0, 2 * by_left * sizeof *places);
        /* Twice over the groups: to count the bits of each context, and, with the bits read, to set the marks. Short groups have fewer slots left,
           and come first. */
        for (int reading = 0; reading < 2; reading++) {
            Py_ssize_t number = 0;
            for (Py_ssize_t row = 0; row < rows; row++)
                for (Py_ssize_t first = 0; first < row_length; first += group, number++) {
                    int whole = row_length - first >= group, left = (whole ? group : last) - step, open = to_mark[number];
                    Py_ssize_t slot = row * row_length + first + step;
                    if (left <= 0)
                        continue;
                    uint8_t mark = open == left;
                    if (0 < open && open < left) {
                        size_t place = (size_t)whole * by_left + ((size_t)open << (depth + 1)) + context_of(known ? known[slot] : 0, depth);
                        size_t bit = places[place]++;
                        mark = reading ? packed[bit >> 3] >> (bit & 7) & 1 : 0;
                    }
                    if (reading) {
                        marks[slot] = mark;
                        to_mark[number] = (uint8_t)(open - mark);
                    }
                }
            for (size_t place = 0; !reading && place < 2 * by_left; place++) {
                int left = (place < by_left ? last : group) - step, index;
                size_t count = places[place];
                if (!count)
                    continue;
                uint8_t *stored = chance + (size_t)left * by_left + place % by_left;
                if (*stored == UNKNOWN) {
                    if (!take_byte(blob, &index))
                        goto finish;
                    *stored = (uint8_t)index;
                }
                if (*stored > ALWAYS) {
                    fail("there is no such chance");
                    goto finish;
                }
                read_bits(stream, *stored, (Py_ssize_t)count, packed + byte);
                places[place] = 8 * (size_t)byte;
                byte += ((Py_ssize_t)count + 7) / 8;
            }
        }
    }
    done = 1;
finish:
    PyMem_Free(chance);
    PyMem_Free(places);
    return done;
}

static int read_positions(Blob *blob, Py_ssize_t n, uint8_t *marks)
{
    Py_ssize_t count, last = -1;
    int width = 0;
    if (!take_varint(blob, &count))
        return 0;
    if (count > n)
        return fail("a mask has more positions than slots");
    while (n > 1 && (n - 1) >> width)
        width++;
    int low = width < 16 ? width : 16, high = width - low;
    const uint8_t *lows = NULL, *highs = NULL;
    if (low && !(lows = take_packed(blob, count, low)))
        return 0;
    if (high && !(highs = take_packed(blob, count, high)))
        return 0;
    memset(marks, 0, (size_t)n);
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t place = low ? packed_at(lows, packed_size(count, low), low, i) : 0;
        if (high)
            place |= (Py_ssize_t)packed_at(highs, packed_size(count, high), high, i) << 16;
        if (place <= last || place >= n)
            return fail("the positions of a mask do not ascend within its slots");
        marks[place] = 1;
        last = place;
    }
    return 1;
}

/* Slots whose state is still open: they hold a value and are marked, or are not where `flip` is 1. */
LOOP find_open(const uint8_t *restrict known, const uint8_t *restrict marks, uint8_t flip, Py_ssize_t n, uint8_t *restrict open)
{
    for (Py_ssize_t i = 0; i < n; i++)
        open[i] = known[i] & (marks[i] ^ flip) & 1;
}

/* The same of those that hold a value and are OWN. */
LOOP find_own(const uint8_t *restrict known, const uint8_t *restrict states, Py_ssize_t n, uint8_t *restrict open)
{
    for (Py_ssize_t i = 0; i < n; i++)
        open[i] = known[i] & (states[i] >> 1);
}

/* Marks 0 and 1 become PRUNED and OWN. */
LOOP states_of_marks(uint8_t *restrict marks, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++)
        marks[i] = (uint8_t)(marks[i] + marks[i]);
}

LOOP set_where(const uint8_t *restrict where, uint8_t state, Py_ssize_t n, uint8_t *restrict states)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        uint8_t all = (uint8_t)-where[i];
        states[i] = (uint8_t)((states[i] & ~all) | (state & all));
    }
}

/* Second or third bits: those of slots that are open become `state` where the bit is 1. */
static int read_states(Stream *stream, Blob *blob, int depth, const uint8_t *known, Py_ssize_t n, Scratch *scratch, uint8_t state, uint8_t *states)
{
    if (!memchr(scratch->spare, 1, (size_t)n))
        return 1;
    if (!read_where(stream, blob, depth, known, n, scratch->packed, scratch->spare))
        return 0;
    set_where(scratch->spare, state, n, states);
    return 1;
}

/* States of n kept slots. `known` is NULL where nothing is known of any. */
static int read_mask(Blob *blob, const uint8_t *known, Py_ssize_t n, Py_ssize_t row_length, int refines, Scratch *scratch, uint8_t *states)
{
    int head, state_depth = 0;
    Py_ssize_t size = 0, group = 0, words;
    Stream stream;
    if (!take_byte(blob, &head))
        return 0;
    int layout = head & 7, used = !(head >> 3 & 1), depth = head >> 4 & 7;
    if (layout > CHOICES)
        return fail("a mask of another layout");
    if (head >= 0x80 && !take_byte(blob, &state_depth))
        return 0;
    if (state_depth > 7 || (head >= 0x80 && !state_depth) || (depth && layout != SLOTS && layout < BLOCKS))
        return fail("a mask of another depth");
    if (layout >= BLOCKS && !take_varint(blob, &size))
        return 0;
    if (layout == CHOICES && !take_varint(blob, &group))
        return 0;
    if (layout >= BLOCKS && (size < 1 || size > MOST_LENGTH || (layout == CHOICES && (size > group || group > MOST_GROUP))))
        return fail("a pattern of other sizes");
    if (layout == BITMAP) {
        const uint8_t *bits = take_packed(blob, n, 1);
        if (!bits)
            return 0;
        unpack(bits, n, states);
    }
    if (layout == POSITIONS && !read_positions(blob, n, states))
        return 0;
    if (layout == PARENT)
        for (Py_ssize_t i = 0; i < n; i++)
            states[i] = known ? known[i] >> 7 : 0;
    if (!take_varint(blob, &words))
        return 0;
    if (words > blob->size / 4)
        return fail("a blob ends early");
    const uint8_t *data = take(blob, 4 * words);
    if (!data || !open_stream(&stream, data, 4 * words))
        return 0;
    if (layout == SLOTS && !read_by_context(&stream, blob, depth, known, n, scratch->packed, states))
        return 0;
    if (layout == CHOICES && !read_choices(&stream, blob, depth, known, n, row_length, (int)size, (int)group, scratch, states))
        return 0;
    if (layout == BLOCKS && !read_blocks(&stream, blob, depth, known, n, row_length, size, scratch, states))
        return 0;
    if (known)
        find_open(known, states, !used, n, scratch->spare);
    states_of_marks(states, n);
    if (known && !read_states(&stream, blob, state_depth, known, n, scratch, REUSE, states))
        return 0;
    if (known && refines) {
        find_own(known, states, n, scratch->spare);
        if (!read_states(&stream, blob, state_depth, known, n, scratch, REFINE, states))
            return 0;
    }
    return finish_stream(&stream);
}

#endif
