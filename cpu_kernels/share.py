"""How work is divided among the threads."""

from llmrun.cpu_kernels.jit import inlined


@inlined
def share(n, thread, n_threads):
    """The part [first, last) of n pieces of work that belongs to a thread."""
    return n * thread // n_threads, n * (thread + 1) // n_threads


@inlined
def share_values(n, thread, n_threads):
    """The part [first, last) of a row of n values, in whole records of 32."""
    first, last = share((n + 31) // 32, thread, n_threads)
    return min(32 * first, n), min(32 * last, n)
