"""Tracebacks of unexpected errors are kept in the run's folder if possible."""

from pathlib import Path

from dcjax.runs import error_log


def test_tracebacks_are_appended(tmp_path: Path) -> None:
    for text in ("first \udcff", "second"):
        message = error_log.append(
            tmp_path / "run", text, ["python", "launch.py", "--workdir=a b"], version="1.2"
        )
        assert message == f"The traceback is kept in {tmp_path / 'run' / 'error.log'}."
    kept = (tmp_path / "run" / "error.log").read_text()
    assert kept.index("first \\udcff") < kept.index("second")
    assert kept.count("dcjax 1.2, Python 3.") == 2
    assert kept.count("python launch.py '--workdir=a b'") == 2


def test_each_process_has_a_log(tmp_path: Path) -> None:
    for process in (0, 3):
        error_log.append(tmp_path, f"of {process}", [], version="", process=process)
    assert (tmp_path / "error.log").read_text().endswith("of 0\n\n")
    assert (tmp_path / "error.3.log").read_text().endswith("of 3\n\n")


def test_unwritable_error_log_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = error_log.append(tmp_path / "file", "text", [], version="")
    assert "is not kept" in message
    assert str(tmp_path / "file" / "error.log") in message
