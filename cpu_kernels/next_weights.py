"""Where the weights of the next product are, so that memory can be asked for them before it begins."""

from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import load_word
from llmrun.cpu_kernels.op import AHEAD, AHEAD_STRIDE


@device
def next_weights(op, thread):
    """Where a thread's weights of the next product begin, or any address where there is none."""
    return load_word(op + 8 * AHEAD) + thread * load_word(op + 8 * AHEAD_STRIDE)
