"""Which command line a digest is of, when it is close to one that is known.

The log of a direct boot holds the digest of the command line, not its text. Most differences are small: a word too
many, one too few, another console. Such neighbours are tried.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

#: Words that people add to a command line.
_USUAL = (
    *("console=ttyS0", "console=hvc0", "console=tty0", "console=tty1", "console=ttyS0,115200", "earlyprintk=ttyS0"),
    *(
        "rw",
        "ro",
        "quiet",
        "splash",
        "debug",
        "single",
        "nokaslr",
        "panic=-1",
        "ignore_loglevel",
        "systemd.debug-shell",
    ),
    *("tdx_disable_filter", "tdx_wlist_devids", "ima_hash=sha384", "ima_policy=tcb", "ima_policy=critical_data"),
    *("loglevel=3", "loglevel=7", "selinux=0", "apparmor=0", "audit=0", "nosmt", "clearcpuid=mtrr", "swiotlb=force"),
    *("systemd.debug-shell", "systemd.unit=rescue.target", "init=/bin/sh"),
    *("root=/dev/vda1", "root=/dev/vda2", "root=/dev/vda"),
)
_INITRD = "initrd=initrd"
MAX_WORDS = 200


def difference_in_words(expected: str, digest: bytes) -> str | None:
    """How the command line of ``digest`` (of UTF-16, with or without a NUL) differs from ``expected``.

    Returns:
        A sentence, or None if it is none of the neighbours.
    """
    words = expected.rstrip("\0").split(" ")
    if len(words) > MAX_WORDS:
        return None
    for candidate, sentence in _neighbours(words):
        text = " ".join(candidate)
        if any(hashlib.sha384((text + end).encode("utf-16-le")).digest() == digest for end in ("\0", "")):
            return sentence
    return None


def _neighbours(words: list[str]) -> Iterator[tuple[list[str], str]]:
    if _INITRD in words:
        rest = [word for word in words if word != _INITRD]
        yield rest, f"there is no `{_INITRD}` in it: no initrd was given"
        yield [_INITRD, *rest], f"`{_INITRD}` stands in front of it: edk2-stable202508 or newer"
        yield [*rest, _INITRD], f"`{_INITRD}` stands behind it: edk2 before stable202508"
    else:
        yield [_INITRD, *words], "an initrd was given"
        yield [*words, _INITRD], "an initrd was given"
    for number, word in enumerate(words):
        yield words[:number] + words[number + 1 :], f"`{word}` is missing"
        key = word.partition("=")[0]
        for other in _USUAL:
            if other != word and (other.partition("=")[0] == key or {other, word} == {"ro", "rw"}):
                at = f"{key}=" if "=" in word else word
                yield [*words[:number], other, *words[number + 1 :]], f"it differs at `{at}`: the TD had `{other}`"
    for number in range(len(words) + 1):
        for other in _USUAL:
            yield [*words[:number], other, *words[number:]], f"the TD had `{other}` besides"
