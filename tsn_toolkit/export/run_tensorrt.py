"""Build and run one ONNX file on this machine's GPU in a process of its own, with nothing but numpy, torch (memory on the GPU) and tensorrt.

    python run_tensorrt.py REQUEST.json

The request is that of `runner`. A call ends with the GPU's work.
"""

import sys

import torch
from runner import serve


def build_engine(path, shape):
    """An engine for batches up to the first dimension of `shape`."""
    import tensorrt  # only where a GPU is

    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(path):
        raise SystemExit("; ".join(str(parser.get_error(index)) for index in range(parser.num_errors)))
    config, shapes = builder.create_builder_config(), builder.create_optimization_profile()
    shapes.set_shape(network.get_input(0).name, (1, *shape[1:]), tuple(shape), tuple(shape))
    config.add_optimization_profile(shapes)
    return tensorrt.Runtime(logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))


class Engine:
    """One engine with one execution context."""

    def __init__(self, request, shape):
        engine = build_engine(request["model"], shape)
        self.context, self.stream = engine.create_execution_context(), torch.cuda.Stream()
        self.input, self.output = engine.get_tensor_name(0), engine.get_tensor_name(1)

    def put(self, x):
        """The array as a tensor on the GPU."""
        return torch.from_numpy(x).cuda()

    def __call__(self, x):
        self.context.set_input_shape(self.input, tuple(x.shape))
        y = torch.empty(tuple(self.context.get_tensor_shape(self.output)), device="cuda")
        self.context.set_tensor_address(self.input, x.data_ptr())
        self.context.set_tensor_address(self.output, y.data_ptr())
        self.context.execute_async_v3(self.stream.cuda_stream)
        self.stream.synchronize()
        return y

    def get(self, output):
        """The tensor as an array."""
        return output.cpu().numpy()


if __name__ == "__main__":
    serve(sys.argv[1], Engine)
