"""The folder that frames are extracted to: one run at a time, and no source's frames replaced by those of another.

It may be shared by several outputs, and by data sets whose names differ. Beside the frames of a source lies a note of
the file that they are of; another file of that name, or other settings, are refused.
"""

import json
import os
import posixpath
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jigsaw.errors import JigsawError, OptionError
from jigsaw.files import alone, atomic_write
from jigsaw.reader import json_line

DRAFT = ".draft-"
"""What the names of folders of half-made frames begin with; those that are left are removed."""

_LOCK, _NOTE = ".frames.lock", ".source.json"


@dataclass(frozen=True)
class Frames:
    """Where the frames of the rows go.

    Attributes:
        folder: full path.
        place: path of a source -> POSIX path, below ``folder``, of the folder that its frames go into.
        settings: what decides the frames besides their source; JSON values.
    """

    folder: Path
    place: Callable[[str], str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def held(self, stamps: Mapping[str, Sequence[Any]]) -> Iterator[None]:
        """Make the folder and hold it alone.

        Args:
            stamps: of each source that will be looked at, see :func:`jigsaw.prepare.pipeline.stamp_of`.

        Raises:
            JigsawError: if it cannot be used, another run holds it, or it has other frames in the place of a source's.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(
                "extract_frames", self.folder, f"cannot be used ({error.strerror}); choose another folder"
            ) from error
        busy = f"{self.folder}: another run extracts frames there; wait for it or choose another folder"
        with alone(self.folder / _LOCK, busy):
            sources: dict[str, str] = {}
            for source, stamp in stamps.items():
                if stamp[0] is None:
                    continue
                place = posixpath.normpath(self.place(source))
                if (other := sources.setdefault(place, source)) != source:
                    raise JigsawError(
                        f"{other} and {source}: their frames would go into one folder ({place}); rename one"
                    )
                self._is_claimed(self.folder / place, source, stamp)
            yield
            # What killed workers left, once nothing is at work: a killed run's workers may outlive it for a while, and
            # must not take a draft from under this run's.
            for half in self.folder.glob(f"{DRAFT}*"):
                shutil.rmtree(half, ignore_errors=True)
            for folder in (self.folder / place for place in sources):
                for half in folder.glob(".*.tmp") if self._is_inside(folder) else ():
                    half.unlink(missing_ok=True)

    def claim(self, source: str, stamp: Sequence[Any]) -> Path:
        """The folder for a source's frames, made if missing, with its note.

        Raises:
            JigsawError: if it has other frames, lies outside ``folder`` by a link, or cannot be written.
        """
        folder = self.folder / self.place(source)
        if not self._is_inside(folder):
            raise JigsawError(
                f"{folder}: leads out of the folder for frames, {self.folder}; remove the link or choose another folder"
            )
        if not self._is_claimed(folder, source, stamp):
            with atomic_write(folder / _NOTE) as file:
                file.write(json_line(self._note(stamp)))
        return folder

    def _is_inside(self, folder: Path) -> bool:
        return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(self.folder))

    def _note(self, stamp: Sequence[Any]) -> dict[str, Any]:
        return {**self.settings, "source": list(stamp)}

    def _is_claimed(self, folder: Path, source: str, stamp: Sequence[Any]) -> bool:
        """Whether the note is there; raise JigsawError if it, or files without one, are of something else."""
        try:
            theirs = json.loads((folder / _NOTE).read_bytes())
        except FileNotFoundError:
            if folder.is_dir() and any(
                not entry.name.startswith(".") and entry.is_file() for entry in os.scandir(folder)
            ):
                raise JigsawError(
                    f"{folder}: holds files that are no frames of this command; choose another folder for frames"
                ) from None
            return False
        except OSError as error:
            raise JigsawError(
                f"{folder}: cannot be used ({error.strerror}); choose another folder for frames"
            ) from error
        except ValueError as error:
            raise JigsawError(f"{folder / _NOTE}: is damaged; choose another folder for frames") from error
        ours = self._note(stamp)
        if theirs == ours:
            return True
        for name, value in self.settings.items():
            if isinstance(theirs, dict) and theirs.get(name) != value:
                raise JigsawError(
                    f"{folder}: has frames of {name} {theirs.get(name)}, not {value}; choose another folder for frames"
                )
        raise JigsawError(
            f"{folder}: has frames of another {source}, of other size or time of change; "
            "choose another folder for frames, or delete them"
        )
