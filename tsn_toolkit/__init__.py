"""One trained backbone, many tasks, one small store; every task leaves as its own small quantized model.

Importing this package loads none of its modules, no optional runtime, and changes no global state.
"""

__version__ = "0.1.0"
