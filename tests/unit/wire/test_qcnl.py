from __future__ import annotations

from typing import Any

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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"a": }',
        "{" * 5000 + "}" * 5000,
        '{"a": NaN}',
        '{"a": 1,}',
        "/* {}",
        "\ufeff{}",
        '{"pccs_url": "x"} trailing',
    ],
)
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        QcnlConfig.from_text(text)


def test_every_key_is_read_checked_and_written() -> None:
    """Intel's configuration with all that it knows, comments of both kinds, and one that hides a key."""
    text = """{
      /* server */ "pccs_url": "https://a//b/*c*/sgx/certification/v4/", // a "comment"
      "use_secure_cert": true, "collateral_service": "https://b/sgx/certification/v4/", "tcb_update_type": "early",
      "pccs_api_version": "3.1", "retry_times": 6, "retry_delay": 10, "local_pck_url": "http://localhost:8081/",
      "pck_cache_expire_hours": 168, "verify_collateral_cache_expire_hours": 0.5, "local_cache_only": false,
      // "retry_times": 9,
      "custom_request_options": {"get_cert": {"headers": {"head1": "//value"}, "params": {"p": "v"}}}
    }"""
    config = QcnlConfig.from_text(text)
    assert set(config.values) == set(KEYS)
    assert (config.wrong_values, config.unknown_keys) == ([], [])
    assert config.pccs_url == "https://a//b/*c*/sgx/certification/v4/"
    options: dict[str, Any] = {"get_cert": {"headers": {}}}
    edited = config.with_values({"custom_request_options": options, "pck_cache_expire_hours": 1.5, "retry_times": 3})
    changed = {"custom_request_options": options, "pck_cache_expire_hours": 1.5, "retry_times": 3}
    assert edited.values == {**config.values, **changed}
    assert '// "retry_times": 9,' in edited.text


def test_values_that_the_library_ignores() -> None:
    values = '"use_secure_cert": "false", "retry_times": 1.5, "retry_delay": 4294967296, "pccs_url": null'
    config = QcnlConfig.from_text(f'{{{values}, "pck_cache_expire_hours": true, "custom_request_options": []}}')
    assert config.wrong_values == sorted(config.values)
    assert (config.use_secure_cert, config.pccs_url) == (True, "")


def test_of_a_key_that_is_there_twice_the_first_counts() -> None:
    config = QcnlConfig.from_text('{"retry_times": 1, "retry_times": 2}')
    assert config.values["retry_times"] == 1
    assert config.with_values({"retry_times": 5}).values["retry_times"] == 5


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


_OF_KIND: dict[type, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    bool: st.booleans(),
    int: st.integers(0, 10**6),
    float: st.floats(0, 10**6),
}
_VALUES = st.fixed_dictionaries(
    {},
    optional={
        key: {str: st.text(max_size=20), bool: st.booleans(), int: st.integers(0, 10**6), float: st.floats(0, 10**6)}[
            kind
        ]
        for key, kind in KEYS.items()
        if kind is not dict
    },
)


@given(_VALUES, _VALUES)
def test_set_values_are_read_back(first: dict[str, str | bool | int], second: dict[str, str | bool | int]) -> None:
    config = QcnlConfig.empty().with_values(first).with_values(second)
    assert config.values == {**first, **second}
