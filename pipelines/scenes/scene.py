"""Built-in synthetic aerial scenes in DOTA's own format, for runs without DOTA.

A scene is a pure function of its seed and settings: same arguments, same bytes, in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from distill.dota import DOTA_CLASSES, Labels, format_labels
from pipelines.base.files import write_bytes, write_text
from pipelines.base.progress import progress
from pipelines.scenes.layout import lay_out

_SMALLEST_SIDE = 64
# A scene may by chance hold no object in sight; DOTA patches without objects are of no use to training.
_ATTEMPTS = 4


@dataclass(frozen=True)
class Scene:
    """One rendered scene.

    image: (H, W, 3) uint8 BGR. labels: oriented rectangles, first corner front-left then clockwise; difficulty 0.
    """

    image: np.ndarray
    labels: Labels


def render_scene(
    seed: int, *, size: tuple[int, int] = (1024, 1024), classes: Sequence[str] = DOTA_CLASSES, scale: float = 1.0
) -> Scene:
    """Render one scene.

    size: (width, height), px, at least 64 each. classes: names that may appear. scale: multiplies object sizes: the
    longer side of an object is 32 to 104 px at scale 1, at most 0.42 of the shorter image side. What would be narrower
    than 3.5 px is left out.

    Raises:
        ValueError: an unknown class, an image side below 64 or a scale that is not positive.
    """
    _check_arguments(size, classes, scale)
    rng = np.random.default_rng(seed)
    for _ in range(_ATTEMPTS):
        site = lay_out(rng, size, classes, scale)
        labels = site.labels()
        if len(labels) or not classes:
            break
    return Scene(site.render(), labels)


def write_scenes(
    folder: Path, count: int, *, seed: int, sizes: Sequence[tuple[int, int]], classes: Sequence[str], scale: float
) -> None:
    """Write scenes S0000 ... as <folder>/images/*.png and <folder>/labelTxt/*.txt.

    Arguments as `render_scene`'s; the scenes take their sizes in turn. A scene already there is kept if
    `<folder>/scenes.txt`, the list of what was written, confirms settings and contents; scenes of a longer earlier run
    are removed. Safe to kill and run again.

    Raises:
        ValueError: as `render_scene`.
    """
    for size in sizes:
        _check_arguments(size, classes, scale)
    folder = Path(folder)
    for part in ("images", "labelTxt"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    record = folder / "scenes.txt"
    settings = _settings_line(seed, sizes, classes, scale)
    known = _read_record(record, settings)
    names = [f"S{number:04d}" for number in range(count)]
    _remove_surplus(folder, record, names)
    write_text(record, _record_text(settings, known))
    with record.open("a", encoding="utf-8") as log, progress("scenes", count, "scenes") as advance:
        for number, name in enumerate(names):
            advance(1)
            image_path, label_path = _scene_paths(folder, name)
            if name in known and known[name] == _digests(image_path, label_path):
                continue
            size = sizes[number % len(sizes)]
            scene = render_scene(_scene_seed(seed, number), size=size, classes=classes, scale=scale)
            write_bytes(image_path, cv2.imencode(".png", scene.image)[1].tobytes())
            write_text(label_path, format_labels(scene.labels))
            known[name] = _digests(image_path, label_path)
            log.write(f"{name} {known[name]}\n")
            log.flush()
    # Rewritten in order, so that a resumed run leaves the same bytes as an uninterrupted one.
    write_text(record, _record_text(settings, {name: known[name] for name in names}))


def _check_arguments(size: tuple[int, int], classes: Sequence[str], scale: float) -> None:
    if min(size) < _SMALLEST_SIDE:
        raise ValueError(f"scene size {size[0]} x {size[1]}: each side needs at least {_SMALLEST_SIDE} px")
    if not scale > 0:
        raise ValueError(f"scene scale {scale}: must be above 0")
    unknown = [name for name in classes if name not in DOTA_CLASSES]
    if unknown:
        raise ValueError(f"no scenes for class {unknown[0]!r}; the built-in scenes know {', '.join(DOTA_CLASSES)}")


def _scene_seed(seed: int, number: int) -> int:
    """A seed of its own for every scene of a run; runs with neighbouring seeds share none."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0])


def _settings_line(seed: int, sizes: Sequence[tuple[int, int]], classes: Sequence[str], scale: float) -> str:
    """What scenes depend on, the drawing code included: a changed tree species must not pass for the old scene."""
    code = hashlib.sha256()
    for module in sorted(Path(__file__).parent.glob("*.py")):
        code.update(module.read_bytes())
    shapes = ",".join(f"{width}x{height}" for width, height in sizes)
    return f"seed {seed} size {shapes} scale {scale} classes {','.join(classes)} code {code.hexdigest()}"


def _scene_paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / "images" / f"{name}.png", folder / "labelTxt" / f"{name}.txt"


def _digests(*paths: Path) -> str:
    """The files' SHA-256 digests; a missing file has none."""
    return " ".join(hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "-" for path in paths)


def _read_record(record: Path, settings: str) -> dict[str, str]:
    """Name -> digests of the scenes written with these settings; a torn last line is passed over."""
    lines = record.read_text(encoding="utf-8").splitlines() if record.is_file() else []
    if not lines or lines[0] != settings:
        return {}
    return dict(line.split(" ", 1) for line in lines[1:] if " " in line)


def _record_text(settings: str, known: dict[str, str]) -> str:
    return "".join(f"{line}\n" for line in (settings, *(f"{name} {digests}" for name, digests in known.items())))


def _remove_surplus(folder: Path, record: Path, names: Sequence[str]) -> None:
    """Remove scenes that an earlier, longer run recorded; files of other origin stay."""
    lines = record.read_text(encoding="utf-8").splitlines()[1:] if record.is_file() else []
    for name in {line.split(" ", 1)[0] for line in lines} - set(names):
        for path in _scene_paths(folder, name):
            path.unlink(missing_ok=True)
