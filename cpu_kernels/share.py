"""How work is divided among the threads."""

from llmrun.cpu_kernels.jit import inlined


@inlined
def share(n, thread, n_threads):
    """The part [first, last) of n pieces of work that belongs to a thread."""
    return n * thread // n_threads, n * (thread + 1) // n_threads
