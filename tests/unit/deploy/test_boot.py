from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.deploy import boot
from tdxstack.errors import WireError

PARAMETERS = ["kvm_intel.tdx=1", "nohibernate"]
GRUB_CFG = """
menuentry 'Ubuntu' --class os $menuentry_id_option 'gnulinux-simple-34db' {
}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-34db' {
	menuentry 'Ubuntu, 6.17' --class os $menuentry_id_option 'gnulinux-6.17.0-5-generic-advanced-34db' {
	}
	menuentry 'Ubuntu, 6.17 (recovery)' $menuentry_id_option 'gnulinux-6.17.0-5-generic-recovery-34db' {
	}
	menuentry 'Ubuntu, 6.2' --class os $menuentry_id_option 'gnulinux-6.2.0-mvp4v1+2-generic-advanced-34db' {
	}
}
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            'GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=""\n',
            'GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX="kvm_intel.tdx=1 nohibernate"\n',
        ),
        ('GRUB_CMDLINE_LINUX="crashkernel=1G"', 'GRUB_CMDLINE_LINUX="crashkernel=1G kvm_intel.tdx=1 nohibernate"'),
        ("GRUB_CMDLINE_LINUX=nohibernate", 'GRUB_CMDLINE_LINUX="nohibernate kvm_intel.tdx=1"'),
        ('GRUB_CMDLINE_LINUX="kvm_intel.tdx=0"', 'GRUB_CMDLINE_LINUX="kvm_intel.tdx=1 nohibernate"'),
        ("GRUB_TIMEOUT=5", 'GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX="kvm_intel.tdx=1 nohibernate"\n'),
    ],
)
def test_grub(before: str, after: str) -> None:
    edited = boot.edit_grub(before, PARAMETERS)
    assert edited == after
    assert boot.edit_grub(edited, PARAMETERS) == edited


@pytest.mark.processes
@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ('GRUB_CMDLINE_LINUX="a b"\n', ["a", "b"]),
        ("GRUB_CMDLINE_LINUX='a b'\n", ["a", "b"]),
        ('GRUB_CMDLINE_LINUX="a b"  # for the console\n', ["a", "b"]),
        ("GRUB_CMDLINE_LINUX='a' # it's ours\n", ["a"]),
        ("GRUB_CMDLINE_LINUX=a\n", ["a"]),
        ("GRUB_CMDLINE_LINUX='a \"$b\"'\n", ["a", '"$b"']),
        ("GRUB_CMDLINE_LINUX=\n", []),
        ("GRUB_CMDLINE_LINUX=a # b\n", ["a"]),
        ("GRUB_CMDLINE_LINUX=a#b\n", ["a#b"]),
        ('export GRUB_CMDLINE_LINUX="a"\n', ["a"]),
        ('  GRUB_CMDLINE_LINUX="a"\n', ["a"]),
        ('GRUB_CMDLINE_LINUX="a \\\n b"\n', ["a", "b"]),
        ('GRUB_CMDLINE_LINUX="a\nb"\n', ["a", "b"]),
        ('GRUB_CMDLINE_LINUX="a"" b"\n', ["a", "b"]),
        ('GRUB_CMDLINE_LINUX="dyndbg=\\"file x.c +p\\" b"\n', ['dyndbg="file', "x.c", '+p"', "b"]),
        ("GRUB_CMDLINE_LINUX=a\\ b\n", ["a", "b"]),
        ('X=c\nGRUB_CMDLINE_LINUX="a $X"\n', ["a", "c"]),
        ('GRUB_CMDLINE_LINUX="a"\nGRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX b"\n', ["a", "b"]),
        ('GRUB_CMDLINE_LINUX="old"\nGRUB_CMDLINE_LINUX="b"\n', ["b"]),
        ('GRUB_CMDLINE_LINUX="a"\n#GRUB_CMDLINE_LINUX="x"\n', ["a"]),
        ('GRUB_CMDLINE_LINUX="a kvm_intel.tdx=0"\n', ["a"]),
        ("", []),
    ],
)
def test_the_shell_reads_what_was_there_and_the_parameters(before: str, kept: list[str]) -> None:
    """The file is shell: update-grub sources it."""
    edited = boot.edit_grub(before, PARAMETERS)
    script = f'{edited}\nprintf %s "$GRUB_CMDLINE_LINUX"'
    words = subprocess.run(["sh", "-eu", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert [word for word in words if word not in PARAMETERS] == kept
    assert set(PARAMETERS) <= set(words)
    assert boot.edit_grub(edited, PARAMETERS) == edited


def test_the_default_variable_is_another_one() -> None:
    text = 'GRUB_CMDLINE_LINUX_DEFAULT="quiet splash"\nGRUB_CMDLINE_LINUX=""\n'
    assert 'DEFAULT="quiet splash"' in boot.edit_grub(text, PARAMETERS)


def test_bls() -> None:
    entry = "title Fedora\nlinux /vmlinuz-6.17\noptions root=/dev/sda2 ro kvm_intel.tdx=0\n"
    edited = boot.edit_bls(entry, PARAMETERS)
    assert edited == "title Fedora\nlinux /vmlinuz-6.17\noptions root=/dev/sda2 ro kvm_intel.tdx=1 nohibernate\n"
    assert boot.edit_bls(edited, PARAMETERS) == edited
    assert boot.edit_bls("title x\n", PARAMETERS).endswith("options kvm_intel.tdx=1 nohibernate\n")


def test_the_entry_of_a_kernel() -> None:
    wanted = "gnulinux-advanced-34db>gnulinux-6.2.0-mvp4v1+2-generic-advanced-34db"
    assert boot.grub_entry(GRUB_CFG, "6.2.0-mvp4v1+2-generic") == wanted
    assert boot.grub_entry(GRUB_CFG, "6.99") is None


def test_grubenv_keeps_its_size() -> None:
    block = boot.GRUBENV_HEADER + "saved_entry=old\nboot_success=1\n"
    edited = boot.edit_grubenv(block.ljust(1024, "#"), "saved_entry", "machine-6.17")
    assert len(edited) == 1024
    assert edited.startswith(f"{boot.GRUBENV_HEADER}boot_success=1\nsaved_entry=machine-6.17\n###")
    with pytest.raises(WireError):
        boot.edit_grubenv("no block", "a", "b")
    with pytest.raises(WireError):
        boot.edit_grubenv(edited, "a", "x" * 2000)


@given(st.text(alphabet="abc=. \t-_1", max_size=60))
def test_parameters_are_added_once_and_nothing_else_goes(line: str) -> None:
    edited = boot.with_parameters(line, PARAMETERS)
    assert not boot.missing(edited, PARAMETERS)
    assert boot.with_parameters(edited, PARAMETERS) == edited
    assert set(line.split()) <= set(edited.split())
