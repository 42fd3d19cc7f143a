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
def test_restart_command_uses_python_for_a_script_and_the_name_otherwise(
    path: str, name: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [path, "--sweep"])
    assert programs.name() == name
    assert programs.command([path, "--sweep"]) == command
