"""How wide text is, without a font at hand, and where it breaks into lines."""

from __future__ import annotations

# Thousandths of the size, of Helvetica as its font metrics have them; Arial and Liberation Sans have the same.
_WIDTHS = {
    letter: width
    for width, letters in {
        222: "ijl'",
        260: "|",
        278: " !,./:;I[]\\ft",
        333: "()-r`",
        334: "{}",
        355: '"',
        389: "*",
        469: "^",
        500: "Jckvxyzs",
        584: "+<=>~\u00d7",
        611: "FTZ",
        667: "ABEKPSVXY&",
        722: "CDHNRUw",
        778: "GOQ",
        833: "Mm",
        889: "%",
        944: "W",
        1000: "\u2192\u2026\u2014",
        1015: "@",
    }.items()
    for letter in letters
}
# A letter that is not listed, digits among them.
_OTHER = 556
# A bold letter is wider by no more than this.
_BOLD = 56


def width(text: str, size: float, bold: bool = False) -> float:
    """The width of a line of text in pixels; of letters beyond Latin an estimate."""
    return sum(_WIDTHS.get(letter, _OTHER) + (_BOLD if bold else 0) for letter in text) * size / 1000


def wrapped(text: str, size: float, room: float) -> list[str]:
    """Text in lines no wider than `room` pixels, but for words that are wider alone."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}", size) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
