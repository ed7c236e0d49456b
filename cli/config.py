"""`llmrun config`: the settings, where each comes from, and changing config.toml."""

import json
from typing import Annotated

import typer

from llmrun.cli.options import Json, complete_model
from llmrun.cli.say import say
from llmrun.cli.standard_output import write

config = typer.Typer(help="Show and change the settings that hold for all runs.", rich_markup_mode=None)


def complete_setting(incomplete: str) -> list[str]:
    """Names for the shell to offer."""
    from llmrun.cli.setting import SETTINGS

    return [name for name in SETTINGS if name.startswith(incomplete)]


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="What `llmrun config show` lists.", autocompletion=complete_setting)
]
NewValue = Annotated[str, typer.Argument(metavar="VALUE", help='The value; several texts as ["one", "two"].')]
ForModel = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="MODEL", help="What holds for this model, not for all.", autocompletion=complete_model
    ),
]


@config.command("show")
def show_settings(model: ForModel = None, as_json: Json = False) -> None:
    """Show every setting, its value, and where that comes from: the default, config.toml or the environment."""
    from llmrun.cli.setting import SETTINGS
    from llmrun.cli.settings import Settings, misspelt_variables

    settings = Settings.load(model)
    for line in misspelt_variables():
        say(line)
    own = [entry for entry in settings.file.entries if entry.model is not None and model is None]
    if as_json:
        rows = [
            {"name": s.name, "value": settings.get(s.name), "from": settings.origin(s.name), "default": s.default}
            for s in SETTINGS.values()
        ]
        rows += [{"name": e.name, "model": e.model, "value": e.value, "from": settings.file.place(e.key)} for e in own]
        write(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        return
    lines = [
        (s.name, s.default if settings.get(s.name) is None else _shown(settings.get(s.name)), settings.origin(s.name))
        for s in SETTINGS.values()
    ]
    lines += [(f'models."{e.model}".{e.name}', _shown(e.value), settings.file.place(e.key)) for e in own]
    first, second = (max(len(line[column]) for line in lines) for column in (0, 1))
    for name, value, origin in lines:
        write(f"{name:{first}}  {value:{second}}  {origin}\n")


@config.command("path")
def print_path() -> None:
    """Print where config.toml is, or would be."""
    from llmrun.cli.config_file import config_path

    write(f"{config_path()}\n")


@config.command("get")
def get_setting(name: Name, model: ForModel = None) -> None:
    """Print the value of one setting, as `show` does."""
    from llmrun.cli.setting import setting_named
    from llmrun.cli.settings import Settings

    setting = setting_named(name)
    value = Settings.load(model).get(name)
    write(setting.default if value is None else value if isinstance(value, str) else _shown(value))
    write("\n")


@config.command("set", context_settings={"ignore_unknown_options": True})  # a value may begin with -
def set_setting(name: Name, value: NewValue, model: ForModel = None) -> None:
    """Write a setting into config.toml. Its comments and everything else in it stay as they are."""
    from llmrun.cli.config_file import ConfigFile
    from llmrun.cli.setting import setting_named

    ConfigFile.read().with_value(name, setting_named(name).parse(value), model).write()


@config.command("unset")
def unset_setting(name: Name, model: ForModel = None) -> None:
    """Take a setting out of config.toml."""
    from llmrun.cli.config_file import ConfigFile

    ConfigFile.read().without(name, model).write()


def _shown(value: object) -> str:
    """As it would stand in config.toml."""
    from llmrun.cli.config_file import toml_of

    return toml_of(value)
