"""A bar where its output cannot show all characters, and where there is no label."""

import io
from contextlib import redirect_stdout

from sft.progress import Bar, silenced


def drawn(encoding, label="work"):
    """What a bar of three steps writes on an output of this encoding."""
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with redirect_stdout(output), Bar(3, label, "step") as bar:
        bar.update(3)
    output.flush()
    return output.buffer.getvalue().decode(encoding)


def test_bar_shows_the_end():
    assert "work: 100%" in drawn("utf-8")


def test_bar_is_drawn_in_blocks():
    assert "\u2588" in drawn("utf-8")


def test_bar_needs_no_blocks():
    assert "100%|##########| 3/3" in drawn("ascii")


def test_bar_without_a_label_is_not_drawn():
    assert drawn("utf-8", label="") == ""


def test_bar_is_silenced(capsys):
    with silenced(), Bar(3, "work", "step") as bar:
        bar.update(3)
    assert capsys.readouterr().out == ""
