from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.discovery.personal_data import is_card_number, is_iban, personal_data


@pytest.mark.parametrize(
    ("name", "values", "kind", "confidence"),
    [
        ("email", [f"u{n}@example.com" for n in range(9)], "e-mail address", "very likely"),
        ("customerEmail", ["u1@example.com"], "e-mail address", "likely"),
        ("contact", [f"u{n}@example.com" for n in range(9)], "e-mail address", "likely"),
        ("email_hash", ["5d41402abc4b2a76b9719d911017c592"], "e-mail address", "possible"),
        ("IBAN", ["DE89370400440532013000", "GB29NWBK60161331926819"], "IBAN", "likely"),
        ("ref", ["DE89 3704 0044 0532 0130 00"], "IBAN", "likely"),
        ("pan", ["4111111111111111", "5500-0000-0000-0004"], "payment card number", "likely"),
        ("client_ip", ["10.0.0.1", "2001:db8::1"], "IP address", "likely"),
        ("mobile_phone", ["+49 30 1234567", "030/1234567"], "phone number", "likely"),
        ("first_name", [], "name of a person", "possible"),
        ("dateOfBirth", [], "date of birth", "possible"),
        ("shipping_address.zip_code", ["10115"], "postal address", "possible"),
        ("tax_id", [], "national identifier", "possible"),
        ("geo.lat", [], "location", "possible"),
        ("gender", [], "sensitive attribute", "possible"),
        ("api_key", [], "credential", "possible"),
    ],
)
def test_likely_personal_data(name, values, kind, confidence):
    found = personal_data(name, values)
    assert (found.kind, found.confidence) == (kind, confidence)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("id", ["1", "2"]),
        ("order_no", ["1234567", "7654321"]),
        ("version", ["1.2.3.4.5"]),
        ("phrase", ["+49 30 1234567"]),
        ("latest", []),
        ("platform", []),
        ("product_name", ["a"]),
        ("panel", ["4111111111111112"]),
        ("same", ["0000000000000000"]),
        ("note", ["write to u@example.com", "nothing", "x", "y", "z"]),
        ("total", ["300.1.1.1"]),
    ],
)
def test_other_data(name, values):
    assert personal_data(name, values) is None


@given(st.text())
def test_any_text_is_tested_without_an_error(text):
    assert is_iban(text) in {True, False}
    assert is_card_number(text) in {True, False}
    personal_data(text, [text])


@given(st.lists(st.sampled_from("0123456789"), min_size=12, max_size=18).map("".join))
def test_one_check_digit_makes_a_card_number_valid(digits):
    valid = [each for each in "0123456789" if is_card_number(digits + each)]
    assert len(valid) == 1 or set(digits) == {valid_digit_of(digits)}


def valid_digit_of(digits):
    """Return the check digit of digits; a number of equal digits is not a card number."""
    doubled = [int(each) * (2 - place % 2) for place, each in enumerate(reversed(digits))]
    return str(-sum(each - 9 if each > 9 else each for each in doubled) % 10)
