"""The real parsers of all commands, asked without running a command."""

import argparse
import contextlib
import importlib
import importlib.util
import runpy
import sys
import warnings
from unittest import mock

from absl import flags

from vop_jax.training import command_line
from vop_jax.training.config import check_config

# Commands whose flags are absl's, and whether they need a configuration.
WITH_CONFIG = {"vop_jax.main": True, "vop_jax.parameters": False}
WITH_CONFIG |= {"vop_jax.pod_plan": True, "vop_jax.train": True}
WITH_ARGPARSE = (
    *("vop_jax.evaluate", "vop_jax.search", "vop_jax.convert", "vop_jax.ablate"),
    *("data_pipelines.prepare", "data_pipelines.doctor", "data_pipelines.dummy"),
)


# What only requirements-benchmarks.txt installs; nothing of it is run here.
NOT_INSTALLED = {
    name: mock.MagicMock()
    for name in ("cv2",)
    if importlib.util.find_spec(name) is None
}


class Parsed(BaseException):
    """Ends a command as soon as its arguments are parsed."""

    def __init__(self, parser, found=None, others=()):
        self.parser, self.found, self.others = parser, found, list(others)


def stopped(module, arguments, parse):
    """Starts a module as `python -m` does, up to the point where it has parsed."""
    with (
        mock.patch.object(sys, "argv", [module, *arguments]),
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", parse),
        mock.patch.dict(sys.modules, NOT_INSTALLED),
        warnings.catch_warnings(),
    ):
        # That it was imported before, which is what is wanted here.
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            runpy.run_module(module, run_name="__main__")
        except Parsed as parsed:
            return parsed
    raise AssertionError(f"{module} has parsed nothing")


def parser_of(module):
    """The parser of a command with argparse."""

    def parse(self, *_):
        raise Parsed(self)

    return stopped(module, [], parse).parser


def parsers_of(module):
    """The same, and those of the commands within it."""
    parser = parser_of(module)
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


def parse_arguments(module, arguments):
    """Parses as the command does; whatever it would refuse raises or exits."""
    original, depth = argparse.ArgumentParser.parse_known_args, 0

    def parse(self, *given):
        nonlocal depth
        depth += 1
        try:
            found, others = original(self, *given)
        finally:
            depth -= 1
        if depth:
            return found, others
        raise Parsed(self, found, others)

    parsed = stopped(module, arguments, parse)
    if parsed.others and not getattr(parsed.found, "runner", None):
        refuse = getattr(parsed.parser, "refuse", parsed.parser.error)
        refuse(parsed.others)
    return parsed.found


@contextlib.contextmanager
def defined(module):
    """A command's absl flags, gone again afterwards."""
    define = importlib.import_module(module).define_flags
    before = set(flags.FLAGS)
    try:
        with warnings.catch_warnings():
            # ml_collections loads a configuration's file in an old way.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield command_line.define_flags(define)
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()


def parse_with_config(module, arguments):
    """Parses as the command does; returns the checked configuration and the flags."""
    spelled = getattr(importlib.import_module(module), "as_fields", list)
    arguments = spelled(arguments)
    with mock.patch.object(sys, "argv", [module, *arguments]), defined(module) as own:
        command_line.parse(
            [module, *arguments],
            usage="",
            own=own,
            config_needed=WITH_CONFIG[module],
        )
        given = flags.FLAGS.config
        config = check_config(given.to_dict()) if given is not None else None
        return config, {name: flags.FLAGS[name].value for name in own}


def parse_any(module, arguments):
    """Parses the arguments of any command."""
    if module in WITH_CONFIG:
        return parse_with_config(module, arguments)
    return parse_arguments(module, arguments)


def all_flags():
    """Every flag of every command, without its dashes."""
    names = set()
    for module in WITH_CONFIG:
        with defined(module) as own:
            names.update(own)
    for module in WITH_ARGPARSE:
        for parser in parsers_of(module):
            names.update(x.lstrip("-") for x in parser._option_string_actions)
    return names
