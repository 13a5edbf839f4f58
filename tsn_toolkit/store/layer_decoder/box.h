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

/* The kept slots of one row. `size` is box->inner: a copy of a size that compilers know takes a fraction of one of any. */
static inline void copy_row(const Box *box, uint8_t *restrict all, uint8_t *restrict kept, size_t size, int back)
{
    for (Py_ssize_t k = 0; k < box->kept_columns; k++)
        if (back)
            memcpy(all + box->columns[k] * size, kept + k * size, size);
        else
            memcpy(kept + k * size, all + box->columns[k] * size, size);
}

/* The bytes of kept slots out of those of all; or back, and all other slots keep theirs. */
static inline void copy_kept(const Box *box, uint8_t *restrict all, uint8_t *restrict kept, int back)
{
    const Py_ssize_t length = box->column_count * box->inner, kept_length = box->kept_columns * box->inner;
    for (Py_ssize_t row = 0; row < box->row_count; row++, all += length) {
        if (box->rows && !box->rows[row])
            continue;
        if (!box->columns)
            memcpy(back ? all : kept, back ? kept : all, (size_t)length);
        else if (box->inner == 9)
            copy_row(box, all, kept, 9, back);
        else if (box->inner == 1)
            copy_row(box, all, kept, 1, back);
        else
            copy_row(box, all, kept, (size_t)box->inner, back);
        kept += kept_length;
    }
}

static void gather(const Box *box, uint8_t *restrict all, uint8_t *restrict kept)
{
    copy_kept(box, all, kept, 0);
}

static void put_back(const Box *box, uint8_t *restrict kept, uint8_t *restrict all)
{
    copy_kept(box, all, kept, 1);
}

/* Back, and the bytes of all other slots become 0. */
static void scatter(const Box *box, uint8_t *restrict kept, uint8_t *restrict all)
{
    memset(all, 0, (size_t)(box->row_count * box->column_count * box->inner));
    put_back(box, kept, all);
}

#endif
