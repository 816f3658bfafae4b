from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import UsageError
from tdxstack.vm import spec_file
from tdxstack.vm.network import PortForward
from tdxstack.vm.settings import read_size, write_size
from tdxstack.vm.spec import SETTINGS, Boot, Ima, TdSpec, VmType, json_schema
from tdxstack.vm.spec_rules import check_files, checked

KERNEL = Path("/boot/vmlinuz")
TEXT = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), max_size=30)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,39}", fullmatch=True)
DIGESTS = st.binary(min_size=48, max_size=48)
PORTS = st.builds(PortForward, st.sampled_from(["tcp", "udp"]), st.integers(0, 65535), st.integers(1, 65535))
PATHS = st.from_regex(r"/[a-z,= /äß]{0,20}[a-z]", fullmatch=True).map(Path)


@st.composite
def specs(draw: st.DrawFn) -> TdSpec:
    return TdSpec(
        name=draw(NAMES),
        type=draw(st.sampled_from(VmType)),
        boot=draw(st.sampled_from(Boot)),
        kernel=draw(st.none() | PATHS),
        cmdline=draw(st.none() | TEXT),
        memory=draw(st.integers(0, 1 << 45)),
        ports=tuple(draw(st.lists(PORTS, max_size=3))),
        mrconfigid=draw(DIGESTS),
        attributes=draw(st.integers(0, (1 << 64) - 1)),
        overlay=draw(st.booleans()),
        devices=tuple(draw(st.lists(TEXT, max_size=2))),
    )


@given(specs())
def test_toml_gives_back_what_was_written(spec: TdSpec) -> None:
    values = spec_file.parse(spec_file.dumps(spec), "test")
    assert TdSpec.from_mapping(values) == spec


@given(specs())
def test_json_gives_back_what_was_written(spec: TdSpec) -> None:
    assert TdSpec.from_mapping(json.loads(json.dumps(spec.to_mapping()))) == spec


@given(st.integers(0, 1 << 50))
def test_sizes(size: int) -> None:
    assert read_size(write_size(size)) == size


def test_defaults_are_not_written() -> None:
    assert TdSpec(name="demo").to_mapping() == {"name": "demo"}


def test_every_setting_is_documented_and_in_the_schema() -> None:
    assert {setting.name for setting in SETTINGS} == {item.name for item in dataclasses.fields(TdSpec)}
    assert set(json_schema()["properties"]) == {setting.name for setting in SETTINGS}
    assert all(setting.help for setting in SETTINGS)


def test_digests_in_hex_and_in_base64() -> None:
    digest = bytes(range(48))
    for text in (digest.hex(), digest.hex().upper(), base64.b64encode(digest).decode()):
        assert TdSpec.from_mapping({"name": "a", "mrowner": text}).mrowner == digest


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "demo.toml"
    path.write_text('kernel = "boot/vmlinuz"\nmemory = "512M"\n')
    spec = spec_file.read(path)
    assert (spec.name, spec.kernel, spec.memory) == ("demo", tmp_path / "boot/vmlinuz", 512 << 20)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a b"}, "is not a name"),
        ({"name": "../x"}, "is not a name"),
        ({"name": "x" * 41}, "at most 40"),
        ({"name": "a", "memroy": "1G"}, "unknown setting: memroy"),
        ({"name": "a", "memory": "2 potatoes"}, "is not a size"),
        ({"name": "a", "vcpus": "two"}, "is not a number"),
        ({"name": "a", "vcpus": True}, "is not a number"),
        ({"name": "a", "mac": "52:54:00:12:34"}, "is not a MAC"),
        ({"name": "a", "mac": "53:54:00:12:34:56"}, "multicast"),
        ({"name": "a", "mrowner": "00"}, "96 hex digits"),
        ({"name": "a", "mrowner": "a1" * 32}, "96 hex digits"),
        ({"name": "a", "ports": "80:80"}, "is not a list"),
        ({"name": "a", "ports": ["80"]}, "port to forward"),
        ({"name": "a", "ports": ["80:70000"]}, "up to 65535"),
        ({"name": "a", "type": "vm"}, "is none of td, efi, legacy"),
        ({"name": "a", "network": "tap"}, "is none of user"),
        ({"name": "a", "quote": "pigeon"}, "is none of auto"),
        ({"name": "a", "cmdline": "a\nb"}, "line break"),
        ({"name": "a", "overlay": "perhaps"}, "neither true nor false"),
        ({}, "has no name"),
    ],
)
def test_bad_values_name_the_setting(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        TdSpec.from_mapping(values)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": None}, "direct boot needs one"),
        ({"memory": 1 << 20}, "memory"),
        ({"memory": (128 << 20) + 1}, "memory"),
        ({"vcpus": 0}, "out of range"),
        ({"vcpus": 3, "sockets": 2}, "do not divide"),
        ({"vcpus": 6, "sockets": 2, "threads": 2}, "2 sockets times 2 threads"),
        ({"threads": 0}, "threads"),
        ({"hugepages": 4096}, "huge page size"),
        ({"hugepages": 1 << 30, "memory": 3 << 29}, "not a multiple"),
        ({"boot": Boot.GRUB}, "takes it from the disk"),
        ({"boot": Boot.GRUB, "kernel": None}, "needs a disk"),
        ({"boot": Boot.UKI, "kernel": None}, "needs a disk with a UKI"),
        ({"boot": Boot.UKI, "initrd": KERNEL}, "carries its own"),
        ({"boot": Boot.UKI, "ima": Ima.TCB}, "from the image"),
        ({"type": VmType.EFI, "mrowner": b"\1" * 48}, "no meaning for type=efi"),
        ({"type": VmType.EFI, "quote": "vsock"}, "has no quotes"),
        ({"type": VmType.LEGACY, "boot": Boot.UKI}, "needs UEFI"),
        ({"tpm": True}, "no TPM of its own"),
        ({"tpm": True, "type": VmType.LEGACY}, "needs UEFI"),
        ({"ssh_port": 70000}, "is no port"),
        ({"network": "none", "ssh_port": 22}, "forwards no ports"),
        ({"ssh_port": 99, "ports": (PortForward("tcp", 99, 1),)}, "same host port"),
        ({"vsock": True, "vsock_cid": 2}, "reserved"),
        ({"vsock_cid": 5}, "without a vsock device"),
    ],
)
def test_contradictions(changes: dict[str, Any], message: str) -> None:
    spec = dataclasses.replace(TdSpec(name="demo", kernel=KERNEL), **changes)
    with pytest.raises(UsageError, match=message) as caught:
        checked(spec)
    assert caught.value.hint


def test_same_host_port_for_tcp_and_udp_is_fine() -> None:
    checked(TdSpec(name="a", kernel=KERNEL, ports=(PortForward("tcp", 53, 53), PortForward("udp", 53, 53))))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"kernel .*nothing: No such file"):
        check_files(TdSpec(name="demo", kernel=tmp_path / "nothing"))


def test_broken_toml(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("name = ")
    with pytest.raises(UsageError, match="is not TOML"):
        spec_file.read(tmp_path / "x.toml")
