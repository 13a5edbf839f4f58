"""C99 programs for microcontrollers and Linux on Arm: integers only, no heap, no math library.

`lowering.py` turns an integer model into a list of integer operations (`operations.py`), `reference.py` computes the same numbers with numpy.
`packing.py` gives weights the form with the fewest bytes, `share.py` lets tasks read what they have in common from one place, `arena.py` gives
activations addresses, `program.py` writes the C files. `footprint.py` predicts flash and RAM and holds them against a target's limits, `compile.py`
measures them in the linked program, `read_back.py` reads the weights out of the text again.
"""
