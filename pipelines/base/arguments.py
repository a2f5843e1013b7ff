"""The parts of command lines that commands share: one wording, one default, an example in every `--help`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from distill.settings import did_you_mean, no_such_config
from pipelines.base.command import available_cores, positive_int

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def make_command_parser(
    command: str, description: str, *, example: str, status: str = "0 done, 1 failed, 2 unusable arguments"
) -> argparse.ArgumentParser:
    """A parser without arguments yet; `example` is a command line that works, without `python -m pipelines.<command>`.

    status: what each exit status means.
    """
    program = f"python -m pipelines.{command}"
    return _CommandParser(
        prog=program,
        description=description,
        epilog=f"example:\n  {program} {example}".rstrip() + f"\n\nexit status: {status}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # An abbreviation would change its meaning with the next option that begins alike.
        allow_abbrev=False,
    )


class _CommandParser(argparse.ArgumentParser):
    """A parser whose refusals are one line, with the nearest option where one is unknown."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Name an unknown option first: what argparse then misses may be what it stands for."""
        known = [name for action in self._actions for name in action.option_strings]
        for word in sys.argv[1:] if args is None else args:
            name = word.partition("=")[0]
            if name.startswith("--") and name not in known:
                self.error(f"there is no option {name}.{did_you_mean(name, known)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith(("?", ".")) else "."
        self.exit(2, f"error: {message}{end} All options: {self.prog} --help\n")


def add_config(
    parser: argparse.ArgumentParser,
    what: str,
    *,
    required: bool = True,
    default: str | None = None,
    overrides: str = "the config",
) -> None:
    """`--config` and `--cfg-options`; `what` says whose config it is, `overrides` what the options change."""
    parser.add_argument("--config", type=config_file, required=required and default is None, default=default, help=what)
    parser.add_argument(
        "--cfg-options", nargs="+", action=_ConfigOptions, metavar="KEY=VALUE", help=f"override values of {overrides}"
    )


class _ConfigOptions(argparse.Action):
    """KEY=VALUE words of one option or of several, as a dictionary; values are read as mmengine's DictAction does."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        options = dict(getattr(namespace, self.dest) or {})
        for word in values:
            key, is_joined, text = word.partition("=")
            if not (key and is_joined):
                raise argparse.ArgumentError(self, f"KEY=VALUE is needed, not {word!r}")
            try:
                options[key] = text if key == "data_root" else _value(text)
            except AssertionError as error:
                raise argparse.ArgumentError(self, f"{key}: {error}") from None
        setattr(namespace, self.dest, options)


def _value(text: str) -> Any:
    """A list or tuple, a number, a truth value, None, or the text as it is."""
    # Imported here, because fetch-cache works without OpenMMLab.
    from mmengine.config import DictAction

    if "," in text or text.startswith(("[", "(")):
        return DictAction._parse_iterable(text)
    return DictAction._parse_int_float_bool(text.strip("'\""))


def config_file(text: str) -> str:
    """An argparse type: the path of a config, refused before seconds of imports where there is none.

    Raises:
        FileNotFoundError: which argparse lets pass; status and message are those of a config that another one names.
    """
    if not Path(text).is_file():
        raise FileNotFoundError(no_such_config(text))
    return text


def add_work_dir(parser: argparse.ArgumentParser, what: str) -> None:
    """`--work-dir`; `what` says what it holds and where it is by default."""
    parser.add_argument("--work-dir", help=what)


def add_workers(parser: argparse.ArgumentParser, what: str) -> None:
    """`--workers`, one a core by default; `what` says what they are."""
    parser.add_argument("--workers", type=positive_int, default=available_cores(), help=f"{what} (default: one a core)")


def add_tf32(parser: argparse.ArgumentParser) -> None:
    """`--tf32` and `--no-tf32`, which go before the config's `tf32`."""
    parser.add_argument(
        "--tf32",
        action=argparse.BooleanOptionalAction,
        help="on a GPU: round the factors of float32 products to 10 bits, faster (default: the config's tf32, off)",
    )


def add_json(parser: argparse.ArgumentParser, what: str = "the figures") -> None:
    """`--json`: standard output holds `what` as JSON and nothing else."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def options_of[Options: DataclassInstance](form: type[Options], arguments: argparse.Namespace) -> Options:
    """The options of a frozen dataclass, each taken from the argument of the field's name."""
    return form(**{field.name: getattr(arguments, field.name) for field in fields(form)})
