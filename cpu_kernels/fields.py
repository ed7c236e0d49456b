"""What each kernel reads from its record: the contract between `program.py` and the compiled code."""

from llmrun.cpu_kernels.op import fields

MATMUL = fields(
    "n_columns weights n_panels panel_bytes words n_blocks x out out_stride accumulate scratch scratch_stride taken"
)
"""out[t] = W x[t], or out[t] += W x[t] with `accumulate`.

`n_columns` is the address of the count (as `n_tokens` in other records); `weights` packed panels of `panel_bytes`,
whose words begin at `words`; `x` activations in the layout of the format; `out` (n_columns, out_stride bytes) float32,
rows padded to whole panels; `scratch` is `scratch_stride` bytes a thread. `taken` is 0, or the address of a line with
a counter for each thread, where a thread that is done may take panels from the end of another's part; they are 0
before and after.
"""

PACK = fields("source target n_rows n_blocks panel_bytes words")
"""`source` (n_rows, n_blocks) blocks of the file; `target` whole panels as in MATMUL."""

EMBED = fields("n_tokens tokens table row_bytes n_blocks out out_stride scale")
"""out[t] = scale x row tokens[t] of the table in the file's layout; tokens int32, `scale` a float."""

NORM = fields("n_tokens rows x x_stride weight eps n residual out out_stride q16 f32")
"""h = rms_norm(x[rows[t]]) * weight; with `residual`, residual[t] += h; else out[t] = h, quantised where wanted.

`rows` is 0 (every row) or the address of int32 row numbers; `eps` a float; n values a row.
"""

GATED = fields("n_tokens gate gate_stride up up_stride out out_stride n q16 f32")
"""out[t] = activation(gate[t]) * up[t], quantised where wanted."""

LAYER_NORM = fields("n_tokens rows x x_stride weight bias eps n out out_stride q16 f32")
"""out[t] = (x - mean) / sqrt(variance + eps) * weight + bias, of x[rows[t]], quantised where wanted.

`rows` is as in NORM.
"""

ADD = fields("n_tokens x x_stride y y_stride n")
"""x[t] += y[t]; a `y_stride` of 0 adds one vector to all."""

GELU = fields("n_tokens x x_stride n q16 f32")
"""x[t] = x[t] times the normal distribution function of x[t], quantised where wanted."""

QUANTISE = fields("n_tokens x x_stride n q16 f32")
"""x[t] quantised where wanted."""

ROPE = fields(
    "n_tokens q q_stride k k_stride v v_stride n_heads n_kv_heads head_dim q_bias k_bias v_bias q_norm k_norm eps "
    "angles rope_dim paired scale positions sequences block_tables residual_tables table_stride k_cache v_cache"
)
"""q is turned in place and multiplied by `scale`; k and v go to the cache, in the layout of its type.

What is left of them goes to the block in `residual_tables`, if there is one and the type has residuals.

`angles` (n_tokens, rope_dim / 2, 2) cosines and sines; `paired` turns (0,1)(2,3).. rather than (0,n/2)(1,n/2+1)..;
biases and norm weights are 0 where the model has none; `eps` and `scale` are floats.
"""

ATTENTION = fields(
    "tiles n_tiles spread q q_stride out out_stride n_kv_heads group window positions sequences block_tables "
    "residual_tables table_stride k_cache v_cache scratch scratch_stride partials max_blocks lengths"
)
"""out[t] = attention of q[t] (already scaled) over its sequence, up to its own position.

Residuals (see `kv_types.py`) are added where `residual_tables` has a block for them; -1 is none.

With `lengths` (n_sequences,) int32, which is 0 otherwise, up to the end of the sequence.

`tiles` (n_tiles, 2) int32: first token and number of tokens, of one sequence each; `n_tiles` and `spread` are
addresses of words; `window` is how many tokens are seen, 0 for all; `partials` (n_tiles, n_kv_heads,
max_blocks / RUN_BLOCKS, MAX_COLUMNS) partial results when spread; `scratch` is `scratch_stride` bytes a thread.
"""

READ = fields("source n_bytes out")
"""Reads memory and adds it up, to measure how fast that goes; `out` a vector for each thread."""
