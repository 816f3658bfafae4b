from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.deploy.inventory import STARTER, for_ansible, parse
from tdxstack.errors import UsageError


def test_the_papers_form() -> None:
    nodes = parse(
        "tdx@10.0.0.2\ntdx@10.0.0.3  # the second\n\n[guests]\nroot@[fd00::1]:2222 root=/srv/tree become=false\n"
    )
    assert [(node.name, node.user, node.address, node.port, node.group) for node in nodes] == [
        ("tdx@10.0.0.2", "tdx", "10.0.0.2", 22, "hosts"),
        ("tdx@10.0.0.3", "tdx", "10.0.0.3", 22, "hosts"),
        ("root@[fd00::1]:2222", "root", "[fd00::1]", 2222, "guests"),
    ]
    hosts = for_ansible(nodes, {"tdx_root": "/"})["all"]
    assert hosts["vars"] == {"tdx_root": "/"}
    assert hosts["children"]["guests"]["hosts"]["root@[fd00::1]:2222"] == {
        "tdx_root": "/srv/tree",
        "tdx_become": False,
        "ansible_host": "fd00::1",
        "ansible_port": 2222,
        "ansible_user": "root",
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "[others]\na",
        "a b=c",
        "a port",
        "a port=0",
        "a port=x",
        "a@b@c",
        "-oProxyCommand=x",
        "a 'b",
        "a\na",
        STARTER,
    ],
)
def test_what_is_no_inventory(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


@given(st.text(max_size=80))
def test_no_line_crashes(text: str) -> None:
    try:
        for node in parse(text):
            assert not node.address.startswith("-")
    except UsageError:
        return
