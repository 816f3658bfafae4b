"""A .deb of an installed tree: deb(5), deb-control(5). The same tree gives the same file, byte for byte."""

from __future__ import annotations

from tdxstack.deploy.packaging.recipe import Format, Recipe

MAINTAINER = "tdxstack <tdxstack@localhost>"
ARCHITECTURES = {"x86_64": "amd64", "any": "all"}


def file_name(recipe: Recipe) -> str:
    return f"{recipe.package}_{recipe.version}-{recipe.release}_{ARCHITECTURES[recipe.architecture]}.deb"


def control(recipe: Recipe) -> str:
    """The package's fields."""
    packaging = recipe.packaging(Format.DEB)
    lines = [
        f"Package: {recipe.package}",
        f"Version: {recipe.version}-{recipe.release}",
        f"Architecture: {ARCHITECTURES[recipe.architecture]}",
        f"Maintainer: {MAINTAINER}",
        "Section: misc",
        "Priority: optional",
    ]
    fields = (
        ("Depends", packaging.depends),
        ("Provides", packaging.provides),
        ("Conflicts", packaging.conflicts),
        ("Replaces", packaging.replaces),
    )
    lines += [f"{name}: {', '.join(values)}" for name, values in fields if values]
    lines += [f"Homepage: {recipe.homepage}", f"Description: {recipe.title}", f" License: {recipe.license}."]
    return "\n".join(lines) + "\n"


def files(recipe: Recipe) -> dict[str, str]:
    """What packaging reads, by path below the build's directory."""
    return {"deb/control": control(recipe)}


def commands(recipe: Recipe, build: str) -> list[list[str]]:
    """What makes the package in the clean root, where the build's directory is at ``build``."""
    tree = f"{build}/deb/tree"
    return [
        ["rm", "-rf", tree],
        ["cp", "--archive", f"{build}/tree", tree],
        ["install", "-D", "--mode=0644", f"{build}/deb/control", f"{tree}/DEBIAN/control"],
        [
            "dpkg-deb",
            "--root-owner-group",
            "-Zxz",
            "--threads-max=1",
            "--build",
            tree,
            f"{build}/packages/{file_name(recipe)}",
        ],
    ]
