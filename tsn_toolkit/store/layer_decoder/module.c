/*
 * The module `_layer_decoder`: layers decoded as docs/store-format.md describes them, slot by slot, where `layer_blobs.py` and `masks.py` work on arrays.
 *
 * Bytes that break the format raise ValueError; `compiled_chain.py` then has them read with the arrays, which name the fault. Whatever the bytes say,
 * nothing outside of the buffers that were handed over is read or written.
 *
 * Per slot there is one byte `known`: bit 0 says that the frozen view holds a value, bit 7 that the parent uses the slot, bit 6 that its parent does,
 * and so on. Where nobody holds the layer, `known` and q are taken for zeros, whatever stands there.
 */

#include "layers.h"

enum { BUFFERS = 12 };
enum { INTERFACE = 1 }; /* another number whenever the functions below are called or answer in another way */

static void release(Py_buffer *buffers)
{
    for (int i = 0; i < BUFFERS; i++)
        if (buffers[i].obj)
            PyBuffer_Release(&buffers[i]);
}

static int open_blob(Blob *blob, const Py_buffer *buffer, int64_t at)
{
    blob->data = buffer->buf;
    blob->size = buffer->len;
    blob->at = (Py_ssize_t)at;
    return at >= 0 && at <= buffer->len ? 1 : fail("a place beyond a blob");
}

static int open_box(Box *box, const Py_buffer *rows, const Py_buffer *columns)
{
    const Py_ssize_t most = (Py_ssize_t)1 << 40;
    if (box->row_count < 1 || box->column_count < 1 || box->inner < 1 || box->row_count > most / box->column_count / box->inner)
        return fail("a layer of another shape");
    if ((rows->len && rows->len != box->row_count) || (columns->len && columns->len != box->column_count))
        return fail("kept units of another number");
    box->rows = rows->len ? rows->buf : NULL;
    box->columns = columns->len ? columns->buf : NULL;
    box->kept_rows = count_kept(box->rows, box->row_count);
    box->kept_columns = count_kept(box->columns, box->column_count);
    return 1;
}

/*
 * q, known, states, scale and the room to work in, of which each may be larger than the layer; nothing is known, and no room is there for dropped units,
 * where the caller has no use for them.
 */
static int open_layer(Layer *layer, Scratch *scratch, const Py_buffer *state, const Box *box, int knows)
{
    Py_ssize_t rows = box->row_count, size = rows * box->column_count * box->inner, packed = size / 8 + 2 * CONTEXTS;
    if (state[0].len < size || (knows && state[1].len < size) || state[2].len < size || state[3].len < rows * (Py_ssize_t)sizeof(float) ||
        state[4].len < size + packed + (holds_all(box) ? 0 : 2 * size))
        return fail("too little room for a layer");
    layer->q = state[0].buf;
    layer->known = state[1].buf;
    layer->states = state[2].buf;
    layer->scale = state[3].buf;
    layer->size = size;
    scratch->spare = state[4].buf;
    scratch->packed = scratch->spare + size;
    scratch->known = scratch->packed + packed;
    scratch->states = scratch->known + size;
    return 1;
}

static int read_layer(Owner *owner, int trunk, int kind, const Box *box, Layer *layer, Scratch *scratch, PyObject *read_large)
{
    if (trunk)
        return read_trunk_layer(owner, kind, box, layer, scratch, read_large);
    if (kind == SHARED)
        return read_shared_layer(box, layer, scratch);
    if (kind == PLANES)
        return read_planes_layer(owner, box, layer, scratch, read_large);
    int own = kind & 15, refine = kind >> 4;
    if (own > MOST_BITS || refine > MOST_BITS)
        return fail("a layer of another kind");
    return read_codes_layer(owner, own, refine, box, layer, scratch, read_large);
}

/*
 * decode_layer(masks, values, codebooks, scales, places, half, trunk, kind, outputs, inputs, inner, kept outputs, kept inputs, q, known, states, scale,
 *              room, held, last, read_large): reads one owner's next layer over what it inherits, in place.
 *
 * masks .. scales    bytes of the blobs; places: int64 (4,), where the layer begins in each, afterwards where it ends
 * half               scales are stored as 16-bit floats, else as int8 steps
 * trunk, kind        the owner is the trunk, which has no masks; the layer's byte in the blob `layers`
 * outputs .. inner   shape of the weight, all dimensions behind the second as one
 * kept ..            a byte each, 0 where the unit is dropped; empty where none is
 * q, known, states   a byte for each slot; `known` may be empty where no other owner holds the layer or will
 * scale, room        float32 (outputs,); to work in, see `open_layer`
 * held, last         an owner before this one holds the layer; none comes after it
 * read_large         (payload, bits per code, number of codes) -> packed codes and their width, 1, 2, 4 or 8
 *
 * After ValueError the state is not to be used any more.
 */
static PyObject *decode_layer(PyObject *module, PyObject *arguments)
{
    Py_buffer b[BUFFERS];
    PyObject *read_large;
    Owner owner;
    Layer layer;
    Scratch scratch;
    Box box;
    int trunk, kind, last, done = 0;
    (void)module;
    memset(b, 0, sizeof b);
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*w*ppinnny*y*w*w*w*w*w*ppO", &b[0], &b[1], &b[2], &b[3], &b[4], &owner.half, &trunk, &kind,
                          &box.row_count, &box.column_count, &box.inner, &b[5], &b[6], &b[7], &b[8], &b[9], &b[10], &b[11], &layer.held, &last,
                          &read_large))
        return NULL;
    Blob *blobs[4] = {&owner.masks, &owner.values, &owner.codebooks, &owner.scales};
    int64_t *at = b[4].buf;
    if (b[4].len != 4 * (Py_ssize_t)sizeof *at)
        fail("places of another number");
    else if (open_blob(blobs[0], &b[0], at[0]) && open_blob(blobs[1], &b[1], at[1]) && open_blob(blobs[2], &b[2], at[2]) &&
             open_blob(blobs[3], &b[3], at[3]) && open_box(&box, &b[5], &b[6]) &&
             open_layer(&layer, &scratch, b + 7, &box, layer.held || !last))
        done = read_layer(&owner, trunk, kind, &box, &layer, &scratch, read_large);
    if (done) {
        for (int i = 0; i < 4; i++)
            at[i] = blobs[i]->at;
        if (!last)
            pass_on(layer.states, layer.size, layer.held, trunk, layer.known);
    }
    release(b);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

/* answer(q, known, states, scale, room, outputs, size, out): writes q, 0 where the last owner is PRUNED, into int8 or scale times that into float32. */
static PyObject *answer(PyObject *module, PyObject *arguments)
{
    Py_buffer b[BUFFERS];
    Py_ssize_t rows, size;
    Layer layer;
    Scratch scratch;
    int done;
    (void)module;
    memset(b, 0, sizeof b);
    if (!PyArg_ParseTuple(arguments, "w*w*w*w*w*nnw*", &b[0], &b[1], &b[2], &b[3], &b[4], &rows, &size, &b[5]))
        return NULL;
    Box box = {NULL, NULL, rows, 1, rows > 0 ? size / rows : 0, rows, 1};
    done = rows >= 1 && size >= rows && size % rows == 0 ? open_layer(&layer, &scratch, b, &box, 0) : fail("a layer of another shape");
    Py_ssize_t wanted = size * (Py_ssize_t)sizeof(float);
    if (done && b[5].len != size && b[5].len != wanted)
        done = fail("too little room for weights");
    if (done && b[5].len == wanted)
        for (Py_ssize_t row = 0, length = size / rows; row < rows; row++)
            scale_row(layer.q + row * length, layer.states + row * length, layer.scale[row], length, (float *)b[5].buf + row * length);
    else if (done)
        keep_used(layer.q, layer.states, size, b[5].buf);
    release(b);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"decode_layer", decode_layer, METH_VARARGS, "Reads one owner's next layer over what it inherits, in place; see compiled_chain.py."},
    {"answer", answer, METH_VARARGS, "Writes what an owner answers with; see compiled_chain.py."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_layer_decoder", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__layer_decoder(void)
{
    fill_spread_bits();
    fill_chances();
    fill_vectors();
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
