"""A recipe and options -> the tree of files that mkosi is run on. Pure, so that it can be checked without building.

Formats: mkosi(1) of mkosi 25, repart.d(5), systemd.preset(5), modules-load.d(5).
"""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from tdxstack.image.options import BootLayout, BuildOptions
from tdxstack.image.recipes import ASSETS, Recipe
from tdxstack.image.tree import File, Link, read_tree, text

#: Times of all files, so that two builds of the same packages differ as little as can be.
SOURCE_DATE_EPOCH = 1767225600
#: Seed of partition and file system UUIDs.
SEED = "6a3cbf8e-7d0b-4c5e-9d0a-0f8f4d1b5c11"
#: Where the sandbox has the configuration, mkosi's scratch, its output, the package cache and a repository.
CONFIG, WORKSPACE, OUTPUT = "/build/config", "/build/ws", "/build/out"
PACKAGE_CACHE, REPOSITORY = "/packages", "/repository"
#: mkfs.fat makes a FAT32 that firmware takes for FAT16 of anything smaller.
ESP_SIZE = "512M"


def kernel_command_line(recipe: Recipe, options: BuildOptions) -> str:
    """The command line that the image is meant to be booted with."""
    ima = "ima_hash=sha384" if options.measures_by_ima else ""
    if options.ima not in ("off", "on"):
        ima += f" ima_policy={options.ima}"
    return " ".join(part for part in (recipe.cmdline, ima, options.extra_cmdline) if part)


def render(recipe: Recipe, options: BuildOptions, bundle: bytes, mirror: str | None) -> dict[str, File | Link]:
    """Every file that mkosi reads, by path below its configuration directory.

    Args:
        bundle: the guest's zipapp.
        mirror: URI of the distribution's mirror; None leaves it to mkosi.
    """
    tree: dict[str, File | Link] = {
        "mkosi.conf": text(_main_section(recipe, options, mirror)),
        "mkosi.repart/10-root.conf": text(_root_partition(recipe, options)),
        "mkosi.postinst.chroot": text(_postinst(recipe, options), 0o755),
        "mkosi.finalize": text(_finalize(recipe, options), 0o755),
        "initrd/init": File((ASSETS / "initrd/init").read_bytes(), 0o755),
        "initrd/initrd.py": File((ASSETS.parent / "initrd.py").read_bytes()),
    }
    if options.boot is not BootLayout.DIRECT:
        tree["mkosi.repart/00-esp.conf"] = text(_esp_partition())
    if options.guest_repo is not None and "://" in options.guest_repo:
        tree |= _remote_repository(recipe, options.guest_repo)
    return tree | _extra_tree(recipe, options, bundle)


def _main_section(recipe: Recipe, options: BuildOptions, mirror: str | None) -> str:
    packages = [*recipe.packages, *options.packages, *(["sudo"] if options.user else [])]
    packages += recipe.grub_packages if options.boot is BootLayout.GRUB else ()
    lines = [
        "[Distribution]",
        f"Distribution={recipe.distribution}",
        f"Release={recipe.release}",
        "Architecture=x86-64",
    ]
    if recipe.repositories:
        lines.append(f"Repositories={','.join(recipe.repositories)}")
    if mirror is not None:
        lines.append(f"LocalMirror={mirror}")
    lines += ["", "[Output]", "Format=disk", "Output=disk", f"OutputDirectory={OUTPUT}", f"Seed={SEED}"]
    lines += ["ManifestFormat=json", "SplitArtifacts=kernel", "", "[Build]", f"BuildSources={CONFIG}"]
    lines += [f"WorkspaceDirectory={WORKSPACE}", f"PackageCacheDirectory={PACKAGE_CACHE}", "WithNetwork=no"]
    lines += ["", "[Content]", "Bootable=no", "WithRecommends=no", "WithDocs=no", "CleanPackageMetadata=no"]
    lines += [f"SourceDateEpoch={SOURCE_DATE_EPOCH}", f"Hostname={options.hostname}", "Locale=C.UTF-8"]
    lines += ["Timezone=UTC", "Packages=", *(f"        {package}" for package in packages)]
    if options.guest_repo is not None and "://" not in options.guest_repo:
        lines.append(f"PackageDirectories={REPOSITORY}")
    return "\n".join(lines) + "\n"


def _root_partition(recipe: Recipe, options: BuildOptions) -> str:
    size = (options.size or recipe.size) >> 20
    lines = ["[Partition]", "Type=root", "Label=root", "Format=ext4", "CopyFiles=/", "ExcludeFilesTarget=/efi/"]
    return "\n".join([*lines, f"SizeMinBytes={size}M", f"SizeMaxBytes={size}M", ""])


def _esp_partition() -> str:
    lines = ["[Partition]", "Type=esp", "Label=esp", "Format=vfat", "CopyFiles=/efi:/"]
    return "\n".join([*lines, f"SizeMinBytes={ESP_SIZE}", f"SizeMaxBytes={ESP_SIZE}", ""])


def _remote_repository(recipe: Recipe, url: str) -> dict[str, File | Link]:
    if recipe.distribution in ("debian", "ubuntu"):
        source = f"Types: deb\nURIs: {url}\nSuites: ./\nTrusted: yes\n"
        pin = f'Package: *\nPin: origin "{urlsplit(url).hostname or ""}"\nPin-Priority: 1001\n'
        return {
            "mkosi.sandbox/etc/apt/sources.list.d/tdxstack-guest.sources": text(source),
            "mkosi.sandbox/etc/apt/preferences.d/tdxstack-guest": text(pin),
        }
    repository = f"[tdxstack-guest]\nname=TDX guest packages\nbaseurl={url}\nenabled=1\ngpgcheck=0\npriority=10\n"
    return {"mkosi.sandbox/etc/yum.repos.d/tdxstack-guest.repo": text(repository)}


def _postinst(recipe: Recipe, options: BuildOptions) -> str:
    """Runs in the image after its packages and the overlay are there."""
    lines = ["#!/bin/sh", "set -eu", "rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub"]
    lines += [
        f"{recipe.python} -I /usr/lib/tdxstack/compile.py /usr/lib/tdxstack/tdxctl.pyz",
        "rm /usr/lib/tdxstack/compile.py",
    ]
    # sshd before 8.2 has no Include; what comes first counts
    ours, whole = "/etc/ssh/sshd_config.d/10-tdxstack.conf", "/etc/ssh/sshd_config"
    lines.append(f"grep -qi '^Include' {whole} || {{ cat {ours} {whole} >{whole}.new; mv {whole}.new {whole}; }}")
    home, account = "/root", "root"
    if options.user:
        home, account = f"/home/{options.user}", options.user
        lines.append(f"useradd --create-home --shell /bin/bash {account}")
        lines.append(f"usermod --password '*' {account}")
        lines.append(f"echo '{account} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{account}")
        lines.append(f"chmod 0440 /etc/sudoers.d/{account}")
    if options.ssh_key:
        lines.append(f"install -d -m 0700 -o {account} -g {account} {home}/.ssh")
        lines.append(f"printf '%s\\n' {shlex.quote(options.ssh_key.strip())} >{home}/.ssh/authorized_keys")
        lines.append(f"chown {account}:{account} {home}/.ssh/authorized_keys")
        lines.append(f"chmod 0600 {home}/.ssh/authorized_keys")
    return "\n".join(lines) + "\n"


def _finalize(recipe: Recipe, options: BuildOptions) -> str:
    """Runs beside the image, with the tools tree's programs, just before the disk is made of it."""
    first, second = ",".join(recipe.initrd_first), ",".join(recipe.initrd_second)
    lines = ["#!/bin/sh", "set -eu"]
    # An empty machine-id is filled in at boot without the work of a "first boot".
    lines.append(': >"$BUILDROOT/etc/machine-id"')
    lines.append(
        'python3 -I "$SRCDIR/initrd/initrd.py" "$BUILDROOT" /usr/bin/busybox "$SRCDIR/initrd/init" '
        f'"$OUTPUTDIR/initrd.img" {shlex.quote(first)} {shlex.quote(second)}'
    )
    if options.boot is BootLayout.UKI:
        lines += _uki_lines(recipe, options)
    elif options.boot is BootLayout.GRUB:
        lines += _grub_lines(recipe, options)
    return "\n".join(lines) + "\n"


def _uki_lines(recipe: Recipe, options: BuildOptions) -> list[str]:
    """One unified kernel image, in the place that firmware starts from a disk it has no boot entry for."""
    return [
        'mkdir -p "$BUILDROOT/efi/EFI/BOOT"',
        'ukify build --linux="$(ls "$BUILDROOT"/usr/lib/modules/*/vmlinuz)" --initrd="$OUTPUTDIR/initrd.img" '
        f"--cmdline={shlex.quote(kernel_command_line(recipe, options))} "
        '--os-release=@"$BUILDROOT/etc/os-release" --stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub '
        '--output="$BUILDROOT/efi/EFI/BOOT/BOOTX64.EFI"',
        'cp "$BUILDROOT/efi/EFI/BOOT/BOOTX64.EFI" "$OUTPUTDIR/uki.efi"',
    ]


def _grub_lines(recipe: Recipe, options: BuildOptions) -> list[str]:
    """The distribution's signed shim and GRUB on the ESP, kernel and initrd beside them."""
    configuration = (
        f"set timeout=0\nlinux /tdxstack/vmlinuz {kernel_command_line(recipe, options)}\n"
        "initrd /tdxstack/initrd.img\nboot\n"
    )
    return [
        'esp="$BUILDROOT/efi"',
        f'mkdir -p "$esp/EFI/BOOT" "$esp/{recipe.grub_directory}" "$esp/tdxstack"',
        f'cp "$BUILDROOT/{recipe.grub_shim}" "$esp/EFI/BOOT/BOOTX64.EFI"',
        f'cp "$BUILDROOT/{recipe.grub_binary}" "$esp/EFI/BOOT/grubx64.efi"',
        f'printf %s {shlex.quote(configuration)} >"$esp/{recipe.grub_directory}/grub.cfg"',
        'cp "$BUILDROOT"/usr/lib/modules/*/vmlinuz "$esp/tdxstack/vmlinuz"',
        'cp "$OUTPUTDIR/initrd.img" "$esp/tdxstack/initrd.img"',
    ]


def _extra_tree(recipe: Recipe, options: BuildOptions, bundle: bytes) -> dict[str, File | Link]:
    prefix = "mkosi.extra/"
    tree = read_tree(ASSETS / "overlay", prefix)
    for unit in recipe.masked:
        tree[f"{prefix}etc/systemd/system/{unit}"] = Link("/dev/null")
    for generator in recipe.masked_generators:
        tree[f"{prefix}etc/systemd/system-generators/{generator}"] = Link("/dev/null")
    tree[f"{prefix}etc/systemd/system/{recipe.ssh_unit}"] = text(_ssh_unit())
    tree[f"{prefix}etc/modules-load.d/tdxstack.conf"] = text("".join(f"{name}\n" for name in recipe.modules))
    denied = "".join(f"blacklist {name}\n" for name in recipe.modules_denied)
    tree[f"{prefix}etc/modprobe.d/tdxstack.conf"] = text(denied)
    tree[f"{prefix}usr/lib/tdxstack/tdxctl.pyz"] = File(bundle)
    tree[f"{prefix}usr/lib/tdxstack/compile.py"] = File((ASSETS / "scripts/compile.py").read_bytes())
    if recipe.keys_by_unit == "yes":
        unit = (ASSETS / "scripts/tdxstack-keys.service").read_text()
        tree[f"{prefix}usr/lib/systemd/system/tdxstack-keys.service"] = text(unit)
    tree[f"{prefix}usr/bin/tdxctl"] = text(_wrapper(recipe), 0o755)
    tree[f"{prefix}etc/hosts"] = text(f"127.0.0.1 localhost\n127.0.1.1 {options.hostname}\n::1 localhost\n")
    if options.ima_policy is not None:
        # systemd loads it before it starts anything (ima-setup.c).
        tree[f"{prefix}etc/ima/ima-policy"] = text(options.ima_policy.rstrip() + "\n")
    return tree


def _wrapper(recipe: Recipe) -> str:
    return f'#!/bin/sh\nexec {recipe.python} -I /usr/lib/tdxstack/tdxctl.pyz "$@"\n'


def _ssh_unit() -> str:
    return (ASSETS / "scripts/ssh.service").read_text()
