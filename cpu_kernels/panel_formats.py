"""The table of block formats that the CPU kernels compute with."""

from llmrun.cpu_kernels import float_formats as f
from llmrun.cpu_kernels import k_formats as k
from llmrun.cpu_kernels import round_formats as r
from llmrun.cpu_kernels.panel_format import PanelFormat

PANEL_FORMATS: dict[str, PanelFormat] = {
    row.name: row for row in (f.F32, f.F16, f.BF16, r.Q8_0, r.Q4_0, r.Q4_1, r.Q5_0, r.Q5_1, k.Q4_K, k.Q5_K, k.Q6_K)
}
