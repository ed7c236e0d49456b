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
