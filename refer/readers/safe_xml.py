"""XML annotation files, read without DTDs or entities: neither can a file make the parser expand
itself without end (a "billion laughs"), nor make it open other files or addresses."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from refer.errors import DataFileError
from refer.files import check_file, read_file

MAX_BYTES = 16 * 2**20  # the largest real annotation file is a few kilobytes


class _Refused(Exception):
    """The file declares a document type or an entity."""


def parse_xml(path: Path) -> Element:
    """The root element of an XML file.

    Raises MissingDataError when there is no such file; DataFileError, naming file and place, when
    it cannot be read, is no XML, declares a document type or an entity, or is larger than
    `MAX_BYTES`.
    """
    missing = f"no annotation file {path}"
    size = check_file(path, missing)
    if size > MAX_BYTES:
        raise DataFileError(f"{path} has {size} bytes; an annotation file has {MAX_BYTES} most")
    content = read_file(path, missing)
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    # Without a document type there are no entities but XML's own five; the others are a second
    # line of defence.
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    parser.UnparsedEntityDeclHandler = _refuse
    try:
        parser.Parse(content, True)
        return builder.close()
    except _Refused as error:
        raise DataFileError(
            f"{path}, line {parser.CurrentLineNumber}: refused, it declares a document type or an "
            "entity; annotations need none, so the file is not what it should be"
        ) from error
    except (expat.ExpatError, ValueError, LookupError, AssertionError) as error:
        raise DataFileError(f"{path}: no XML ({error}); fetch it again") from error


def _refuse(*arguments: object) -> NoReturn:
    raise _Refused
