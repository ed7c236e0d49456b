"""SIMD vector types, the thread team, and every operation of a model on the CPU."""
