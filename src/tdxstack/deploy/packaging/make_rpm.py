"""An .rpm of an installed tree: a spec file that copies it, with what makes rpmbuild give the same file again."""

from __future__ import annotations

from tdxstack.deploy.packaging.recipe import Format, Recipe

ARCHITECTURES = {"x86_64": "x86_64", "any": "noarch"}


def file_name(recipe: Recipe) -> str:
    return f"{recipe.package}-{recipe.version}-{recipe.release}.{ARCHITECTURES[recipe.architecture]}.rpm"


def spec(recipe: Recipe) -> str:
    """The spec file. The tree is at ``%{_tree}``, its list of files at ``%{_list}``."""
    packaging = recipe.packaging(Format.RPM)
    lines = ["%global debug_package %{nil}", "%global __os_install_post %{nil}", "%define _build_id_links none"]
    lines += [f"Name: {recipe.package}", f"Version: {recipe.version}", f"Release: {recipe.release}"]
    lines += [f"Summary: {recipe.title}", f"License: {recipe.license}", f"URL: {recipe.homepage}"]
    lines.append(f"BuildArch: {ARCHITECTURES[recipe.architecture]}")
    if recipe.portable:
        lines.append("AutoReqProv: no")
    fields = (
        ("Requires", packaging.depends),
        ("Provides", packaging.provides),
        ("Conflicts", packaging.conflicts),
        ("Obsoletes", packaging.replaces),
    )
    lines += [f"{name}: {value}" for name, values in fields for value in values]
    lines += ["", "%description", f"{recipe.title}.", "", "%install", "mkdir -p %{buildroot}"]
    lines += ["cp --archive %{_tree}/. %{buildroot}/", "", "%files -f %{_list}"]
    return "\n".join(lines) + "\n"


def files(recipe: Recipe) -> dict[str, str]:
    """What packaging reads, by path below the build's directory."""
    return {"rpm/package.spec": spec(recipe)}


def commands(recipe: Recipe, build: str) -> list[list[str]]:
    """What makes the package in the clean root, where the build's directory is at ``build``."""
    defines = {
        "_topdir": f"{build}/rpm/top",
        "_rpmdir": f"{build}/packages",
        "_rpmfilename": "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm",
        "_tree": f"{build}/tree",
        "_list": f"{build}/rpm/files",
        "_buildhost": "tdxstack",
        "_dbpath": f"{build}/rpm/db",
        "_binary_payload": "w6.xzdio",
        "use_source_date_epoch_as_buildtime": "1",
        "clamp_mtime_to_source_date_epoch": "1",
        "source_date_epoch_from_changelog": "0",
    }
    words = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
    listing = f"cd {build}/tree && find . \\( -type f -o -type l \\) -printf '\"/%P\"\\n' | sort >{build}/rpm/files"
    return [
        ["sh", "-euc", listing],
        ["rpmbuild", "-bb", "--target", ARCHITECTURES[recipe.architecture], *words, f"{build}/rpm/package.spec"],
    ]
