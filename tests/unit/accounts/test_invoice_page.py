import pytest

from zuebee.accounts.invoice_page import invoice_page

INVOICE = {
    "number": "00000007",
    "organization_id": "acme",
    "organization_name": "<script>alert(1)</script>",
    "starts_at_s": 1759276800.0,
    "ends_at_s": 1761955200.0,
    "created_at_s": 1761955200.0,
    "currency": "EUR",
    "total_nano": 12_345_000_001,
    "lines": [
        {"user_id": "", "model": "<b>", "requests": 2, "prompt_tokens": 3, "completion_tokens": 4, "cost_nano": 1}
    ],
}


@pytest.mark.requirement("A108")
def test_the_page_says_what_the_invoice_says() -> None:
    page = invoice_page(INVOICE)
    for text in ("Invoice 00000007", "12.345000001 EUR", "2025-10-01 to 2025-10-31", "0.000000001", "<td>-</td>"):
        assert text in page


def test_what_users_wrote_is_only_text() -> None:
    page = invoice_page(INVOICE)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b></td>" not in page


def test_a_preview_says_so() -> None:
    assert "Invoice (preview)" in invoice_page({**INVOICE, "number": ""})
