"""Pictures of graphs."""

from detc.compiler.draw.html import to_html
from detc.compiler.draw.svg import to_svg

__all__ = ["to_html", "to_svg"]
