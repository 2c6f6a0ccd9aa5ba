"""The package's files stay short enough to be read in one go."""

from diffad_utils.execution import PACKAGE

LONGEST = 450  # lines


def test_no_file_is_too_long():
    lines = {
        str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert lines
    too_long = {name: count for name, count in lines.items() if count > LONGEST}
    assert not too_long, f"more than {LONGEST} lines, split by subject: {too_long}"
