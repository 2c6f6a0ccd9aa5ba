"""Files that are either complete or not there, and messages about names."""

import pytest

from diffad_utils.io.files import written_whole
from diffad_utils.io.messages import did_you_mean


def test_a_writer_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path):
    with written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("first")
    assert (tmp_path / "a.txt").read_text() == "first"
    with pytest.raises(ZeroDivisionError), written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "first")]


def test_only_a_close_name_is_suggested():
    assert did_you_mean("sed", ["seed", "steps"], mark="`") == " (did you mean `seed`?)"
    assert did_you_mean("xyz", ["seed", "steps"]) == did_you_mean("sed", []) == ""
