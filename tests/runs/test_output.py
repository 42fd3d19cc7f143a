"""A program continues if its output cannot be written, and can show any text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_WRITES = """
import sys
from dcjax.runs import output
from dcjax.core.console import Console
output.protect("no output: {reason}")
for i in range(20_000):
    print("line", i)
Console().print_scores("ä", {"row": {"map_at_r": 0.5}})
open(sys.argv[1], "w").write("went on")
"""


def _run(path: Path, redirection: str) -> subprocess.CompletedProcess[str]:
    command = f'"{sys.executable}" -c "$CODE" "{path}" {redirection}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=_ROOT,
        env=os.environ | {"CODE": _WRITES},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirection", "output", "errors"),
    [
        ("| head -1", "line 0\n", "no output: Broken pipe\n"),
        ("2>&1 | head -1", "line 0\n", ""),
        ("> /dev/full", "", "no output: No space left on device\n"),
        (">&-", "", ""),
        (">&- 2>&- <&-", "", ""),
    ],
)
def test_unwritable_output_is_dropped_and_the_program_continues(
    redirection: str, output: str, errors: str, tmp_path: Path
) -> None:
    completed = _run(tmp_path / "end", redirection)
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, output, errors)
    assert (tmp_path / "end").read_text() == "went on"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_missing_from_the_encoding_are_escaped(encoding: str) -> None:
    code = (
        "from dcjax.runs import output; from dcjax.core.console import Console; output.protect();"
        "Console().print_line('ä ± \\udcff 鳥'); Console().print_scores('鳥', {'ä': {'nmi': 0.5}})"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=_ROOT,
        env=os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"},
        capture_output=True,
        check=True,
    ).stdout.decode(encoding)
    expected = {
        "ascii": r"\xe4 \xb1 \udcff \u9ce5",
        "latin-1": r"ä ± \udcff \u9ce5",
        "utf-8": r"ä ± \udcff 鳥",
    }
    assert shown.splitlines()[0] == expected[encoding]
    assert "NMI" in shown


def test_ascii_locale_is_replaced_by_utf8() -> None:
    code = (
        "import sys; from dcjax.distributed import machine; machine.use_utf8(); "
        "print(sys.flags.utf8_mode, ascii(sys.argv[1]), sys.argv[2])"
    )
    posix = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    shown = subprocess.check_output(
        [sys.executable, "-c", code, "ä", "b c"], cwd=_ROOT, env=os.environ | posix, text=True
    )
    assert shown == "1 '\\xe4' b c\n"
