/*
 * The module `_layer_decoder`: layers decoded slot by slot as docs/store-format.md describes them; `layer_blobs.py` and `masks.py` use arrays.
 *
 * Bytes that break the format raise ValueError; `compiled_chain.py` then has them read with the arrays, which name the fault. Whatever the bytes say,
 * nothing outside of the buffers that were handed over is read or written.
 *
 * Per slot there is one byte `known`: bit 0 says that the frozen view holds a value, bit 7 that the parent uses the slot, bit 6 that its parent does,
 * and so on. Where nobody holds the layer, `known` and q are taken for zeros, whatever stands there.
 */

#include "layers.h"

enum { BUFFERS = 13 };
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

/*
 * q, known, states, scale and the room to work in, of which each may be larger than the layer. Where the caller has no use for what is known, or
 * drops no units, there is no room for it.
 */
static int open_layer(Layer *layer, Scratch *scratch, const Py_buffer *state, const Box *box, int knows)
{
    Py_ssize_t rows = box->row_count, size = rows * box->column_count * box->inner, packed = size / 8 + 2 * CONTEXTS;
    if (state[0].len < size || (knows && state[1].len < size) || state[2].len < size || state[3].len < rows * (Py_ssize_t)sizeof(float) ||
        state[4].len < size + packed + (holds_all(box) ? 0 : 2 * size) || state[5].len != 2 * (Py_ssize_t)sizeof(int32_t))
        return fail("too little room for a layer");
    const int32_t *all = state[5].buf;
    layer->q = state[0].buf;
    layer->known = (Slots){state[1].buf, knows ? all[0] : 0};
    layer->states = (Slots){state[2].buf, all[1]};
    layer->scale = state[3].buf;
    layer->size = size;
    scratch->spare = state[4].buf;
    scratch->packed = scratch->spare + size;
    scratch->known = scratch->packed + packed;
    scratch->states = scratch->known + size;
    return 1;
}

static void close_layer(const Layer *layer, const Py_buffer *state)
{
    int32_t *all = state[5].buf;
    all[0] = layer->known.all;
    all[1] = layer->states.all;
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
 * decode_layer(masks, values, codebooks, scales, places, half, trunk, kind, outputs, inputs, inner, kept outputs, kept inputs, q, known, states,
 *              scale, room, all, held, last, read_large): reads one owner's next layer over what it inherits, in place.
 *
 * masks .. scales    bytes of the blobs; places: int64 (4,), where the layer begins in each, afterwards where it ends
 * half               scales are stored as 16-bit floats, else as int8 steps
 * trunk, kind        the owner is the trunk, which has no masks; the layer's byte in the blob `layers`
 * outputs .. inner   shape of the weight, all dimensions behind the second as one
 * kept ..            a byte each, 0 where the unit is dropped; empty where none is
 * q, known, states   a byte for each slot; `known` may be empty where no other owner holds the layer or will
 * scale, room        float32 (outputs,); to work in, see `open_layer`
 * all                int32 (2,), what every byte of `known` and of `states` is, or -1: they stand there; 0 before the first owner
 * held, last         an owner before this one holds the layer; none comes after it
 * read_large         (place in `values`, bytes, bits per code, number of codes) -> packed codes and their width, 1, 2, 4 or 8
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
    Box box = {NULL, NULL, 0, 0, 0, 0, 0};
    int trunk, kind, last, done = 0;
    (void)module;
    memset(b, 0, sizeof b);
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*w*ppinnny*y*w*w*w*w*w*w*ppO", &b[0], &b[1], &b[2], &b[3], &b[4], &owner.half, &trunk, &kind,
                          &box.row_count, &box.column_count, &box.inner, &b[5], &b[6], &b[7], &b[8], &b[9], &b[10], &b[11], &b[12], &layer.held,
                          &last, &read_large))
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
            pass_on(&layer, trunk);
        close_layer(&layer, b + 7);
    }
    close_box(&box);
    release(b);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

/* answer(q, known, states, scale, room, all, outputs, size, out): q, 0 where the owner is PRUNED, goes to int8, or scale times that to float32. */
static PyObject *answer(PyObject *module, PyObject *arguments)
{
    Py_buffer b[BUFFERS];
    Py_ssize_t rows, size;
    Layer layer;
    Scratch scratch;
    int done;
    (void)module;
    memset(b, 0, sizeof b);
    if (!PyArg_ParseTuple(arguments, "w*w*w*w*w*w*nnw*", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &rows, &size, &b[6]))
        return NULL;
    Box box = {NULL, NULL, rows, 1, rows > 0 ? size / rows : 0, rows, 1};
    done = rows >= 1 && size >= rows && size % rows == 0 ? open_layer(&layer, &scratch, b, &box, 0) : fail("a layer of another shape");
    if (done && b[6].len == size * (Py_ssize_t)sizeof(float))
        weights_of(&layer, rows, b[6].buf);
    else if (done && b[6].len == size)
        q_of(&layer, b[6].buf);
    else if (done)
        done = fail("weights of another size");
    release(b);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"decode_layer", decode_layer, METH_VARARGS, "Reads one owner's next layer over what it inherits, in place; see layer_decoder/module.c."},
    {"answer", answer, METH_VARARGS, "Writes what an owner answers with; see layer_decoder/module.c."},
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
