from __future__ import annotations

import pytest

from pixelflow.runs.flat import plain


@pytest.mark.parametrize("text", ["[" * 100_000, "(" * 100_000, "-" * 100_000 + "1", "[" * 900 + "]" * 900, "9" * 5000])
def test_a_text_that_no_parser_follows_stays_a_text(text: str) -> None:
    assert plain(text) == text


def test_literals() -> None:
    assert plain("[1, [2.0, 'x'], None]") == [1, [2, "x"], None]
    assert plain("__import__('os').system('x')") == "__import__('os').system('x')"
