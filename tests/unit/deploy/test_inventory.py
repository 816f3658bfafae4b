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
    ("line", "command"),
    [
        ("tdx@10.0.0.2", "ssh-copy-id tdx@10.0.0.2"),
        ("front ansible_host=10.0.0.9 ansible_user=root port=2222", "ssh-copy-id -p 2222 root@10.0.0.9"),
        ("[fd00::1]:22", "ssh-copy-id fd00::1"),
    ],
)
def test_how_to_be_let_in(line: str, command: str) -> None:
    (node,) = parse(line)
    assert node.copy_id == command


def test_ranges_and_ansibles_names_and_variables_of_groups() -> None:
    nodes = parse(
        """
        [hosts]
        tdx@node[08:10].example key=/k1
        rack-[a:b][1:2] ansible_user=root
        front ansible_host=10.0.0.9 ansible_port=2222 ansible_ssh_private_key_file=/k2

        [guests]
        [fd00::7]
        [hosts:vars]
        ansible_python_interpreter = /usr/bin/python3.11
        key=/shared
        [all:vars]
        port=2200
        """.replace(" = ", "=")
    )
    assert [(node.name, node.user, node.address, node.port, node.group) for node in nodes] == [
        ("tdx@node08.example", "tdx", "node08.example", 2200, "hosts"),
        ("tdx@node09.example", "tdx", "node09.example", 2200, "hosts"),
        ("tdx@node10.example", "tdx", "node10.example", 2200, "hosts"),
        ("rack-a1", "root", "rack-a1", 2200, "hosts"),
        ("rack-a2", "root", "rack-a2", 2200, "hosts"),
        ("rack-b1", "root", "rack-b1", 2200, "hosts"),
        ("rack-b2", "root", "rack-b2", 2200, "hosts"),
        ("front", "", "10.0.0.9", 2222, "hosts"),
        ("[fd00::7]", "", "[fd00::7]", 2200, "guests"),
    ]
    hosts = for_ansible(nodes, {})["all"]["children"]["hosts"]["hosts"]
    assert hosts["tdx@node08.example"]["ansible_ssh_private_key_file"] == "/k1"
    assert hosts["front"] == {
        "ansible_host": "10.0.0.9",
        "ansible_port": 2222,
        "ansible_ssh_private_key_file": "/k2",
        "ansible_python_interpreter": "/usr/bin/python3.11",
    }
    assert hosts["rack-a1"]["ansible_ssh_private_key_file"] == "/shared"
    assert (
        "ansible_python_interpreter" not in for_ansible(nodes, {})["all"]["children"]["guests"]["hosts"]["[fd00::7]"]
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a ansible_ssh_pass=x", "no password"),
        ("[hosts:vars]\nansible_become_password=x\n[hosts]\na", "no password"),
        ("[all:children]\nhosts", "hosts:vars"),
        ("n[3:1]", "no range"),
        ("n[1:99999999]", "no range"),
        ("n[a:3]", "no range"),
        ("n[1:c]", "no range"),
        ("a ansible_host=-oProxyCommand=x", "is no"),
        ("a ansible_user=-x", "is no"),
        ("a ansible_host=b@c", "is no"),
        ("n[1:2]\nn2", "named twice"),
    ],
)
def test_what_an_inventory_refuses_and_why(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert words in f"{caught.value.message} {caught.value.hint}"


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
