"""A process that is killed loses the answer in progress and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

N_KILLS = 150 if sys.platform != "win32" else 15  # without fork each takes the time of importing everything


@pytest.mark.parametrize("residual_blocks", [0, 2])
def test_killed_at_any_moment(tmp_path: Path, residual_blocks: int) -> None:
    program = Path(__file__).with_name("killed_chats.py")
    command = [sys.executable, str(program), str(tmp_path), str(N_KILLS), "1", str(residual_blocks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert sum(result["killed while"].values()) == N_KILLS
    assert result["tokens restored"] > 0
