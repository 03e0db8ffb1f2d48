import pytest

from cnnjax.errors import (
    Diverged,
    Interrupted,
    UserError,
    choose,
    counted,
    cut,
    listed,
    near_matches,
    printable,
    quoted,
    require,
)


def test_exit_codes():
    assert (UserError.exit_code, Interrupted.exit_code, Diverged.exit_code) == (2, 1, 3)


def test_choose_returns_a_known_name():
    assert choose("optimizer", "adam", ["sgd", "adam"]) == "adam"


@pytest.mark.parametrize(("given", "expected"), [("adma", "'adam'"), ("ADAM", "'adam'"), ("sdg", "'sgd'")])
def test_choose_suggests_near_matches(given, expected):
    with pytest.raises(UserError, match=f"unknown optimizer '{given}'; did you mean {expected}"):
        choose("optimizer", given, ["sgd", "adam"])


def test_without_a_near_match_all_choices_are_listed():
    assert near_matches("zzz", ["sgd", "adam"]) == "choose from: adam, sgd"


def test_long_lists_are_cut_to_ten_names():
    assert listed("abc") == "a, b, c"
    assert listed(map(str, range(1200))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1,190 more"
    assert near_matches("zzz", map(str, range(10, 30))).endswith("18, 19 and 10 more")


def test_without_choices_the_message_says_so():
    assert near_matches("zzz", []) == "there are no choices"


def test_long_names_in_lists_are_cut():
    names = [f"/photos/{'x' * 60}/{number}.png" for number in range(20)]
    assert listed(names) == f"{names[0]}, {names[1]} and 18 more"
    assert len(listed(["/a" * 2000, *names])) < 240
    assert listed(["/a" * 2000 + ".png"]).endswith("/a.png")
    assert cut("x" * 200) == "x" * 200
    assert cut("a" * 200 + "b" * 200, 10) == "aaaaa...bbbbb"


@pytest.mark.parametrize(
    ("count", "noun", "text"), [(1, "file", "1 file"), (2000, "file", "2,000 files"), (0, "class", "0 classes")]
)
def test_counted_nouns_have_their_plural(count, noun, text):
    assert counted(count, noun) == text


def test_require_reports_the_given_and_the_allowed_value():
    require(True, "lr", 1, "greater than 0")
    with pytest.raises(UserError, match=r"^lr is -1; it must be greater than 0$"):
        require(False, "lr", -1, "greater than 0")


def test_terminal_control_characters_are_escaped():
    assert printable("a\x1b[31mb\u202ec\nd é") == "a?[31mb?c?d é"


def test_quoted_values_are_shortened():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert quoted("short") == "'short'"
    assert quoted((1, 2.5, None)) == "(1, 2.5, None)"
    for value in (deep, "x" * 10**7, ["x" * 1000] * 1000, 10**400, {"a": deep}):
        assert len(quoted(value)) < 12_000
    assert quoted(10**5000) == "a number of thousands of digits" or len(quoted(10**5000)) < 200


def test_near_matches_of_a_very_long_name_are_fast():
    assert "choose from" in near_matches("x" * 10**7, ["a", "b"])
