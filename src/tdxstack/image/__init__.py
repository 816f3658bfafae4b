"""Guest images: recipes as data, built by mkosi in a tools tree of its own, and the firmware that boots them."""

from tdxstack.image.builder import build_image
from tdxstack.image.options import BootLayout, BuildOptions
from tdxstack.image.store import Image, find_image, list_images

__all__ = ["BootLayout", "BuildOptions", "Image", "build_image", "find_image", "list_images"]
