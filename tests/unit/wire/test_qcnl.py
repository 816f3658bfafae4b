from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_trees import QCNL
from tdxstack.errors import WireError
from tdxstack.wire.qcnl import KEYS, QcnlConfig, without_comments

TEXT = QCNL.decode()


def test_intels_form_with_comments_is_read() -> None:
    config = QcnlConfig.from_text(TEXT)
    assert config.pccs_url == "https://localhost:8081/sgx/certification/v4/"
    assert not config.use_secure_cert
    assert config.values["retry_times"] == 6


def test_an_edit_keeps_comments_and_order() -> None:
    edited = QcnlConfig.from_text(TEXT).with_values({"use_secure_cert": True})
    assert edited.use_secure_cert
    assert edited.text == TEXT.replace(": false\n", ": true\n")


def test_a_url_with_slashes_is_no_comment() -> None:
    assert "https://localhost" in without_comments(TEXT)
    assert "PCCS server address" not in without_comments(TEXT)


def test_a_missing_key_is_added_once() -> None:
    config = QcnlConfig.empty().with_values({"retry_delay": 10, "pccs_url": "https://a/sgx/certification/v4/"})
    assert config.values == {"retry_delay": 10, "pccs_url": "https://a/sgx/certification/v4/"}
    assert config.with_values({"retry_delay": 3}).text.count("retry_delay") == 1


def test_a_nested_key_of_the_same_name_is_left_alone() -> None:
    text = '{"custom_request_options": {"retry_times": 1}, "retry_times": 2}'
    edited = QcnlConfig.from_text(text).with_values({"retry_times": 9})
    assert edited.text == '{"custom_request_options": {"retry_times": 1}, "retry_times": 9}'


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": }', "{" * 5000 + "}" * 5000, '{"pccs_url": "x"} trailing'])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        QcnlConfig.from_text(text)


@pytest.mark.parametrize("changes", [{"PCCS_URL": "x"}, {"use_secure_cert": "false"}, {"retry_times": True}])
def test_wrong_edits_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(WireError):
        QcnlConfig.from_text(TEXT).with_values(changes)  # type: ignore[arg-type]


@given(st.text(max_size=200))
def test_arbitrary_text(text: str) -> None:
    try:
        QcnlConfig.from_text(text)
    except WireError:
        return


_VALUES = st.fixed_dictionaries(
    {},
    optional={
        key: {str: st.text(max_size=20), bool: st.booleans(), int: st.integers(0, 10**6)}[kind]
        for key, kind in KEYS.items()
        if kind is not dict
    },
)


@given(_VALUES, _VALUES)
def test_set_values_are_read_back(first: dict[str, str | bool | int], second: dict[str, str | bool | int]) -> None:
    config = QcnlConfig.empty().with_values(first).with_values(second)
    assert config.values == {**first, **second}
