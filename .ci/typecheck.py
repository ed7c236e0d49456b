"""Run mypy over the repository under the names its files are imported by.

setuptools maps the folder runner/ to the package llmrun.runner, which a type checker does not know about. So the
folders are copied to a temporary `llmrun/`, and the paths in what mypy prints are turned back. Copies rather than
links, because Windows wants special rights for links.
"""

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

IGNORED = shutil.ignore_patterns("__pycache__")
ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Exit status of mypy."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = config["tool"]["setuptools"]["package-dir"].values()
    with tempfile.TemporaryDirectory() as name:
        for folder in folders:
            if "/" in folder:  # lies in another one
                continue
            # copy2 keeps the times, by which mypy knows what it checked before
            shutil.copytree(ROOT / folder, Path(name, "llmrun", folder), ignore=IGNORED, dirs_exist_ok=True)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
        command += ["--cache-dir", str(ROOT / ".mypy_cache"), "llmrun"]
        done = subprocess.run(command, cwd=name, stdout=subprocess.PIPE, text=True, check=False)
    for line in done.stdout.splitlines():
        print(line.removeprefix("llmrun/").removeprefix("llmrun\\"))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
