"""What a command says of flags, choices and commands that it has not."""

import pytest
from command_lines import (
    parse_arguments,
)
from fake_bucket import bucket  # noqa: F401

from data_pipelines.console.errors import UserError


def one_line(module, arguments, capsys):
    """What a command with argparse says of its arguments."""
    with pytest.raises((UserError, SystemExit)) as raised:
        parse_arguments(module, arguments)
    if isinstance(raised.value, UserError):
        text = f"error: {raised.value}\n"
    else:
        assert raised.value.code == 2
        text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


@pytest.mark.parametrize(
    ("module", "arguments", "says"),
    [
        ("vop_jax.convert", ["--inptu=x"], "did you mean --input?"),
        (
            "vop_jax.convert",
            ["--input=x", "--output=y", "--to=hugginface"],
            "torch, openai, modelscope, stablehlo); did you mean huggingface?",
        ),
        ("vop_jax.search", ["inde"], "did you mean index?"),
        (
            "vop_jax.search",
            ["query", "--index=x", "a text", "--hmtl=y"],
            "did you mean --html?",
        ),
        ("vop_jax.evaluate", ["--similarty=x"], "did you mean --similarity?"),
        ("data_pipelines.doctor", ["--jsn"], "did you mean --json?"),
        (
            "data_pipelines.prepare",
            ["--dataset=msvd", "--output=x", "--num-frame=3"],
            "did you mean --num_frames?",
        ),
    ],
)
def test_so_do_flags_choices_and_commands(module, arguments, says, capsys):
    assert says in one_line(module, arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["index", "--videos=x", "--output=y", "--checkpoint=c", "--top=4"],
            "--top; it is a flag of `search query` and `search serve`, not of `search "
            "index`; see --help",
        ),
        (["index", "--top=4"], "it is a flag of `search query` and `search serve`"),
        (["query", "--index=i", "x", "--rebuild"], "it is a flag of `search index`"),
        (["export", "--index=i", "--output=o.npy", "--html=a"], "of `search query`"),
        # Flags of this subcommand alone are suggested.
        (["query", "--index=i", "--text", "x"], "arguments: --text; see --help"),
        (["query", "--index=i", "--limit=3"], "arguments: --limit; see --help"),
        (["query", "--index=i", "--tpo=3"], "did you mean --top?"),
        (["query", "--index=i", "-dash"], "put -- before a text that begins with a"),
        (["query", "-dash"], "put -- before a text that begins with a dash"),
        (["export", "--index=i", "-dash"], "required: --output"),
        ([], "there is no command; pass one of index, query, serve, export"),
        (["--index=i"], "there is no command; pass one of index, query, serve"),
        (
            ["index", "moved films", "--output=x"],
            "moved films; did you mean --videos='moved films'?",
        ),
        (["index", "--output", "x", "films"], "films; did you mean --videos=films?"),
        (["index", "--output", "x"], "required: --videos, --checkpoint"),
        (
            ["serve", "--index=i", "--host=localhost:8000"],
            "is not an address alone; pass --host=localhost --port=8000",
        ),
        (["serve", "--index=i", "--host=http://a:1/"], "pass --host=a --port=1"),
        (["serve", "--index=i", "--host=[::1]:80"], "pass --host=::1 --port=80"),
        (
            ["export", "--index=i", "--output=vectors.csv"],
            "vectors.csv does not end in .parquet or .npy; name the file",
        ),
    ],
)
def test_a_flag_is_one_of_the_subcommand(arguments, says, capsys):
    assert says in one_line("vop_jax.search", arguments, capsys)


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::", "::1", "fe80::1%eth0"])
def test_an_address_without_a_port_is_one(host):
    parsed = parse_arguments("vop_jax.search", ["serve", "--index=i", f"--host={host}"])
    assert parsed.host == host


def test_a_text_may_begin_with_a_dash():
    line = ["query", "--index=i", "--", "-dash", "--top"]
    assert parse_arguments("vop_jax.search", line).queries == ["-dash", "--top"]
