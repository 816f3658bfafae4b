"""``tdxctl image``: build, list, show and delete guest images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdxstack.cli import output
from tdxstack.cli.commands.image_sign import add_sign
from tdxstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tdxstack.image import BuildOptions, Image
    from tdxstack.image.recipes import Recipe

#: As in the image options, which a parser must not load.
IMA_CHOICES = ("off", "on", "critical_data", "tcb")


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    add_sign(verbs)
    _add_build(verbs.add_parser("build", help="build a guest image from a recipe"))
    listing = verbs.add_parser("list", help="list images (and, with --recipes, what can be built)")
    listing.add_argument("--recipes", action="store_true", help="list the recipes instead")
    output.add_json(listing)
    listing.set_defaults(run=run_list)
    show = verbs.add_parser("show", help="show one image")
    show.add_argument("name", metavar="NAME", help="an image, or a recipe for its newest image")
    output.add_json(show)
    show.set_defaults(run=run_show)
    delete = verbs.add_parser("delete", help="delete an image that no TD uses")
    delete.add_argument("name", metavar="NAME", help="the image")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    delete.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    delete.set_defaults(run=run_delete)


def _add_build(build: argparse.ArgumentParser) -> None:
    build.add_argument("recipe", nargs="?", default="debian-13", metavar="RECIPE", help="default: debian-13")
    build.add_argument("--force", action="store_true", help="build even if the same image is there")
    build.add_argument("--dry-run", action="store_true", help="print the mkosi configuration, build nothing")
    build.add_argument("--output", type=Path, metavar="FILE", help="also write the disk there (.qcow2: converted)")
    build.add_argument("--size", metavar="SIZE", help="size of the root file system, e.g. 4G (default: the recipe's)")
    build.add_argument("--hostname", default="tdx-guest", metavar="NAME", help="host name (default: tdx-guest)")
    build.add_argument("--user", metavar="NAME", help="create this user, with sudo")
    build.add_argument("--ssh-key", type=Path, metavar="FILE", help="public key to accept, for the user or root")
    build.add_argument("--guest-repo", metavar="DIR|URL", help="packages to prefer over the distribution's")
    build.add_argument("--package", action="append", default=[], metavar="NAME", help="install this too (repeatable)")
    build.add_argument("--boot", choices=("direct", "uki", "grub"), default="direct", help="how it is started")
    build.add_argument("--cmdline", default="", metavar="TEXT", help="append to the kernel command line")
    build.add_argument("--ima", choices=IMA_CHOICES, default="off", help="IMA with SHA-384 (default: off)")
    build.add_argument("--ima-policy", type=Path, metavar="FILE", help="rules for IMA, loaded at boot")
    output.add_json(build)
    build.set_defaults(run=run_build)


def _options(args: argparse.Namespace) -> BuildOptions:
    from tdxstack.image import BootLayout, BuildOptions
    from tdxstack.image.recipes import parse_size

    if args.ssh_key is not None and not args.ssh_key.is_file():
        raise UsageError(f"no key file {args.ssh_key}", hint="give a public key, e.g. ~/.ssh/id_ed25519.pub")
    return BuildOptions(
        hostname=args.hostname,
        user=args.user,
        ssh_key=args.ssh_key.read_text() if args.ssh_key else None,
        size=parse_size(args.size) if args.size else None,
        guest_repo=args.guest_repo,
        packages=tuple(args.package),
        boot=BootLayout(args.boot),
        extra_cmdline=args.cmdline,
        ima=args.ima,
        ima_policy=_policy(args.ima_policy),
    )


def _policy(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--ima-policy {path}: {error}") from None


def run_build(args: argparse.Namespace) -> ExitCode:
    """Build, or say what would be built."""
    from tdxstack.image import build_image
    from tdxstack.image.export import export_disk

    options = _options(args)
    if args.dry_run:
        return _show_plan(args, options)
    image = build_image(args.recipe, options, force=args.force, progress=output.step)
    body = output.document("image", image.describe())
    if args.output is not None:
        export_disk(image.disk, args.output)
        body["output"] = str(args.output)
    output.emit(args, body, lambda: image.name)
    return ExitCode.DONE


def _show_plan(args: argparse.Namespace, options: BuildOptions) -> ExitCode:
    from tdxstack.image.builder import plan_build
    from tdxstack.image.mkosi_config import render
    from tdxstack.image.tree import Link

    plan = plan_build(args.recipe, options)
    tree = render(plan.recipe, plan.options, plan.bundle, plan.mirror)
    files: dict[str, Any] = {}
    for name, entry in sorted(tree.items()):
        if isinstance(entry, Link):
            files[name] = {"link": entry.target}
        elif name.endswith(".pyz"):
            files[name] = {"bytes": len(entry.data), "mode": f"{entry.mode:04o}"}
        else:
            files[name] = {"text": entry.data.decode(), "mode": f"{entry.mode:04o}"}
    body = output.document("image-plan", {"recipe": plan.recipe.name, "key": plan.key, "files": files})
    output.emit(args, body, lambda: _plan_text(files))
    return ExitCode.DONE


def _plan_text(files: dict[str, Any]) -> str:
    parts = []
    for name, entry in files.items():
        if "link" in entry:
            parts.append(f"### {name} -> {entry['link']}\n")
        elif "text" in entry:
            parts.append(f"### {name} ({entry['mode']})\n{entry['text']}\n")
        else:
            parts.append(f"### {name} ({entry['bytes']} bytes)\n")
    return "".join(parts)


def run_list(args: argparse.Namespace) -> ExitCode:
    """List images or recipes."""
    from tdxstack.image.recipes import load_recipe, recipe_names
    from tdxstack.image.store import list_images

    if args.recipes:
        recipes = [load_recipe(name) for name in recipe_names()]
        body = output.document("image-recipes", _recipes_json(recipes))
        output.emit(args, body, lambda: "\n".join(f"{r.name:<14} {r.title:<28} {_status(r)}" for r in recipes))
        return ExitCode.DONE
    images = list_images()
    body = output.document("images", {"images": [image.describe() for image in images]})
    output.emit(args, body, lambda: _listing(images))
    return ExitCode.DONE


def _recipes_json(recipes: list[Recipe]) -> dict[str, Any]:
    return {"recipes": [{"name": r.name, "title": r.title, "built": r.built == "yes"} for r in recipes]}


def _status(recipe: Recipe) -> str:
    return "built and booted in tests" if recipe.built == "yes" else "configuration checked"


def _listing(images: list[Image]) -> str:
    rows = [f"{i.name:<28} {i.boot:<7} {i.created}" for i in images]
    return "\n".join([f"{'NAME':<28} {'BOOT':<7} CREATED", *rows])


def run_show(args: argparse.Namespace) -> ExitCode:
    """Show one image."""
    from tdxstack.image import find_image

    image = find_image(args.name)
    body = output.document("image", {**image.describe(), "packages": image.manifest.get("packages", {})})
    output.emit(args, body, lambda: _details(image))
    return ExitCode.DONE


def _details(image: Image) -> str:
    facts = {
        "name": image.name,
        "recipe": image.recipe,
        "boot": image.boot,
        "created": image.created,
        "disk": f"{image.disk} ({image.disk.stat().st_blocks * 512 >> 20} MB of {image.disk.stat().st_size >> 20})",
        "kernel": f"{image.kernel}\n{'':9}sha256 {image.sha256s['kernel']}",
        "initrd": f"{image.initrd}\n{'':9}sha256 {image.sha256s['initrd']}",
        "cmdline": image.default_cmdline,
    }
    return "\n".join(f"{name + ':':<9}{value}" for name, value in facts.items())


def run_delete(args: argparse.Namespace) -> ExitCode:
    """Delete one image."""
    from tdxstack.image.store import deletable, delete_image

    if args.dry_run:
        output.say(f"would delete {deletable(args.name)}")
        return ExitCode.DONE
    if not args.yes:
        raise UsageError(f"deleting {args.name} cannot be undone", hint=f"tdxctl image delete {args.name} --yes")
    output.say(f"deleted {delete_image(args.name)}")
    return ExitCode.DONE
