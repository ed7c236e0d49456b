"""The compiled loop that runs a program, and the compiled loop in which a thread of the team waits for one.

The team shares a control block of words, each on a cache line of its own:

    arrived     threads that have reached the barrier
    round       barriers passed so far
    program     address of the first record
    n_ops       number of records
    sent        programs sent so far; a change is the signal to begin
    stop        whether the team is to end
    state + i   whether thread i is running (0) or asleep (1), and the number of programs it has run
"""

from collections.abc import Callable

from llmrun.cpu_kernels.jit import device
from llmrun.cpu_kernels.memory import (
    call_kernel,
    fetch_add,
    load_atomic,
    load_word,
    pause,
    prefetch,
    store_atomic,
    yield_thread,
)
from llmrun.cpu_kernels.op import AHEAD, AHEAD_STRIDE, BARRIER, KERNEL, RECORD_BYTES

LINE = 64
ARRIVED, ROUND, PROGRAM, N_OPS, SENT, STOP, STATE = (LINE * i for i in range(7))
RUNNING, ASLEEP = 0, 1
SPINS = 1_000  # pauses before a waiting thread offers its processor to others: some ten microseconds
AHEAD_LINES = 2_048  # cache lines that a waiting thread fetches at most
YIELDS = 4_000  # offers before it goes to sleep: a few milliseconds


def control_words(n_threads: int) -> int:
    """Size of the control block in words."""
    return (STATE + LINE * n_threads) // 8


@device
def wait(spins):
    """Pass a moment of waiting; where threads share a processor, the one that is waited for has to get its turn."""
    if spins < SPINS:
        pause()
    else:
        yield_thread()


@device
def meet(control, n_threads, ahead):
    """A barrier: no thread leaves before all have come. One that waits fetches what is `ahead`, unless that is 0."""
    now = load_atomic(control + ROUND)
    if fetch_add(control + ARRIVED, 1) == n_threads - 1:
        store_atomic(control + ARRIVED, 0)
        store_atomic(control + ROUND, now + 1)
    else:
        spins = 0
        if ahead:
            while spins < AHEAD_LINES and load_atomic(control + ROUND) == now:
                prefetch(ahead + LINE * spins)
                spins += 1
            spins = 0
        while load_atomic(control + ROUND) == now:
            wait(spins)
            spins += 1


@device
def interpret(control, thread, n_threads):
    """Run the records of the program, and meet at the end."""
    op = load_word(control + PROGRAM)
    end = op + load_word(control + N_OPS) * RECORD_BYTES
    while op < end:
        call_kernel(load_word(op + 8 * KERNEL), op, thread, n_threads)
        if n_threads > 1 and load_word(op + 8 * BARRIER):
            ahead = load_word(op + 8 * AHEAD)
            meet(control, n_threads, ahead + thread * load_word(op + 8 * AHEAD_STRIDE) if ahead else 0)
        op += RECORD_BYTES
    if n_threads > 1:
        meet(control, n_threads, 0)


def build_send() -> Callable:
    """The kernel that tells the team of a new program."""

    def send(control, thread, n_threads):
        fetch_add(control + SENT, 1)

    return send


def build_run() -> Callable:
    """The kernel that the calling thread runs after `send`: it takes part in the program."""

    def run(control, thread, n_threads):
        interpret(control, thread, n_threads)
        store_atomic(control + STATE + 8, load_atomic(control + SENT))

    return run


def build_work() -> Callable:
    """The kernel that the other threads run: programs, one after the other, until none has come for a while.

    It returns with the thread's state ASLEEP; the caller sleeps until it is woken, and calls again. `SENT` is read
    once more after the state is written, so a program that is sent at that moment is either seen here or the sender
    sees the state.
    """

    def work(control, thread, n_threads):
        state = control + STATE + LINE * thread
        seen = load_word(state + 8)
        spins = 0
        while True:
            if load_atomic(control + SENT) != seen:
                store_atomic(state, RUNNING)
                if load_atomic(control + STOP):
                    return
                seen += 1
                interpret(control, thread, n_threads)
                store_atomic(state + 8, seen)
                spins = 0
            elif spins < SPINS + YIELDS:
                wait(spins)
                spins += 1
            else:
                store_atomic(state, ASLEEP)
                if load_atomic(control + SENT) == seen:
                    return
                store_atomic(state, RUNNING)

    return work
