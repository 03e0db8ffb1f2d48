from cnnjax.benchmark import page
from cnnjax.benchmark.page import HEAD, replaced, write_section


def test_a_section_is_appended_or_replaced_and_the_others_stay():
    one = replaced("", "One", "1\n\n| a |")
    assert one == f"{HEAD}\n## One\n\n1\n\n| a |\n"
    both = replaced(one, "Two", "2")
    assert both == f"{one}\n## Two\n\n2\n"
    assert replaced(both, "Two", "2") == both
    assert replaced(both, "One", "new") == f"{HEAD}\n## One\n\nnew\n\n## Two\n\n2\n"


def test_what_stands_above_the_sections_stays():
    page = replaced("# Performance\n\nby hand\n\n## One\n\n1\n", "Two", "2")
    assert page == "# Performance\n\nby hand\n\n## One\n\n1\n\n## Two\n\n2\n"


def test_the_record_is_written_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", tmp_path / "docs" / "benchmarks.md")
    write_section("One", ["a", "", "b"])
    write_section("Two", ["c"])
    assert page.PAGE.read_text() == f"{HEAD}\n## One\n\na\n\nb\n\n## Two\n\nc\n"
    assert page.read_section("One") == "One\n\na\n\nb\n\n"
    assert page.read_section("Three") == ""
    assert [path.name for path in page.PAGE.parent.iterdir()] == ["benchmarks.md"]
