"""Command-line arguments: help with defaults, paths, mistakes in one line."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from data_pipelines.console.errors import UserError
from data_pipelines.console.names import ask, closest, did_you_mean, shortened
from data_pipelines.console.ranges import number
from data_pipelines.console.store_names import check_store

if TYPE_CHECKING:
    from etils import epath

# One slash is enough: path normalisation collapses the two of a URL into one.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
# Bytes of a path, as the kernel counts them with a null byte at the end.
_LONGEST_PATH = 4_096
# Object stores that `etils.epath` can write to.
_STORES = ("gs", "s3", "az")


def fold(argument: str, known: Container[str]) -> str:
    """`--two-words=x` as `--two_words=x` if that is a known flag; values stay as given.

    Args:
        argument: one argument of a command line.
        known: names of flags, in the spelling with `_`.
    """
    found = re.match(r"(--?)([\w.-]+)(.*)", argument, re.DOTALL)
    if not found or argument.startswith("---"):
        return argument
    dashes, name, rest = found.groups()
    folded = name.replace("-", "_")
    return f"{dashes}{folded}{rest}" if folded in known else argument


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Adds the default to the help of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help, action.default
        if not text or "default:" in text or not action.option_strings:
            return text
        if default is None or default is argparse.SUPPRESS or action.required:
            return text
        shown = "off" if default is False else default
        shown = "empty" if shown == "" else str(shown).replace("%", "%%")
        return f"{text} (default: {shown})"


class Parser(argparse.ArgumentParser):
    """A parser of a module's command.

    Flags may be spelled with `-` or `_` between words. The help names the default of
    every option; the help of an option whose default is None says what that means.

    Args:
        module: the module that is run; empty for a subcommand.
        description: the module's docstring, printed verbatim.
        **options: passed on to `argparse.ArgumentParser`.
    """

    def __init__(self, module: str = "", description: str | None = None, **options):
        if module:
            options["prog"] = f"python -m {module}"
        super().__init__(
            description=description,
            formatter_class=_Formatter,
            # An abbreviated flag would change its meaning when a new flag is added.
            allow_abbrev=False,
            **options,
        )
        # Of a subcommand, the others of its command.
        self._beside: dict[str, Parser] = {}
        # `type=float` alone would take inf and nan.
        for kind in (int, float):
            self.register("type", kind, number(kind))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore
        """Parses the arguments; an unknown flag is an error.

        Raises:
            UserError: the arguments are not what the command takes.
        """
        flags, others = self.parse_known_args(args, namespace)
        self.refuse(others)
        return flags

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore
        """Parses the known arguments and returns the unknown ones beside them.

        A subcommand refuses those that it does not know itself.

        Raises:
            UserError: the arguments are not what the command takes.
        """
        arguments = self._folded(sys.argv[1:] if args is None else args)
        commands = self._subcommands()
        for name, command in commands.items():
            command._beside = {x: y for x, y in commands.items() if x != name}
        try:
            flags, others = super().parse_known_args(arguments, namespace)
        except UserError:
            # argparse complains of a missing flag first; the mistyped one is the cause.
            if not commands:
                self._refuse_mistyped(arguments)
            elif all(x.startswith("-") for x in arguments):
                self.error(f"there is no command; pass one of {', '.join(commands)}")
            raise
        if self._beside:
            self.refuse(others)
        return flags, others

    def _refuse_mistyped(self, arguments: Sequence[str]) -> None:
        known, before = self._option_string_actions, ""
        for argument in arguments:
            name = argument.partition("=")[0]
            if argument == "--":
                return
            is_value = before in known and known[before].nargs != 0
            if name.startswith("-") and name not in known:
                if self._hint(name):
                    self.refuse([argument])
            elif not name.startswith("-") and not is_value and not self._takes_texts():
                self.refuse([argument])
            before = argument

    def _folded(self, arguments: Iterable[str]) -> list[str]:
        known = {x.lstrip("-") for x in self._option_string_actions}
        folded, words_alone = [], False
        for argument in arguments:
            words_alone = words_alone or argument == "--"
            folded.append(argument if words_alone else fold(argument, known))
        return folded

    def refuse(self, others: Sequence[str]) -> None:
        """Rejects unknown arguments, with what may have been meant.

        Raises:
            UserError: `others` is not empty.
        """
        if not others:
            return
        given = others[0]
        if given.startswith("-"):
            name = given.partition("=")[0]
            hint, given = self._hint(name), name
        else:
            needed = (
                x.option_strings[0]
                for x in self._actions
                if x.option_strings and x.required
            )
            # A path that stands by itself is most often that of the first flag.
            flag = next(needed, "")
            value = shlex.quote(shortened(given)[1:-1])
            hint = f"; did you mean {flag}={value}?" if flag else ""
        self.error(f"unrecognized arguments: {shortened(given)[1:-1]}{hint}")

    def _hint(self, name: str) -> str:
        """What an unknown flag may stand for; empty if there is nothing to say."""
        plain = name.lstrip("-").replace("-", "_")
        having = [
            command._shown()
            for command in self._beside.values()
            if f"--{plain}" in command._option_string_actions
        ]
        if having and plain:
            return f"; it is a flag of {' and '.join(having)}, not of {self._shown()}"
        own = [x[2:] for x in self._option_string_actions if x.startswith("--")]
        # Without the dashes, which all of them have in common.
        near = ask(f"--{x}" for x in closest(name.lstrip("-"), own))
        if not near and not name.startswith("--") and self._takes_texts():
            return "; put -- before a text that begins with a dash"
        return near

    def _shown(self) -> str:
        """A subcommand as people call it: `search query`."""
        return f"`{self.prog.rpartition('.')[2]}`"

    def _takes_texts(self) -> bool:
        """Whether arguments may stand without a flag."""
        return any(not x.option_strings for x in self._actions)

    def _subcommands(self) -> dict[str, "Parser"]:
        """The parsers of this command's subcommands, by name."""
        found = {}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found |= action.choices
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(x) for x in action.choices]
            raise argparse.ArgumentError(
                action,
                f"invalid choice: {shortened(str(value))} (choose from "
                f"{', '.join(names)}){did_you_mean(str(value), names)}",
            )

    def error(self, message: str) -> NoReturn:
        """Reports a usage error in one line, as all commands do.

        Raises:
            UserError: always.
        """
        raise UserError(f"{' '.join(message.split())}; see --help")


def local_path(text: str) -> Path:
    """A local path with `~` expanded; usable as an argparse `type`.

    Raises:
        argparse.ArgumentTypeError: it is a URL, or the home folder is unknown.
    """
    try:
        check_local(text)
        return expanded(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def place(text: str) -> str:
    """Checks like `local_path` but keeps the text: a local path or a model's name."""
    local_path(text)
    return text


def store_path(text: str) -> "Path | epath.Path":
    """A local path, or one in an object store such as `gs://bucket/file`.

    Raises:
        argparse.ArgumentTypeError: it is a URL of another kind.
    """
    try:
        if not is_store(text):
            return expanded(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    # Imported late: a help text and a local path do not need it.
    from etils import epath

    return epath.Path(text)


def expanded(text: str, name: str = "") -> Path:
    """A local path with `~` expanded.

    Raises:
        UserError: it is empty, or `~` names an unknown user's home.
    """
    start = f"{name}={shortened(text)}" if name else shortened(text)
    if not text:
        raise UserError(f"{start} is an empty path")
    if len(os.fsencode(text)) >= _LONGEST_PATH or "\0" in text:
        raise UserError(
            f"{start} is not a path; one has up to {_LONGEST_PATH - 1:,} bytes, none "
            "of them null"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(
            f"{start}: there is no such home folder; pass a path without ~"
        ) from None


def check_local(text: str, name: str = "") -> None:
    """Checks that a text can be a local path.

    Args:
        text: as given.
        name: of the flag or field, if the line should name it.

    Raises:
        UserError: it is a URL, for example of an object store.
    """
    found = _SCHEME.match(text)
    if not found:
        return
    scheme, start = found[1].lower(), f"{name}={text}" if name else shortened(text)
    if scheme == "file":
        raise UserError(f"{start} is an address; pass the path itself, without file://")
    if scheme in _STORES:
        raise UserError(
            f"{start} is a path of an object store; this takes a path of this machine, "
            "so copy it"
        )
    raise UserError(f"{start} is an address; this takes a path of this machine")


def is_store(text: str, name: str = "") -> bool:
    """Whether a path is in an object store, which `etils.epath` reads and writes.

    Raises:
        UserError: it is a URL of another kind, or its bucket or path cannot be.
    """
    found = _SCHEME.match(text)
    if found and found[1].lower() in _STORES:
        if not found[1].islower():
            raise UserError(
                f"{f'{name}=' if name else ''}{text}: write {found[1].lower()}:// in "
                "lower case"
            )
        if re.match(r"\w+://[^/]", text):
            check_store(text, name)
            return True
        raise UserError(
            f"{f'{name}=' if name else ''}{text} names no bucket; pass "
            f"{found[1]}://BUCKET/PATH"
        )
    check_local(text, name)
    return False


def check_address(text: str, name: str) -> tuple[str, int]:
    """The host and the port of `HOST:PORT`, an IPv6 address in square brackets.

    Raises:
        UserError: it is not of this form.
    """
    found = re.fullmatch(
        r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\s:/\[\]]+)):([0-9]+)", text
    )
    if not found:
        hint = "pass HOST:PORT, for example 10.0.0.1:1234"
        if text.count(":") > 1:
            hint += "; an IPv6 address stands in brackets, [::1]:1234"
        raise UserError(f"{name} is {shortened(text)}; {hint}")
    if len(found[3]) > 5 or not 1 <= int(found[3]) <= 65535:
        raise UserError(f"{name} is {shortened(text)}; a port is from 1 to 65535")
    return found[1] or found[2], int(found[3])
