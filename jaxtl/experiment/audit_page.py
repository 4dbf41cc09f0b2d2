"""The page of an audit: each problem with pictures of its images."""

from typing import Any

from jaxtl.audit.findings import PROBLEMS, Audit, Finding
from jaxtl.experiment.thumbnails import thumbnail
from jaxtl.report.page import render

# Images of a problem that the page shows; the table has all.
_SHOWN = 60


def audit_page(audit: Audit) -> str:
    """Returns the page; images that cannot be opened have no picture."""
    sections = []
    for problem, count in audit.counts().items():
        found = [finding for finding in audit.findings if finding.problem == problem]
        sections.append(
            {
                "id": problem.replace(" ", "-"),
                "name": problem,
                "text": PROBLEMS[problem],
                "count": count,
                "cards": [_card(audit, finding) for finding in found[:_SHOWN]],
            }
        )
    values: dict[str, Any] = {
        "source": audit.source,
        "model": audit.model,
        "images": len(audit.audited.images),
        "sections": sections,
        "few": audit.few,
        "notes": audit.notes,
    }
    return render("audit.html", values)


def _card(audit: Audit, finding: Finding) -> dict[str, Any]:
    names = audit.audited.images.names
    other = {}
    if finding.other >= 0:
        other = {"other": names[finding.other], "other_picture": thumbnail(audit.audited.images, finding.other)}
    return {
        "name": names[finding.index],
        "side": str(audit.audited.sides[finding.index]),
        "label": audit.audited.labels[finding.index],
        "detail": finding.detail,
        "suggestion": finding.suggestion,
        "picture": "" if finding.problem == "unreadable" else thumbnail(audit.audited.images, finding.index),
        "other": "",
        **other,
    }
