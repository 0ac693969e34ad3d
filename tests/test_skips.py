"""What continuous integration lets a test skip for: the machine, never a missing package."""

import pytest

from tests.conftest import may_skip, needs_extra


@pytest.mark.parametrize(
    ("reason", "marks", "nowhere", "extras_missing", "all_extras"),
    [
        ("needs '.[bench]': no onnx", {"extras"}, True, True, False),
        ("no Chromium on this machine", set(), True, False, False),
        ("shared/data/coco_cc is not beside the repository", set(), True, True, True),
        ("no NVIDIA GPU that torch can use: there is no driver", {"cuda"}, True, True, True),
    ],
)
def test_a_missing_package_is_no_reason_where_all_are_installed(
    reason: str, marks: set[str], nowhere: bool, extras_missing: bool, all_extras: bool
) -> None:
    assert may_skip(reason, marks, None) == nowhere
    assert may_skip(reason, marks, "0") == extras_missing
    assert may_skip(reason, marks, "1") == all_extras


def test_a_test_of_an_extra_is_marked_and_skips_with_its_reason() -> None:
    def test() -> None: ...

    needs_extra("raw", "json")(test)
    needs_extra("raw", "no_such_module")(test)
    marks = test.pytestmark  # type: ignore[attr-defined]
    assert [mark.name for mark in marks] == ["skipif", "extras"] * 2
    assert [mark.args for mark in marks if mark.name == "skipif"] == [(False,), (True,)]
    assert marks[2].kwargs["reason"] == "needs '.[raw]': no no_such_module"
