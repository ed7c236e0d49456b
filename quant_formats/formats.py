"""The table of formats: every way of storing weights that llmrun reads, by number and by name."""

import numpy as np

from llmrun.quant_formats.block_format import BlockFormat
from llmrun.quant_formats.float_formats import FLOAT_FORMATS
from llmrun.quant_formats.k_formats import K_FORMATS
from llmrun.quant_formats.round_formats import ROUND_FORMATS

FORMATS: dict[int, BlockFormat] = {f.ggml_type: f for f in (*FLOAT_FORMATS, *ROUND_FORMATS, *K_FORMATS)}

_BY_NAME = {f.name: f for f in FORMATS.values()}

# Formats that GGUF numbers but we do not read, so that an error can say what the file holds. Source: `enum ggml_type`.
UNSUPPORTED_NAMES: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}


def format_named(name: str) -> BlockFormat:
    """Return the format called `name`, such as "Q4_K"; the name must be in the table."""
    return _BY_NAME[name]


def dequantize(format: BlockFormat, data: np.ndarray) -> np.ndarray:
    """Return the weights in `data`, whole blocks as uint8 (n_bytes,), as float32 (n_weights,)."""
    return format.dequantize(data)
