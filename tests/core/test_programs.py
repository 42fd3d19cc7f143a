"""How the program names itself, and the command that starts it again."""

import pytest

from dcjax.core import programs


@pytest.mark.parametrize(
    ("path", "name", "command"),
    [
        ("launch.py", "launch.py", ["python", "launch.py", "--sweep"]),
        ("/home/dcjax/launch.py", "launch.py", ["python", "/home/dcjax/launch.py", "--sweep"]),
        ("/opt/env/bin/dcjax", "dcjax", ["dcjax", "--sweep"]),
        ("dcjax.exe", "dcjax", ["dcjax", "--sweep"]),
    ],
)
def test_script_is_started_by_python_and_command_by_its_name(
    path: str, name: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [path, "--sweep"])
    assert programs.name() == name
    assert programs.command([path, "--sweep"]) == command
