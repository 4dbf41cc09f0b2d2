"""An audit of the data of a config: what it finds, and the page, the table and the file that it writes."""

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxtl import config as config_lib
from jaxtl import data
from jaxtl.audit import findings, quality, wrong_labels
from jaxtl.audit.duplicates import find_pairs
from jaxtl.audit.findings import Audit, Audited, Finding
from jaxtl.audit.looks import measure_all
from jaxtl.data.corrections import in_short, in_words, read_rows
from jaxtl.data.dataset import concatenate
from jaxtl.errors import UserError, writing
from jaxtl.experiment import options
from jaxtl.experiment import workdir as files
from jaxtl.experiment.audit_page import audit_page
from jaxtl.experiment.model import attempt, make_model, make_variables, open_both
from jaxtl.experiment.probing import group_outputs
from jaxtl.experiment.splits import open_splits, usable
from jaxtl.experiment.steps import dummy_batch
from jaxtl.parallel.fetch import one_behind
from jaxtl.report.page import is_page

TABLE, PAGE, FACTS = "audit.csv", "audit.html", "audit.json"


def audit_source(config: ConfigDict, workdir: Path) -> Audit:
    """Audits the data of a config, prints what it found, and writes audit.html, audit.csv and audit.json.

    Raises:
      UserError: data or weights cannot be opened, or the workdir holds a table with actions of a person.
    """
    config_lib.check(config)
    made = files.open_workdir(workdir, config.data.source)
    try:
        _check_workdir(workdir)
        audit = _audit(config)
    except UserError:
        files.discard(workdir, made)
        raise
    texts = {
        TABLE: findings.to_csv(audit.findings, audit.audited, audit.changes),
        FACTS: files.to_text(to_json(audit)),
        PAGE: audit_page(audit),
    }
    for name, text in texts.items():
        with writing(workdir / name):
            # Names of files need not be UTF-8; the table has to find them again.
            errors = "surrogateescape" if name == TABLE else "backslashreplace"
            (workdir / name).write_bytes(text.encode("utf-8", errors))
    print("\n".join([*lines_of(audit), *(str(workdir / name) for name in (PAGE, TABLE))]))
    return audit


def _check_workdir(workdir: Path) -> None:
    """Raises a UserError where files of somebody else, or the work of a person, would be written over."""
    files.refuse_run(workdir, "audit", "")
    if (workdir / PAGE).exists() and not is_page(workdir / PAGE):
        raise UserError(f"--workdir={workdir} holds an {PAGE} that no audit wrote: give another folder.")
    if (workdir / TABLE).exists():
        done = read_rows(workdir / TABLE)
        if done:
            raise UserError(
                f"{workdir / TABLE} has {len(done)} actions, which another audit there would lose: give another "
                f"--workdir, and to have them count --config.data.exclude={workdir / TABLE} "
                f"--config.data.relabel={workdir / TABLE}"
            )


def _audit(config: ConfigDict) -> Audit:
    opened, source = (None, None)
    if config.model.weights:
        try:
            opened, source = open_both(config)
        except UserError as error:
            advice = 'To audit the images alone, without features: --config.model.weights=""'
            raise UserError.join([error], advice) from error
    else:
        source = data.open_source(config.data.source, data_dir=config.data.data_dir)
    # Broken images are what it is to find.
    source = usable(_with(config, skip_broken=False), source)
    audited, notes = _open(config, source)
    judges = opened is not None and not audited.images.several
    if judges and not wrong_labels.is_installed():
        print(note := f"wrong labels are not looked for, since cleanlab is not installed: {wrong_labels.INSTALL}")
        notes.append(note)
        judges = False
    print(f"looks at {len(audited.images):,} images of {config.data.source}", flush=True)
    looks, broken = measure_all(audited.images, workers=config.data.workers)
    found = [Finding(i, "unreadable", line, findings.EXCLUDE) for i, line in broken.items()]
    poor = quality.find_poor(looks)
    blank = {i for i, problem, _ in poor if problem == quality.BLANK}
    found += [Finding(i, problem, detail, findings.EXCLUDE * (i in blank)) for i, problem, detail in poor]
    features, model = None, ""
    if opened is not None and looks:
        good = np.array(sorted(looks))
        model, rows = _features(config, opened, audited.images.take(good))
        features = np.zeros((len(audited.images), rows.shape[1]), np.float32)
        features[good] = rows
        if judges:
            # An image without anything on it is of no class.
            found += _wrong_labels(features, np.array([i for i in good if i not in blank]), audited, notes)
    found += findings.of_pairs(find_pairs(looks, features), audited)
    train = audited.images.take(np.flatnonzero(audited.sides == "train"))
    counted = train if len(train) else audited.images
    few = quality.few_images(counted.class_counts(), counted.classes)
    changes = source.corrections.changes(source.splits)
    notes += in_short(changes)
    return Audit(config.data.source, model, audited, findings.in_order(found), few, changes, notes)


def _with(config: ConfigDict, **keys: Any) -> ConfigDict:
    copy = config.copy_and_resolve_references()
    copy.data.update(keys)
    return copy


def _open(config: ConfigDict, source: data.Source) -> tuple[Audited, list[str]]:
    """Returns all images of the source, and for which split a run would take each."""
    splits = {name: source.corrections.apply(split) for name, split in source.splits.items()}
    images = concatenate([split for split in splits.values() if len(split)])
    notes = [*source.notes, *source.corrections.notes]
    problems: list[UserError] = []
    chosen = attempt(lambda: open_splits(config, source), problems)
    if chosen is None:
        notes.append(f"the splits are those of the source, since a run could not begin: {problems[0]}")
        sides = [name for name, split in splits.items() for _ in range(len(split))]
    else:
        parts = {"train": chosen.train, "val": chosen.val, "test": chosen.test}
        side = {name: title for title, part in parts.items() if part is not None for name in part.names}
        sides = [side.get(name, findings.UNUSED) for name in images.names]
        if findings.UNUSED in sides:
            notes.append(f"{sides.count(findings.UNUSED):,} images are in no split of a run: they are marked as unused")
    labels = [in_words(label, images.classes) for label in images.labels]
    return Audited(images, np.array(sides), labels), notes


def _features(config: ConfigDict, opened: Any, images: data.Dataset) -> tuple[str, np.ndarray]:
    """Returns the name of the model and what its head reads of each image, float32 [N, D]."""
    model = make_model(config, opened, ())
    variables, _ = make_variables(config, opened, model, head=config.model.head)
    names = [name for name, _ in model.module.groups() if name != "head"]
    forward = functools.partial(group_outputs, model=model, names=names, chosen=names[-1:])
    partitioner = options.partitioner(config, "jit")
    size = options.eval_batch_size(config)
    on_devices = partitioner.shard_state(variables)
    dummy = partitioner.shard_batch(dummy_batch(model.pixels.size, size))["image"]
    compiled = partitioner.compile(forward, on_devices, dummy)
    print(f"takes their features by {model.name}", flush=True)
    batches = options.evaluation_batches(config, model.pixels)(images)
    found = one_behind(compiled(on_devices, partitioner.shard_batch(batch)["image"]) for batch in batches)
    rows = np.concatenate([np.asarray(outputs[names[-1]]) for outputs in found])[: len(images)]
    return model.name, rows


def _wrong_labels(features: np.ndarray, good: np.ndarray, audited: Audited, notes: list[str]) -> list[Finding]:
    images = audited.images
    wrong = wrong_labels.find_wrong_labels(features[good], images.labels[good], len(images.classes))
    if len(wrong.unjudged):
        few = data.first_lines([images.classes[i] for i in wrong.unjudged])
        notes.append(f"too few images to judge the labels of {len(wrong.unjudged)} classes: {', '.join(few)}")
    found = []
    for i, best, given, likely in zip(wrong.index, wrong.suggested, wrong.given, wrong.likely, strict=True):
        at, suggested = int(good[i]), images.classes[best]
        detail = f"{suggested} {100 * likely:.1f} %, {audited.labels[at]} {100 * given:.1f} %"
        found.append(Finding(at, "wrong label", detail, suggested))
    return found


def lines_of(audit: Audit) -> list[str]:
    """Returns what is printed: a line for each kind of problem, and the notes."""
    lines = [f"{problem:<20}{count:6,}" for problem, count in audit.counts().items()]
    if audit.few:
        named = data.first_lines([f"{name} {count}" for name, count in audit.few.items()])
        lines.append(f"{'few images':<20}{len(audit.few):6,} classes: {', '.join(named)}")
    return [*(lines or ["nothing was found"]), *(f"note      {note}" for note in audit.notes)]


def to_json(audit: Audit) -> dict[str, Any]:
    """Returns what audit.json holds: plain values."""
    images: Sequence[str] = audit.audited.images.names
    return {
        "source": audit.source,
        "model": audit.model,
        "images": len(images),
        "splits": dict(Counter(audit.audited.sides.tolist())),
        "counts": audit.counts(),
        "few_images": audit.few,
        "changes": audit.changes,
        "notes": audit.notes,
        "findings": [
            {
                "image": images[finding.index],
                "split": str(audit.audited.sides[finding.index]),
                "label": audit.audited.labels[finding.index],
                "problem": finding.problem,
                "detail": finding.detail,
                "suggestion": finding.suggestion,
                "other": images[finding.other] if finding.other >= 0 else "",
            }
            for finding in audit.findings
        ],
    }
