"""Where the files of a data set lie: its ref files, and its pictures in any usual layout."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from refer.catalog import DataSet
from refer.errors import DataFileError, MissingDataError, UnknownNameError


def ref_file(row: DataSet, data_root: Path, split_by: str) -> Path:
    """Path of `refs(<split_by>).p`, else of the `.json`; any splitBy whose file is there.

    Raises MissingDataError for a published splitBy (or a whole data set) that is not on disk, and
    UnknownNameError for any other; both list what there is.
    """
    folder = data_root / row.name
    path = folder / f"refs({split_by}).p"
    for candidate in (path, path.with_suffix(".json")):
        if candidate.is_file():
            return candidate
    if not folder.is_dir():
        raise MissingDataError(f"no folder {folder}; {row.cure}")
    found = split_bys(folder)
    listing = f"splitBy there: {', '.join(found) or 'none'}"
    if split_by in row.splits:
        raise MissingDataError(f"no ref file {path} ({listing}); {row.cure}")
    raise UnknownNameError(
        f"{row.name} has no splitBy {split_by!r}: there is no {path} ({listing}; "
        f"published: {', '.join(row.splits)})"
    )


def split_bys(folder: Path) -> list[str]:
    """Every splitBy whose ref file lies in a data set's folder, sorted."""
    files = [*folder.glob("refs(*).p"), *folder.glob("refs(*).json")]
    return sorted({file.stem[len("refs(") : -len(")")] for file in files})


class PictureFolders:
    """Finds pictures by name in the folders where the users of a data set keep them.

    With `image_root` only that folder and the usual layouts under it are tried, else the layouts
    under the data root. Opening costs one look for each folder and none for the pictures. Raises
    MissingDataError when `image_root` is given and is no folder.
    """

    def __init__(
        self, row: DataSet, data_root: Path, image_root: str | os.PathLike[str] | None
    ) -> None:
        root = data_root if image_root is None else Path(image_root)
        folders = [root / folder for folder in row.image_folders]
        if image_root is not None:
            folders.append(root)
            if not root.is_dir():
                raise MissingDataError(
                    f"image_root is {root}, no such folder; want the one with {row.image_source}"
                )
        self.tried = tuple(folders)
        self._existing = tuple(folder for folder in folders if folder.is_dir())
        self._row = row

    @property
    def main(self) -> Path:
        """The first folder that exists, or the one where the classic API wants the pictures."""
        return (self._existing or self.tried)[0]

    def find(self, image_id: int | str, file_name: str) -> Path:
        """Path of a picture that exists, under its own name or the one COCO 2014 or 2017 gave it.

        Raises MissingDataError, which lists the folders tried, and DataFileError for a name that
        leads out of them.
        """
        pure = PurePath(file_name)
        if pure.is_absolute() or ".." in pure.parts:
            raise DataFileError(
                f"{self._row.name}: image {image_id!r} has the file name {file_name!r}, which "
                "leads out of the picture folder; correct it in the data set's instances.json"
            )
        names = [file_name]
        if self._row.coco_pictures and isinstance(image_id, int):
            names += [f"COCO_train2014_{image_id:012d}.jpg", f"{image_id:012d}.jpg"]
        for folder in self._existing:
            for name in names:
                path = folder / name
                if path.is_file():
                    return path
        raise MissingDataError(
            f"no picture {file_name} (image {image_id!r}); tried {', '.join(map(str, self.tried))}."
            f" Put {self._row.image_source} into one of these, or give their folder as image_root"
        )
