"""C99 programs for microcontrollers: integers only, no heap, no math library.

`lowering.py` turns an integer model into a list of integer operations (`operations.py`), `arena.py` gives their tensors addresses, `constants.py`
packs weights, `program.py` writes the C files and predicts what they occupy, and `reference.py` computes the same numbers with numpy.
"""
