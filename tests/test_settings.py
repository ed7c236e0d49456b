"""Settings: which of defaults, config.toml, environment and flags wins, what is refused, and changing the file."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.cli.config_file import ConfigFile, config_path, toml_of
from llmrun.cli.options import options_from_flags
from llmrun.cli.setting import SETTINGS
from llmrun.cli.settings import Settings, misspelt_variables
from llmrun.quant_formats.errors import UsageError
from llmrun.runner.sampler import SamplingParams

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model": TEXT,
    "system": TEXT,
    "temperature": st.floats(0, 5),
    "top_k": st.integers(0, 100),
    "top_p": st.floats(0.01, 1),
    "min_p": st.floats(0, 1),
    "repeat_penalty": st.floats(0.5, 2),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "penalty_last_n": st.integers(-1, 500),
    "seed": st.integers(0, 2**64 - 1),
    "max_tokens": st.integers(1, 9999),
    "stop": st.lists(TEXT, min_size=1, max_size=3),
    "context": st.integers(2, 99999),
    "threads": st.integers(1, 1024),
    "kv_type": st.sampled_from(["f16", "q8_0"]),
    "overflow": st.sampled_from(["error", "shift", "window"]),
    "theme": st.sampled_from(["dark", "light", "none"]),
    "stats": st.booleans(),
    "host": TEXT,
    "port": st.integers(0, 65535),
    "parallel": st.integers(1, 1024),
    "keep_alive": TEXT,
    "max_queue": st.integers(1, 9999),
    "api_key_file": TEXT,
    "allow_origin": st.lists(TEXT, min_size=1, max_size=3),
    "allow_host": st.lists(TEXT, min_size=1, max_size=3),
    "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
}
PER_MODEL = [name for name, setting in SETTINGS.items() if setting.per_model]
OF_SERVERS = VALUES.keys() - ["model", "theme", *PER_MODEL]
FLAGS = [field for field in PER_MODEL if field != "penalty_last_n"]


def some(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Values for some of the settings."""
    return st.fixed_dictionaries({}, optional={name: VALUES[name] for name in names})


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where config.toml is for this test."""
    for name in [name for name in os.environ if name.startswith("LLMRUN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config.toml"


def write(path: Path, general: dict[str, Any], **models: dict[str, Any]) -> None:
    lines = [f"{name} = {toml_of(value)}" for name, value in general.items()]
    for model, values in models.items():
        lines += [f"[models.{toml_of(model)}]", *(f"{name} = {toml_of(value)}" for name, value in values.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def test_every_setting_has_values_to_try() -> None:
    assert VALUES.keys() == SETTINGS.keys()


def test_the_defaults_are_those_of_the_code() -> None:
    for name, setting in SETTINGS.items():
        value = getattr(SamplingParams(), name, None)
        assert not setting.is_sampling or value in (None, ()) or str(value) == setting.default


@given(some(list(SETTINGS)), some(PER_MODEL), some(list(SETTINGS)), some(FLAGS))
def test_each_wins_over_the_one_before(
    general: dict[str, Any], own: dict[str, Any], variables: dict[str, Any], flags: dict[str, Any]
) -> None:
    write(config_path(), general, tiny=own, other={"top_k": 77})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(f"LLMRUN_{name.upper()}", value if isinstance(value, str) else toml_of(value))
        settings = Settings.load("tiny")
        options = options_from_flags(dict.fromkeys(FLAGS) | {"raw": False, "pairs": None} | flags, "tiny")
    expected = general | own | variables
    for name in SETTINGS:
        assert settings.get(name) == expected.get(name)
        origin = settings.origin(name)
        if name in variables:
            assert origin == f"LLMRUN_{name.upper()}"
        elif name in expected:
            place, line = origin.rsplit(", line ", 1)
            assert place == str(config_path())
            assert config_path().read_text(encoding="utf-8").split("\n")[int(line) - 1].startswith(f"{name} = ")
        else:
            assert origin == "default"
    for name, value in (expected | flags).items():
        if name not in ("model", "theme", *OF_SERVERS):
            assert getattr(options, name) == value
    assert options.given == flags.keys()
    params = options.sampling_params()
    for name, setting in SETTINGS.items():
        if setting.is_sampling and name != "stop":
            assert getattr(params, name) == (expected | flags).get(name, getattr(SamplingParams(), name))


def test_a_model_counts_by_name_and_by_path(config: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"")
    write(config, {"top_k": 1}, smollm2={"top_k": 2}, **{str(tmp_path / "m.gguf"): {"top_k": 3}})
    assert [Settings.load(name).get("top_k") for name in (None, "other", "smollm2", "m.gguf")] == [1, 1, 2, 3]
    options = options_from_flags({"seed": 5}, None)
    assert (options.top_k, options.for_model("smollm2").top_k, options.for_model("smollm2").seed) == (1, 2, 5)


def test_o_is_a_flag_as_any_other(config: Path) -> None:
    write(config, {"temperature": 0.9, "penalty_last_n": 3, "stats": True, "stop": ["x"]})
    flags = {"pairs": ["temperature=0", "penalty-last-n=-1", 'stop=["a", "b"]'], "stats": False}
    options = options_from_flags(flags, "tiny")
    assert (options.temperature, options.penalty_last_n, options.stop, options.stats) == (0, -1, ["a", "b"], False)
    assert options.given == {"temperature", "penalty_last_n", "stop", "stats"}


def test_a_variable_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_TOP_K", "")
    assert Settings.load().get("top_k") is None


@pytest.mark.parametrize("text", ["yes", "ON", "true", "1"])
def test_switches_in_the_environment(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_STATS", text)
    assert Settings.load().get("stats") is True


def test_what_a_conversation_was_begun_with_comes_between(config: Path) -> None:
    from datetime import datetime

    from llmrun.runner.session_info import SessionInfo

    write(config, {"temperature": 0.9, "top_k": 9, "system": "from the file"})
    now = datetime.now()
    info = SessionInfo("id", None, "", "m", "own", {"temperature": 0.1, "top_p": 0.5, "x": 1}, now, now, 0, 0, "")
    options = options_from_flags({"top_p": 0.7}, "m").for_session(info)
    assert (options.temperature, options.top_k, options.top_p, options.system) == (0.1, 9, 0.7, "own")
    assert options.session_settings() == {"top_p": 0.7}
    assert options_from_flags({"system": "flag"}, "m").for_session(info).system == "flag"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = = 1", ["not TOML", "line 1"]),
        ("top_k = 3\ntop_k = 4\n", ["not TOML", "line 2"]),
        ("# one\n\ntemprature = 1\n", ["line 3", "'temprature'", "did you mean temperature"]),
        ("seed = 1\ntop_k = 2.5\n", ["line 2", "top_k must be a whole number, not 2.5"]),
        ("seed = 1\nstop = [\n 1,\n]\ntop_k = 1", ["line 2", "stop must be"]),
        ("temperature = true", ["line 1", "temperature must be a number"]),
        ("temperature = nan", ["line 1", "temperature must be a number"]),
        ("top_k = -1", ["line 1", "0 (off) or more"]),
        ("threads = 0", ["line 1", "threads must be between 1 and 1024, not 0"]),
        ("context = 1", ["line 1", "context must be 2 or more"]),
        ("kv_type = 'q3'", ["line 1", "one of f16, q8_0"]),
        ("overflow = 'spill'", ["line 1", "one of error, shift, window"]),
        ("stats = 'maybe'", ["line 1", "true or false"]),
        ("system = 5", ["line 1", "a text in quotes"]),
        ("models = 3", ["line 1", "[models."]),
        ("[models]\nsmollm2 = 3", ["line 2", '[models."smollm2"]']),
        ("[models.smollm2]\n\ntop_k = 'x'", ["line 3", "top_k"]),
        ("[models.a]\nmodel = 'b'", ["line 2", "for all models"]),
        ("[table]\ntop_k = 3", ["line 1", "'table' is not a setting"]),
    ],
)
def test_files_that_make_no_sense(text: str, words: list[str], config: Path) -> None:
    config.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        Settings.load("tiny")
    for word in [str(config), *words]:
        assert word in str(caught.value)


def test_a_file_that_cannot_be_read(config: Path) -> None:
    config.write_bytes(b"seed = 1 # \xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        Settings.load()
    config.unlink()
    config.mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        Settings.load()


def test_a_file_of_a_windows_editor(config: Path) -> None:
    config.write_bytes(b"\xef\xbb\xbf# mine\r\nseed = 1\r\n")
    assert (Settings.load().get("seed"), Settings.load().origin("seed")[-6:]) == (1, "line 2")
    ConfigFile.read().with_value("seed", 2, None).write()
    assert config.read_bytes().endswith(b"# mine\r\nseed = 2\r\n")


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("TOP_K", "many", "LLMRUN_TOP_K: top_k must be a whole number, not 'many'"),
        ("TOP_P", "7", "LLMRUN_TOP_P: top_p must be above 0"),
        ("STATS", "maybe", "LLMRUN_STATS: stats must be true or false"),
        ("STOP", "[1]", "LLMRUN_STOP: stop must be texts"),
        ("STOP", '["a"', "LLMRUN_STOP"),
    ],
)
def test_variables_that_make_no_sense(name: str, text: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"LLMRUN_{name}", text)
    if text == '["a"':
        assert Settings.load().get("stop") == [text]  # a text as good as any
        return
    with pytest.raises(UsageError) as caught:
        Settings.load()
    assert word in str(caught.value)


def test_misspelt_variables_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_TEMPRATURE", "1")
    monkeypatch.setenv("LLMRUN_TEST_ANYTHING", "1")
    assert misspelt_variables() == [
        "LLMRUN_TEMPRATURE is not a setting and does nothing; did you mean LLMRUN_TEMPERATURE?"
    ]


FILE = """\
# My settings.

temperature = 0.5  # not too wild
stop = [
  "one",  # and
  "two",
]

# For the small one.
[models."smollm2"]
top_k = 3 # few

[models.other]
seed = 1
"""


@pytest.mark.parametrize(
    ("name", "value", "model", "old", "new"),
    [
        ("temperature", 1.0, None, "temperature = 0.5  # not", "temperature = 1.0  # not"),
        ("stop", ["#"], None, 'stop = [\n  "one",  # and\n  "two",\n]\n', 'stop = ["#"]\n'),
        ("seed", 4, None, "]\n\n# For", "]\nseed = 4\n\n# For"),
        ("top_k", 4, "smollm2", "top_k = 3 # few", "top_k = 4 # few"),
        ("seed", 4, "smollm2", "# few\n", "# few\nseed = 4\n"),
        ("seed", 4, "new one", "seed = 1\n", 'seed = 1\n\n[models."new one"]\nseed = 4\n'),
    ],
)
def test_set_changes_one_line(name: str, value: Any, model: str | None, old: str, new: str, config: Path) -> None:
    assert FILE.count(old) == 1
    config.write_text(FILE, encoding="utf-8", newline="\n")
    ConfigFile.read().with_value(name, value, model).write()
    assert config.read_bytes().decode() == FILE.replace(old, new)


def test_set_begins_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRUN_HOME", str(tmp_path / "new" / "folder"))
    ConfigFile.read().with_value("seed", 1, "m").with_value("seed", 2, None).write()
    assert config_path().read_text(encoding="utf-8") == 'seed = 2\n[models."m"]\nseed = 1\n'
    ConfigFile.read().without("seed", None).write()
    assert Settings.load("m").get("seed") == 1
    with pytest.raises(UsageError, match="seed is not set"):
        ConfigFile.read().without("seed", None)


def test_set_leaves_alone_what_it_cannot_change(config: Path) -> None:
    config.write_text("models = { a = { seed = 1, top_k = 2 } }\n", encoding="utf-8")
    with pytest.raises(UsageError, match="by hand"):
        ConfigFile.read().with_value("seed", 3, "a")


COMMENTS = st.sampled_from(["", "# a comment", "   # seed = 5", "# [models.x]", "#"])


@given(some(PER_MODEL), some(PER_MODEL), st.lists(COMMENTS, min_size=4, max_size=4), st.data())
def test_set_keeps_everything_else(
    general: dict[str, Any], own: dict[str, Any], comments: list[str], data: st.DataObject
) -> None:
    lines = [comments[0], *(f"{name} = {toml_of(value)} {comments[1]}" for name, value in general.items())]
    lines += [comments[2], "[models.m]", *(f"{name} = {toml_of(value)}" for name, value in own.items()), comments[3]]
    file = ConfigFile(Path("config.toml"), "\n".join(lines) + "\n")
    name = data.draw(st.sampled_from(PER_MODEL))
    model = data.draw(st.sampled_from([None, "m", "n"]))
    value = data.draw(VALUES[name])
    changed = file.with_value(name, value, model)
    expected = tomllib.loads(file.text)
    (expected if model is None else expected["models"].setdefault(model, {}))[name] = value
    assert tomllib.loads(changed.text) == expected
    gone = [line for line in file.text.split("\n") if line not in changed.text.split("\n")]
    assert len(gone) <= 1
    back = changed.without(name, model)
    assert name not in (e.name for e in back.entries if e.model == model)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from llmrun.cli.app import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "config", *arguments], capture_output=True, encoding="utf-8", check=False
    )


def test_the_commands(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("path").stdout == f"{config}\n"
    for arguments in (("top_k", "3"), ("penalty_last_n", "-1"), ("stop", '["a b", "c"]'), ("system", "Be «brief».")):
        assert command("set", *arguments).stderr == ""
    assert command("set", "top_k", "5", "--model", "smollm2").returncode == 0
    monkeypatch.setenv("LLMRUN_SEED", "42")
    shown = {line.split()[0]: line for line in command("show").stdout.splitlines()}
    assert shown["top_k"].split(maxsplit=2)[1:] == ["3", f"{config}, line 1"]
    assert shown["seed"].split() == ["seed", "42", "LLMRUN_SEED"]
    assert shown["temperature"].split() == ["temperature", "0.7", "default"]
    assert shown['models."smollm2".top_k'].split()[1] == "5"
    objects = {row["name"]: row for row in json.loads(command("show", "--model", "smollm2", "--json").stdout)}
    assert (objects["top_k"]["value"], objects["stop"]["value"]) == (5, ["a b", "c"])
    assert objects["seed"] == {"name": "seed", "value": 42, "from": "LLMRUN_SEED", "default": "drawn anew each time"}
    assert command("get", "system").stdout == "Be «brief».\n"
    assert command("get", "temperature").stdout == "0.7\n"
    assert command("unset", "system").returncode == 0
    assert command("get", "system").stdout == "none\n"
    bad = command("set", "top_p", "2")
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)


def test_the_page_names_every_setting() -> None:
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text(encoding="utf-8")
    for setting in SETTINGS.values():
        assert f"| `{setting.name}` |" in page
