"""Another host by its URI: how ssh is called, and what libvirt is given to open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tdxstack.errors import ExitCode, PlatformMissing
from tdxstack.vm.libvirt.far_end import PATIENCE, FarEnd, dialled
from tdxstack.vm.libvirt.far_site import FarSite
from tdxstack.vm.site import is_far, require_here
from tdxstack.vm.sites import HERE, site_of
from tdxstack.vm.spec import TdSpec, Via, VmType


def _spec(uri: str, **settings: object) -> TdSpec:
    return TdSpec(name="demo", kernel=Path("/k"), via=Via.LIBVIRT, connect=uri, **settings)  # type: ignore[arg-type]


def test_the_parameters_of_a_uri_are_options_of_ssh() -> None:
    end = FarEnd.of(
        "qemu+ssh://some%40one@far:2222/system?keyfile=/k%20ey&known_hosts=/hosts&known_hosts_verify=auto"
    )
    assert end.name == "some@one@far:2222"
    assert end.argv("-T") == [
        *("ssh", *PATIENCE, "-i", "/k ey", "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=/hosts"),
        *("-o", "StrictHostKeyChecking=accept-new", "-p", "2222", "-l", "some@one", "-T", "--", "far"),
    ]
    plain = FarEnd.of("qemu+ssh://far/system")
    assert plain.argv() == ["ssh", *PATIENCE, "--", "far"]
    for unsafe in ("no_verify=1", "known_hosts_verify=ignore"):
        assert "StrictHostKeyChecking=no" in FarEnd.of(f"qemu+ssh://far/system?{unsafe}").options
    assert FarEnd.of("qemu+ssh://far/system?command=/opt/ssh").argv()[0] == "/opt/ssh"


def test_libvirt_dials_by_our_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TDXSTACK_HOME", str(tmp_path))
    uri = "qemu+ssh://root@far:22/system?socket=/s&known_hosts=/a%20b&command=/opt/ssh"
    given = dialled(uri)
    base, _, query = given.partition("?")
    assert base == "qemu+ssh://root@far:22/system"
    facts = dict(pair.split("=") for pair in query.split("&"))
    script = Path(facts["command"])
    assert (facts["socket"], facts["no_tty"]) == ("/s", "1")
    assert script.is_relative_to(tmp_path) and os.access(script, os.X_OK)
    assert script.read_text().splitlines()[1].startswith("exec /opt/ssh -o BatchMode=yes")
    assert "'UserKnownHostsFile=/a b'" in script.read_text()
    assert dialled(uri) == given
    for other in ("qemu:///system", "qemu+unix:///system?socket=/s", "qemu+libssh://far/system"):
        assert dialled(other) == other


@pytest.mark.parametrize("uri", ["qemu+tcp://far/system", "qemu+tls://far/system", "qemu://far/system"])
def test_a_host_without_ssh_is_refused(uri: str) -> None:
    with pytest.raises(PlatformMissing, match="libvirt on far") as caught:
        site_of(_spec(uri))
    assert caught.value.exit_code is ExitCode.UNSUPPORTED
    assert "qemu+ssh://far/system" in (caught.value.hint or "")


def test_whose_host_it_is() -> None:
    for uri in ("qemu:///system", "qemu+unix:///session?socket=/s"):
        assert site_of(_spec(uri)) is HERE and not is_far(_spec(uri))
        require_here(_spec(uri), "anything")
    assert site_of(TdSpec(name="demo")) is HERE
    spec = _spec("qemu+ssh://root@far/system")
    assert site_of(spec) is site_of(spec) and site_of(spec).key == "root@far"
    with pytest.raises(PlatformMissing, match="memory is read on far"):
        require_here(spec, "its memory is read")


@pytest.mark.parametrize(
    ("settings", "what"), [({}, "software platform 'software'"), ({"type": VmType.EFI, "tpm": True}, "a TPM")]
)
def test_a_session_of_ours_is_refused_before_anything_is_asked(settings: dict[str, object], what: str) -> None:
    spec = _spec("qemu+ssh://root@far/system", **settings)
    with pytest.raises(PlatformMissing, match=what) as caught:
        site_of(spec).check(spec)
    assert "ssh far tdxctl td create" in (caught.value.hint or "")


def test_the_way_to_a_port_there() -> None:
    site = FarSite.of("qemu+ssh://root@far/system?keyfile=/k%25y")
    assert site.proxy_command(10022).endswith("-l root -W 127.0.0.1:10022 -- far")
    assert "-i /k%%y" in site.proxy_command(10022)
