"""Pictures of graphs."""

from detc.compiler.draw.difference import diff_to_html, diff_to_svg
from detc.compiler.draw.html import to_html
from detc.compiler.draw.svg import to_svg

__all__ = ["diff_to_html", "diff_to_svg", "to_html", "to_svg"]
