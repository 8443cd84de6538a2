"""Reading annotations in Pascal VOC's XML form."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from detc.dsl.catalogue.data import ANNOTATION_UNREADABLE, DATA_MISSING, PATH_OUTSIDE
from detc.runtime.data.images import SUFFIXES
from detc.runtime.data.raw import Fault, Findings, RawImage, RawObject, RawSource, fail, must_be_there

LARGEST_FILE = 32 << 20


def read_voc(folder: Path, split: str, findings: Findings | None = None) -> RawSource:
    """The images and objects of one list of a folder in Pascal VOC's layout.

    VOC counts pixels from 1 and means a box's last pixel to belong to it: the corners become xmin - 1, ymin - 1, xmax,
    ymax. Difficult objects are marked as ignored. All faulty files are reported at once, or kept in `findings`, where
    it keeps going, and their images left out.

    Raises:
        DiagnosticError: data-missing, annotation-unreadable, path-outside.
    """
    listing, place = folder / "ImageSets" / "Main" / f"{split}.txt", folder / "JPEGImages"
    must_be_there(files=[listing], folders=[place])
    files = {path.stem: path for path in sorted(place.iterdir()) if path.suffix.lower() in SUFFIXES}
    try:
        names = [line.split()[0] for line in listing.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        fail(ANNOTATION_UNREADABLE, listing, f"not text ({error})")
    findings = findings or Findings()
    images = []
    for name in names:
        try:
            images.append(_image(folder, name, files))
        except Fault as fault:
            findings.listed.add(files.get(name, place / name))
            findings.add(fault.kind, f"{listing}: {fault.what}", fault.where)
    findings.settle()
    return RawSource(str(listing), images, None, folder=place)


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Refuses document types before any entity in them can be expanded."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ElementTree.ParseError("it declares a document type")


def _image(folder: Path, name: str, files: dict[str, Path]) -> RawImage:
    if Path(name).name != name or "\0" in name:
        raise Fault(PATH_OUTSIDE, "images named outside JPEGImages", repr(name[:80]))
    path = folder / "Annotations" / f"{name}.xml"
    root = _parse(path)
    objects = [_object(item, path) for item in root.findall("object")]
    width, height = _number(root.find("size/width")), _number(root.find("size/height"))
    stated = 1 <= width < math.inf and 1 <= height < math.inf
    image = files.get(name, folder / "JPEGImages" / f"{name}.jpg")
    return RawImage(image, (int(width), int(height)) if stated else None, objects)


def _parse(path: Path) -> ElementTree.Element:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise Fault(ANNOTATION_UNREADABLE, "annotation files larger than 32 MiB", path.name)
        parser = ElementTree.XMLParser(target=_WithoutDoctype())
        return ElementTree.fromstring(path.read_bytes(), parser)
    except FileNotFoundError:
        raise Fault(DATA_MISSING, "annotation files missing", str(path)) from None
    except OSError as error:
        what = f"annotation files that cannot be read ({error.strerror})"
        raise Fault(ANNOTATION_UNREADABLE, what, path.name) from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        what = "annotation files that are not XML that can be read"
        raise Fault(ANNOTATION_UNREADABLE, what, f"{path.name} ({error})") from None


def _object(item: ElementTree.Element, path: Path) -> RawObject:
    name = item.findtext("name", "").strip()
    if not name:
        raise Fault(ANNOTATION_UNREADABLE, "annotation files with an object without a name", path.name)
    xmin, ymin, xmax, ymax = (_number(item.find(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    box = (xmin - 1, ymin - 1, xmax, ymax)
    if xmax <= xmin or ymax <= ymin:
        box = (xmin, ymin, xmax, ymax)
    return RawObject(name, box, None, item.findtext("difficult", "0").strip() == "1")


def _number(element: ElementTree.Element | None) -> float:
    """The number an element holds; nan where there is none."""
    try:
        return float(element.text) if element is not None and element.text else math.nan
    except ValueError:
        return math.nan
