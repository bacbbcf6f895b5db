"""Values copied from addresses: what comes out is what was there, and nothing beyond a value is touched."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.connectors.kafka import native
from pipeline.connectors.kafka.native import Consumer, _copied
from pipeline.core.errors import SourceError
from tests.rigs.proofs import examples

LONG = st.integers(0, 300).map(lambda n: bytes(i % 251 for i in range(n)))


@settings(max_examples=examples(16, 150), deadline=None)
@given(st.lists(st.one_of(st.none(), st.binary(max_size=14), LONG), max_size=30))
def test_values_of_any_length_are_what_was_there(values):
    buffers = [None if v is None else ctypes.create_string_buffer(v, max(1, len(v))) for v in values]
    starts = np.array([0 if h is None else ctypes.addressof(h) for h in buffers], np.int64)
    lengths = np.array([len(v or b"") for v in values], np.int64)
    assert _copied(starts, lengths).to_pylist() == values


@pytest.mark.parametrize("size", [1, 11, 12, 13, 100])
def test_a_value_at_the_end_of_mapped_memory(size):
    """Behind the last page of an anonymous map there is, as a rule, nothing: to touch it would end the process."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        page[-size:] = bytes(range(size))
        here = ctypes.c_char.from_buffer(page)
        start = ctypes.addressof(here) + mmap.PAGESIZE - size
        assert _copied(np.array([start]), np.array([size])).to_pylist() == [bytes(range(size))]
        del here


def test_more_than_one_array_can_hold_comes_in_several(monkeypatch):
    monkeypatch.setattr(native, "_WINDOW_BYTES", 1000)
    value = ctypes.create_string_buffer(b"x" * 300, 300)
    copied = _copied(np.full(10, ctypes.addressof(value)), np.full(10, 300))
    assert copied.num_chunks > 1
    assert copied.to_pylist() == [b"x" * 300] * 10


def test_an_option_that_the_client_does_not_know():
    with pytest.raises(SourceError, match=r"Kafka's client cannot be set up: got .*no.such"):
        Consumer({"no.such": "1"}, lambda *_: None)
