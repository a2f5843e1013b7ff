"""One line of the library broken at a time: the tests named beside it must fail.

    python -m pytest tests/stress/mutations.py            about 15 minutes; -k names some

Its name keeps it out of `make test`. A mutation that survives is a rule that no test holds: write the test. One whose
line is gone has to follow the code.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import REPOSITORY, SHARED


class Mutation(NamedTuple):
    """`old`, which stands once in the files of a pattern, becomes `new`; pytest's `tests` pass before and fail then."""

    files: str
    old: str
    new: str
    tests: str


MUTATIONS: dict[str, Mutation] = {
    # Priors and region.
    "the threshold is mean minus deviation": Mutation(
        "cache/region.py",
        "(candidates.mean() + deviation)",
        "(candidates.mean() - deviation)",
        "tests/cache/test_region.py",
    ),
    "the first level has no region": Mutation(
        "cache/region.py",
        "for level in levels:\n            level.mark",
        "for level in levels[1:]:\n            level.mark",
        "tests/cache/test_region.py",
    ),
    "a later object lowers the weight of an earlier one": Mutation(
        "cache/region.py",
        "np.maximum(window, iou, out=window)",
        "np.copyto(window, iou, where=iou > 0)",
        "tests/cache/test_region.py",
    ),
    "anchors lie on their side": Mutation(
        "cache/grid.py", "[widths, heights], axis=1", "[heights, widths], axis=1", "tests/cache/test_grid.py"
    ),
    "a level's first prior belongs to the level before": Mutation(
        "cache/grid.py",
        'side="right").astype',
        'side="left").astype',
        "tests/cache/test_grid.py",
    ),
    "a region's weight of exactly a half is no main region": Mutation(
        "distill/losses.py",
        "is_main = targets.weight >= MAIN_WEIGHT",
        "is_main = targets.weight > MAIN_WEIGHT",
        "tests/distill/test_gfl_live_equals_cached.py",
    ),
    "axis-aligned boxes keep their width": Mutation(
        "distill/boxes.py", "swapped = flat | steep", "swapped = steep", "tests/distill/test_boxes.py"
    ),
    # Views.
    "flips change their order": Mutation(
        "cache/view.py",
        '"none", "horizontal", "vertical", "diagonal"',
        '"none", "vertical", "horizontal", "diagonal"',
        "tests/cache/test_plan.py",
    ),
    "flipped boxes move to the other side": Mutation(
        "distill/transforms.py",
        "along_x = -self.flip_offset * (direction in",
        "along_x = self.flip_offset * (direction in",
        "tests/distill/test_boxes.py",
    ),
    "the image that the teacher saw is not compared": Mutation(
        "distill/transforms.py",
        "if self.check_image:",
        "if False:",
        "tests/pipelines/test_whole_path.py -k changed_image",
    ),
    # Losses.
    "KL without its square of the temperature": Mutation(
        "distill/losses.py",
        "divergence.mean(dim=0) * (temperature * temperature)",
        "divergence.mean(dim=0) * temperature",
        "tests/distill/test_losses.py",
    ),
    "the teacher learns": Mutation(
        "distill/losses.py",
        "F.log_softmax(teacher_logits.detach().movedim",
        "F.log_softmax(teacher_logits.movedim",
        "tests/distill/test_losses.py",
    ),
    "images do not share a level's rows": Mutation(
        "distill/losses.py", "(counts[group] * share)", "counts[group]", "tests/distill/test_losses.py"
    ),
    "ignored priors count as background": Mutation(
        "distill/heads.py",
        "label_weights[image, prior_index[~is_positive]] = 0",
        "label_weights[image, prior_index[~is_positive]] = 1",
        "tests/distill/test_live_equals_cached.py -k losses_and_gradients",
    ),
    "the plan takes ignored priors for positive ones": Mutation(
        "distill/assign.py",
        "np.maximum(assigned[kept] - 1, -1)",
        "np.maximum(assigned[kept] - 1, 0)",
        "tests/distill/test_assign.py",
    ),
    "the audit forgives ten times as much": Mutation(
        "distill/audit.py",
        "if not error[field] <= bound and",
        "if not error[field] <= 10 * bound and",
        "tests/distill/test_audit.py",
    ),
    # Evaluation.
    "AP of ten points": Mutation("distill/devkit.py", "/ len(RECALL_POINTS))", "/ 10)", "tests/distill/test_devkit.py"),
    "NMS keeps what overlaps": Mutation(
        "distill/merging.py",
        "polygon_iou(polygons[i], polygons[j]) > threshold",
        "polygon_iou(polygons[i], polygons[j]) <= threshold",
        "tests/distill/test_devkit.py",
    ),
    "a detection on a difficult object is wrong": Mutation(
        "distill/devkit.py",
        "np.cumsum(~true_positive & ~ignored)",
        "np.cumsum(~true_positive)",
        "tests/distill/test_devkit.py",
    ),
    "an object is found twice": Mutation(
        "distill/devkit.py",
        "true_positive[taking[np.unique(best[taking], return_index=True)[1]]] = True",
        "true_positive[taking] = True",
        "tests/distill/test_devkit.py",
    ),
    # Codecs and the store.
    "coefficients are cut off, not rounded": Mutation(
        "cache/cells.py", "np.rint(", "np.floor(", "tests/cache/test_cells.py"
    ),
    "a coefficient that its columns do not hold wraps around": Mutation(
        "cache/cells.py", "if not fits.all():", "if False:", "tests/cache/test_cells.py"
    ),
    "a narrow code may be what was never written": Mutation(
        "cache/cells.py", "WIDE_STEPS = 2 * LARGEST_CODE + 1", "WIDE_STEPS = 256", "tests/cache/test_cells.py"
    ),
    "logits of a step of one": Mutation(
        "cache/cells.py", "(np.float32(self.step) * self.basis)", "self.basis", "tests/cache/test_cells.py"
    ),
    "what is not stored is the mean": Mutation(
        "cache/cells.py",
        " + self.directions[:, ~known] @ self._predictor.weights(known)",
        "",
        "tests/cache/test_cells.py",
    ),
    "the mean of the classes is as precise as the rest": Mutation(
        "cache/cells.py", "CLASS_MEAN_SCALE = 1 / 4", "CLASS_MEAN_SCALE = 1", "tests/cache/test_cells.py"
    ),
    "the step is not in the codec's digest": Mutation(
        "cache/cells.py",
        "repr((self.step, self.wide, self.basis.shape))",
        "repr((self.wide, self.basis.shape))",
        "tests/cache/test_cells.py",
    ),
    "another basis decodes": Mutation(
        "cache/*.py", 'if codec.digest != section["digest"]:', "if False:", "tests/cache/test_verify.py"
    ),
    "codes that were never written are codes of 0": Mutation(
        "cache/*.py", "POISON_CODE = -128", "POISON_CODE = 0", "tests/cache/test_golden_stores.py"
    ),
    "a record may have fewer priors than planned": Mutation(
        "cache/reader.py",
        "is_whole = len(record) == self.plan.priors_per_view[found.index]",
        "is_whole = True",
        "tests/cache/test_hostile.py",
    ),
    "draws may name views of other patches": Mutation(
        "cache/*.py",
        "if (plan.view_patch[plan.draw_view] != ",
        "if 0 and (plan.view_patch[plan.draw_view] != ",
        "tests/cache/test_hostile.py",
    ),
    "which view a draw makes is no part of a plan": Mutation(
        "cache/plan.py", '"draw_digest": array_digest(self.draw_view),', "", "tests/cache/test_plan.py"
    ),
    "rows begin one late": Mutation(
        "cache/plan.py",
        "rows_before - rows_before[first_of_block]",
        "rows_before - rows_before[first_of_block] + 1",
        "tests/cache/test_plan.py",
    ),
    "the smallest patches go first": Mutation(
        "cache/plan.py", "np.argsort(-priors", "np.argsort(priors", "tests/cache/test_plan.py"
    ),
    "a commit does not say how long its objects are": Mutation(
        "cache/*.py", 'digest.update(len(data).to_bytes(8, "little"))', "pass", "tests/cache/test_golden_stores.py"
    ),
    "rows that were never written are rows of prior 0": Mutation(
        "cache/*.py", "POISON_INDEX = 0xFFFFFFFF", "POISON_INDEX = 0", "tests/cache/test_golden_stores.py"
    ),
    "nobody is locked out": Mutation(
        "cache/*.py",
        "fcntl.fcntl(file, fcntl.F_OFD_SETLK, _request(kind, start, length))",
        "pass",
        "tests/cache/test_store.py",
    ),
    "a resumed capture begins anew": Mutation(
        "cache/writer.py",
        "return [block for block in self.store.missing_blocks() if block in blocks]",
        "return list(blocks)",
        "tests/cache/test_store.py",
    ),
    "links are followed": Mutation(
        "cache/storage.py", "if stat.S_ISLNK(status.st_mode):", "if False:", "tests/cache/test_hostile.py"
    ),
    "an index may point outside its shard": Mutation(
        "cache/*.py", "if offset + length > end:", "if False:", "tests/cache/test_hostile.py"
    ),
    "weights of 0 are weights": Mutation(
        "cache/*.py", " or (weight == 0).all(axis=1).any()", "", "tests/cache/test_verify.py"
    ),
    "metadata may change": Mutation(
        "cache/*.py",
        "if stored_document_digest(location, key) != stored[32 * position",
        "if False and stored[32 * position",
        "tests/cache/test_verify.py",
    ),
    # Captures.
    "a block that its codec does not hold is stored": Mutation(
        "pipelines/capture/*.py",
        "measured > BLOCK_ALLOWANCE * self.kl",
        "measured > 1e9 * self.kl",
        "tests/pipelines/test_whole_path.py -k does_not_hold",
    ),
    "a cache that costs more than it saves is recommended": Mutation(
        "pipelines/capture/*.py",
        "return self.epochs_planned > self.epochs_to_pay",
        "return self.epochs_planned < self.epochs_to_pay",
        "tests/pipelines/test_whole_path.py -k probe_predicts",
    ),
    "the stored assignment is not compared": Mutation(
        "pipelines/capture/*.py",
        "if not np.array_equal(stored, np.stack(answer.assigned[place])):",
        "if False:",
        "tests/pipelines/test_verify_inspect.py -k never_said",
    ),
    "regions are kept beyond the limit": Mutation(
        "pipelines/capture/*.py",
        "if self.size + len(content) <= self._limit:",
        "if True:",
        "tests/pipelines/test_kept_regions.py",
    ),
    # Data and files.
    "objects cut in half are kept": Mutation(
        "pipelines/prepare/windows.py",
        "keep_ratio: float = 0.7\n",
        "keep_ratio: float = 0.5\n",
        "tests/pipelines/test_patches.py",
    ),
    "a full disk has room": Mutation(
        "pipelines/base/files.py", "if needed > free:", "if needed < free:", "tests/pipelines/test_files.py"
    ),
    "a failed write replaces the file": Mutation(
        "pipelines/base/files.py",
        "    yield partial\n    os.replace(partial, path)",
        "    try:\n        yield partial\n    finally:\n        os.replace(partial, path)",
        "tests/pipelines/test_files.py",
    ),
    "markup of a foreign text is markup": Mutation(
        "pipelines/reporting/page.py", "autoescape=True", "autoescape=False", "tests/pipelines/test_hostile_report.py"
    ),
    "the disk is full and a capture starts": Mutation(
        "pipelines/capture/filling.py",
        "require_room_for(path, probe)",
        "pass",
        "tests/pipelines/test_whole_path.py -k without_room",
    ),
    "an interval of 90 %": Mutation(
        "pipelines/studies/statistics.py",
        "(1 + CONFIDENCE) / 2",
        "CONFIDENCE",
        "tests/pipelines/test_compare.py -k by_hand",
    ),
    "labels may change under a cache": Mutation(
        "pipelines/training/match.py",
        "if stored[patch_id].tobytes() != found:",
        "if False:",
        "tests/pipelines/test_whole_path.py -k changed_label",
    ),
    "a student of another assigner is let in": Mutation(
        "pipelines/training/match.py",
        "if wants_assignment is not None:",
        "if False:",
        "tests/pipelines/test_whole_path.py -k not_stored",
    ),
}


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files, which may be broken."""
    copy = tmp_path_factory.mktemp("mutated") / "main"
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for file in listed.stdout.splitlines():
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / file, copy / file)
    if SHARED.is_dir():
        (copy.parent / "shared").symlink_to(SHARED)
    return copy


def run(tree: Path, tests: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests.split()]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True)


@contextmanager
def mutated(tree: Path, mutation: Mutation) -> Iterator[None]:
    """The tree with the mutation; as it was afterwards."""
    found = [file for file in tree.glob(mutation.files) for _ in range(file.read_text().count(mutation.old))]
    assert len(found) == 1, f"stands in {[file.name for file in found]}: {mutation.old}"
    # With its time: it tells Python whether what it has compiled still holds.
    before = found[0].rename(found[0].with_suffix(".before"))
    found[0].write_text(before.read_text().replace(mutation.old, mutation.new))
    try:
        yield
    finally:
        before.replace(found[0])


@pytest.mark.parametrize("tests", sorted({mutation.tests for mutation in MUTATIONS.values()}))
def test_unbroken_they_pass(tree: Path, tests: str) -> None:
    done = run(tree, tests)
    assert done.returncode == pytest.ExitCode.OK, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_noticed(tree: Path, name: str) -> None:
    with mutated(tree, MUTATIONS[name]):
        done = run(tree, MUTATIONS[name].tests)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout[-4000:] + done.stderr[-4000:]
