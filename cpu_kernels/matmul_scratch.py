"""The memory in which a thread unpacks weights for products with many columns, and keeps their sums."""

UNPACKED_GROUPS = 8
"""Groups of 32 weights of a row that are unpacked at once: with their activations they stay in the first cache."""

SECOND_CACHE_BYTES = 1 << 19
"""What is read again and again from the second cache is at most so large."""

_PANELS, _ROW_BYTES = 3, 4 * 16  # of the largest register tile, whose rows are floats of the widest lanes
_GROUP_BYTES = _PANELS * _ROW_BYTES * (8 + 2)  # of the largest groups (`weight_group.py`)


def matmul_scratch_bytes(max_tokens: int) -> int:
    """Scratch of a thread for products with up to `max_tokens` columns."""
    return UNPACKED_GROUPS * _GROUP_BYTES + max(SECOND_CACHE_BYTES, _PANELS * _ROW_BYTES * max_tokens)
