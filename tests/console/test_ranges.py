"""Numbers of flags and of configurations: beyond their range they are refused."""

import argparse
import dataclasses
import math
from typing import Annotated

import pytest
from absl import flags
from command_lines import (
    WITH_ARGPARSE,
    WITH_CONFIG,
    defined,
    parse_any,
    parsers_of,
)

from data_pipelines.console.arguments import Parser
from data_pipelines.console.errors import UserError
from data_pipelines.console.ranges import Range, check_ranges, number, read_number
from vop_jax.training.config import check_config, default_values
from vop_jax.training.fields import all_fields, described

NO_NUMBER_OF_ANYTHING = ("inf", "-inf", "nan", "1e400", "-1e400", "9" * 30, "9" * 5000)
# What Python's own types take beside digits.
SPELLED_OTHERWISE = ("1_0", " 10", "10 ", "10\n", "\uff11\uff10", "\u0661")
INFINITE = (float("inf"), float("-inf"), float("nan"))


@pytest.mark.parametrize(
    ("within", "inside", "outside"),
    [
        (Range(1, 3), (1, 2.5, 3), (0, 0.999, 3.001, 10**400)),
        (Range(0, 1, above=True), (1e-320, 1), (0, -0.0, 1.001)),
        (Range(0, 1, below=True), (0, 0.999), (1, -1e-320)),
    ],
)
def test_a_range_has_its_ends(within, inside, outside):
    assert all(x in within for x in inside)
    assert not any(x in within for x in (*outside, *INFINITE))


@pytest.mark.parametrize(
    ("within", "says"),
    [
        (Range(1, 4_096), "from 1 to 4,096"),
        (Range(0, 1, above=True), "above 0 and at most 1"),
        (Range(0, 1, below=True), "at least 0 and below 1"),
    ],
)
def test_a_range_is_said_in_words(within, says):
    assert str(within) == says


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        (int, "1.5", "'1.5' is not a whole number"),
        (float, "one", "'one' is not a number"),
        (int, "4", "'4' is out of range; it must be from 1 to 3"),
        (float, "nan", "'nan' is out of range; it must be from 1 to 3"),
    ],
)
def test_what_a_flag_is_not_is_said(kind, text, says):
    read = number(kind, Range(1, 3))
    assert read("2") == 2
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        read(text)


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (int, ("10", "-3", "+3", "007")),
        (float, ("10", "-3", "+3", "0.5", ".5", "5.", "1e-3", "-1E+3", "2.5e10")),
    ],
)
def test_numbers_are_ascii_digits(kind, texts):
    assert [read_number(x, kind) for x in texts] == [kind(x) for x in texts]
    for text in (*SPELLED_OTHERWISE, "", ".", "e3", "0x10", "--1", "1e", "1,5"):
        with pytest.raises(ValueError, match="it must be a"):
            pytest.fail(f"{text!r} is {read_number(text, kind)}")


def test_a_bare_type_takes_no_infinite_number():
    parser = Parser()
    parser.add_argument("--seconds", type=float)
    assert parser.parse_args(["--seconds=-1e3"]).seconds == -1000
    for text in ("inf", "nan", "1e400"):
        with pytest.raises(UserError, match=f"--seconds: '{text}' is out of range"):
            parser.parse_args([f"--seconds={text}"])


def numbers_of(module):
    """The flags of a command that take one number, and how it reads them."""
    if module in WITH_CONFIG:
        with defined(module) as own:
            known = [flags.FLAGS[name] for name in own]
            return {
                flag.name: lambda text, flag=flag: flag.parser.parse(text)
                for flag in known
                if flag.flag_type() in ("int", "float")
            }
    found = {}
    for parser in parsers_of(module):
        for action in parser._actions:
            try:
                value = parser._get_value(action, "1")
            except (argparse.ArgumentError, TypeError):
                continue
            if type(value) in (int, float):
                read = lambda text, x=action, of=parser: of._get_value(x, text)  # noqa: E731
                found[action.dest] = read
    return found


def test_commands_have_numbers():
    assert {"seconds", "workers", "num_frames"} <= set(
        numbers_of("data_pipelines.doctor")
    )
    assert {"heartbeat_seconds", "process_id"} <= set(numbers_of("vop_jax.main"))


@pytest.mark.parametrize("module", [*WITH_ARGPARSE, *WITH_CONFIG])
def test_no_flag_takes_a_number_without_end_or_spelled_otherwise(module):
    for name, read in numbers_of(module).items():
        assert math.isfinite(read("1")), name
        # absl reads them itself; the whole command line is checked, see below.
        otherwise = () if module in WITH_CONFIG else SPELLED_OTHERWISE
        for text in (*NO_NUMBER_OF_ANYTHING, *otherwise):
            with pytest.raises((argparse.ArgumentError, ValueError)):
                pytest.fail(f"--{name}={text[:9]} is {read(text)}")


@pytest.mark.parametrize("text", SPELLED_OTHERWISE)
@pytest.mark.parametrize("joint", ["=", " "])
@pytest.mark.parametrize(
    ("module", "flag", "named"),
    [
        ("vop_jax.main", "--config.epochs", "config.epochs"),
        ("vop_jax.main", "--config.optimizer.warmup", "config.optimizer.warmup"),
        ("vop_jax.main", "--heartbeat-seconds", "--heartbeat_seconds"),
        ("vop_jax.pod_plan", "--caption_tokens", "--caption_tokens"),
    ],
)
def test_a_command_line_with_a_number_spelled_otherwise(
    module, flag, named, joint, text
):
    given = [f"{flag}={text}"] if joint == "=" else [flag, text]
    with pytest.raises(UserError) as error:
        parse_any(module, ["--config=configs/vop.py", *given])
    assert str(error.value).startswith(f"{named} is ")
    assert "it must be a" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("vop_jax.ablate", "--study=table1 --epochs=0"),
        ("vop_jax.ablate", "--study=table1 --search_epochs=-1"),
        ("vop_jax.evaluate", "--similarity=x.npy --beta=0"),
        ("vop_jax.evaluate", "--similarity=x.npy --dsl_temperature=1e-300"),
        ("vop_jax.evaluate", "--similarity=x.npy --seed=-1"),
        ("vop_jax.evaluate", "--checkpoint=demo --num_frames=0"),
        ("vop_jax.evaluate", "--checkpoint=demo --bank_captions=-1"),
        ("vop_jax.main", "--config=configs/vop.py --heartbeat_seconds=0"),
        ("vop_jax.main", "--config=configs/vop.py --process_count=0"),
        ("vop_jax.main", "--config=configs/vop.py --process_id=-1"),
        ("vop_jax.pod_plan", "--config=configs/vop.py --caption_tokens=0"),
        ("data_pipelines.doctor", "--dataset=x --videos=. --annotations=. --tokens=0"),
        ("data_pipelines.prepare", "--dataset=x --output=x --workers=1025"),
        ("data_pipelines.prepare", "--dataset=x --output=x --seconds=0"),
        ("data_pipelines.prepare", "--dataset=x --output=x --image_size=8193"),
        ("data_pipelines.prepare", "--dataset=x --output=x --max_megabytes=-1"),
    ],
)
def test_a_number_out_of_range_is_refused(module, arguments, capsys):
    flag = arguments.rpartition("--")[2].partition("=")[0]
    try:
        parse_any(module, arguments.split())
    except UserError as error:
        line = str(error)
    # argparse's commands are run as they are, up to the point where they have parsed.
    except SystemExit:
        line = capsys.readouterr().err
    else:
        pytest.fail(f"{module} takes {arguments}")
    assert f"--{flag}" in line
    assert "range" in line


@dataclasses.dataclass(frozen=True)
class Inner:
    """Of `Outer`."""

    rate: Annotated[float, Range(0, 1)] = 0.5
    free: float = 7.0


@dataclasses.dataclass(frozen=True)
class Outer:
    """A configuration."""

    count: Annotated[int, Range(1, 9)] = 1
    inner: Inner = Inner()


def test_fields_are_held_to_their_ranges():
    check_ranges(Outer(inner=Inner(free=float("inf"))), "config")
    with pytest.raises(UserError, match=r"config\.count is 0; it must be from 1 to 9"):
        check_ranges(Outer(count=0), "config")
    with pytest.raises(UserError, match=r"config\.inner\.rate is nan; it must be from"):
        check_ranges(Outer(inner=Inner(rate=float("nan"))), "config")


def numeric_fields():
    return [x for x in all_fields() if x.kind in ("int", "float")]


@pytest.mark.parametrize("field", numeric_fields(), ids=lambda field: field.name)
def test_every_number_of_a_run_has_a_range(field):
    assert field.within is not None
    assert field.default in field.within
    assert str(field.within) in described(field)
    *groups, last = field.name.split(".")
    wrong = (*INFINITE, -1e300, 1e300)
    for value in wrong if field.kind == "float" else (-(2**40), 2**40):
        values = default_values()
        place = values
        for group in groups:
            place = place[group]
        place[last] = value
        with pytest.raises(UserError, match=rf"config.{field.name} is .*; it must be"):
            check_config(values)
