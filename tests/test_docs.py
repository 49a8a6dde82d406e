"""Pages that are written by programs say what the programs say now."""

from docs.methods import PAGE, page


def test_the_page_of_methods_is_current():
    assert PAGE.read_text() == page(), "python docs/methods.py writes it anew"
