"""Run one ONNX file in bfloat16 in a process of its own; the request is that of `runner`, its options say the precision.

python run_openvino_bf16.py REQUEST.json
"""

import sys

from run_openvino import Session, profile
from runner import serve

if __name__ == "__main__":
    serve(sys.argv[1], Session, profile=profile)
