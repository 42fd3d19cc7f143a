"""Every entry of `break.py` still breaks something."""

import importlib
from pathlib import Path

_TESTS = Path(__file__).parent


def test_each_break_has_one_place_in_the_code_and_tests_that_exist() -> None:
    for broken in importlib.import_module("break").BREAKS:
        text = (_TESTS.parent / broken.path).read_text()
        assert text.count(broken.right) == 1, broken.name
        assert all((_TESTS / name).exists() for name in broken.tests.split()), broken.name
