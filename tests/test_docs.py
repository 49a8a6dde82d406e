"""Pages that are written by programs say what the programs say now."""

from docs import methods, operations


def test_the_page_of_methods_is_current():
    assert methods.PAGE.read_text() == methods.page(), "python docs/methods.py writes it anew"


def test_the_page_of_operations_names_every_setting_and_every_metric():
    text = operations.PAGE.read_text()
    assert text == operations.page(text), "python docs/operations.py writes its tables anew"
    assert text.count("`RETORT_DATABASE_URL`") == 1
    assert "| `retort_worker_attempts_total` | counter | `cause`, `outcome` |" in text
