/* Kept slots of a layer: a box of outputs, inputs and all of the slots inside a pair of them. */

#ifndef TSN_BOX_H
#define TSN_BOX_H

#include "bytes.h"

typedef struct {
    const uint8_t *rows;   /* a byte for each output, 0 where it is dropped; NULL: all are kept */
    int32_t *columns;      /* the inputs that are kept; NULL: all are */
    Py_ssize_t row_count, column_count, inner, kept_rows, kept_columns;
} Box;

static int holds_all(const Box *box)
{
    return !box->rows && !box->columns;
}

static int open_box(Box *box, const Py_buffer *rows, const Py_buffer *columns)
{
    const Py_ssize_t most = (Py_ssize_t)1 << 28; /* slots of a model; eight bytes for each still have a 32-bit size */
    const uint8_t *kept_rows = rows->buf, *kept_columns = columns->buf;
    if (box->row_count < 1 || box->column_count < 1 || box->inner < 1 || box->row_count > most / box->column_count / box->inner)
        return fail("a layer of another shape");
    if ((rows->len && rows->len != box->row_count) || (columns->len && columns->len != box->column_count))
        return fail("kept units of another number");
    box->kept_rows = box->row_count;
    box->kept_columns = box->column_count;
    if (rows->len) {
        box->rows = kept_rows;
        box->kept_rows = 0;
        for (Py_ssize_t row = 0; row < box->row_count; row++)
            box->kept_rows += kept_rows[row] != 0;
    }
    if (columns->len) {
        box->columns = PyMem_Malloc((size_t)box->column_count * sizeof *box->columns);
        box->kept_columns = 0;
        if (!box->columns) {
            PyErr_NoMemory();
            return 0;
        }
        for (Py_ssize_t column = 0; column < box->column_count; column++)
            if (kept_columns[column])
                box->columns[box->kept_columns++] = (int32_t)column;
    }
    return 1;
}

static void close_box(Box *box)
{
    PyMem_Free(box->columns);
}

/* The kept slots of one row, together or among all; `size` is box->inner, and a copy of a size that compilers know takes a fraction of one of any. */
static inline void gather_row(const Box *box, const uint8_t *restrict all, uint8_t *restrict kept, size_t size)
{
    for (Py_ssize_t k = 0; k < box->kept_columns; k++)
        memcpy(kept + k * size, all + box->columns[k] * size, size);
}

static inline void put_back_row(const Box *box, const uint8_t *restrict kept, uint8_t *restrict all, size_t size)
{
    for (Py_ssize_t k = 0; k < box->kept_columns; k++)
        memcpy(all + box->columns[k] * size, kept + k * size, size);
}

/* The bytes of kept slots out of those of all. */
static void gather(const Box *box, const uint8_t *restrict all, uint8_t *restrict kept)
{
    const Py_ssize_t length = box->column_count * box->inner, kept_length = box->kept_columns * box->inner;
    for (Py_ssize_t row = 0; row < box->row_count; row++, all += length) {
        if (box->rows && !box->rows[row])
            continue;
        if (!box->columns)
            memcpy(kept, all, (size_t)length);
        else if (box->inner == 9)
            gather_row(box, all, kept, 9);
        else if (box->inner == 1)
            gather_row(box, all, kept, 1);
        else
            gather_row(box, all, kept, (size_t)box->inner);
        kept += kept_length;
    }
}

/* The other way round; all other slots keep their bytes. */
static void put_back(const Box *box, const uint8_t *restrict kept, uint8_t *restrict all)
{
    const Py_ssize_t length = box->column_count * box->inner, kept_length = box->kept_columns * box->inner;
    for (Py_ssize_t row = 0; row < box->row_count; row++, all += length) {
        if (box->rows && !box->rows[row])
            continue;
        if (!box->columns)
            memcpy(all, kept, (size_t)length);
        else if (box->inner == 9)
            put_back_row(box, kept, all, 9);
        else if (box->inner == 1)
            put_back_row(box, kept, all, 1);
        else
            put_back_row(box, kept, all, (size_t)box->inner);
        kept += kept_length;
    }
}

/* The same; the bytes of all other slots become 0. */
static void scatter(const Box *box, const uint8_t *restrict kept, uint8_t *restrict all)
{
    memset(all, 0, (size_t)(box->row_count * box->column_count * box->inner));
    put_back(box, kept, all);
}

#endif
