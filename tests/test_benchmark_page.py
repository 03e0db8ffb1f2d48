from cnnjax.benchmark import page
from cnnjax.benchmark.page import HEAD, replaced, write_section


def test_a_section_is_appended_or_replaced():
    one = replaced("", "One", "1\n\n| a |")
    assert one == f"{HEAD}\n## One\n\n1\n\n| a |\n"
    both = replaced(one, "Two", "2")
    assert both == f"{one}\n## Two\n\n2\n"
    assert replaced(both, "Two", "2") == both
    assert replaced(both, "One", "new") == f"{HEAD}\n## One\n\nnew\n\n## Two\n\n2\n"


def test_text_above_the_sections_is_kept():
    page = replaced("# Performance\n\nby hand\n\n## One\n\n1\n", "Two", "2")
    assert page == "# Performance\n\nby hand\n\n## One\n\n1\n\n## Two\n\n2\n"


def test_write_section_creates_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", tmp_path / "docs" / "benchmarks.md")
    write_section("One", ["a", "", "b"])
    write_section("Two", ["c"])
    assert page.PAGE.read_text() == f"{HEAD}\n## One\n\na\n\nb\n\n## Two\n\nc\n"
    assert page.read_section("One") == "One\n\na\n\nb\n\n"
    assert page.read_section("Three") == ""
    assert [path.name for path in page.PAGE.parent.iterdir()] == ["benchmarks.md"]
