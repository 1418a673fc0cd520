"""The report: one HTML file that needs nothing else, written from the records of a run alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from segwise.errors import RunError
from segwise.records.run import Run
from segwise.records.types import Choice, Pair, Plan, Record, Score
from segwise.report import (
    about,
    breakdown,
    breaks,
    decidable,
    dimension,
    families,
    generated,
    groups,
    human_time,
    labels,
    naming,
    overlay,
    prompts,
    published,
    ranking,
    scaling,
    shapes,
    shell,
    structures,
    trained,
    transfer,
    unanswered,
    words,
)
from segwise.report.by_slice import by_slice
from segwise.report.failures import failures
from segwise.report.gather import Arm, Gathered, gather, total_seconds
from segwise.report.markup import count, details, e, listing, note
from segwise.report.overlay import Crops
from segwise.report.ranking import Ranked
from segwise.report.worst import worst

FILE = "report.html"
Section = tuple[str, str, str]  # anchor, title, HTML


def build(run_dir: Path | str, *, more: Sequence[Section] = ()) -> Path:
    """Writes RUN/report.html, with further sections behind its own; its path.

    Raises:
        RunError: not a run folder, or nothing in it is finished yet.
    """
    run = Run.read(run_dir)
    records = run.records()
    if not records:
        raise RunError(f"{run.path} holds no finished task, so there is nothing to report; run it first (it resumes)")
    known = run.about()
    crops = overlay.folder(run.crops)
    text = page(records, run.scores(), plan=plan_of(known.get("plan")), crops=crops, meta=known, more=more)
    half = run.path / f".{FILE}.tmp"
    half.write_text(text, encoding="utf-8")
    half.replace(run.path / FILE)
    return run.path / FILE


def page(
    records: Sequence[Record],
    scores: Sequence[Score],
    *,
    plan: Plan | None = None,
    crops: Crops = lambda _: None,
    meta: Mapping[str, Any] | None = None,
    more: Sequence[Section] = (),
) -> str:
    """The report as HTML: same arguments, same text.

    Args:
        records: of a run, in any order.
        scores: of the same run; records without scores are shown as not scored.
        plan: what was asked.
        crops: three-plane pictures by key of a record, None where there is none.
        meta: what the run says of itself: command, versions, git.
        more: (anchor, title, HTML) of further sections.
    """
    plain = [record for record in records if not record.condition]
    gathered = gather(plain or records, scores)
    ranked = ranking.rank(gathered)
    place = ranked[0].place if ranked else {}
    under = [
        ("breaks", "Conditions and breaks", breaks.section(records, scores)),
        ("naming", "Said in other words", naming.section(records, scores)),
    ]
    parts = under + _sections(gathered, ranked, place, plan=plan, crops=crops, meta=meta or {})
    parts.sort(key=lambda part: part[0] != "ranking")
    cut = words.unfinished(records, (meta or {}).get("n_tasks"))
    name = plan.name if plan and plan.name else "comparison"
    return shell.whole(name, _answer(gathered, ranked, plan, name, cut), [*parts, *more])


def rows(records: Sequence[Record], scores: Sequence[Score]) -> list[dict[str, str]]:
    """The ranking as text for a terminal: rank, model, name, prompter, dsc, interval, seconds, n_interactions.

    Arms with random or unknown weights follow, with "not ranked" as rank and "random weights" or "unknown weights" in
    place of the interval.
    """
    gathered = gather([r for r in records if not r.condition] or records, scores)
    ranked = ranking.rank(gathered)
    return (_ranked_rows(ranked[0]) if ranked else []) + _doubted_rows(gathered)


def _ranked_rows(first: Ranked) -> list[dict[str, str]]:
    panel, result = first.panel, first.result
    found = []
    for i in result.order:
        spent, asked = ranking.median_seconds(panel.arms[i], panel), words.median_interactions(panel.arms[i], panel)
        known = result.low[i] == result.low[i]
        found.append(
            {
                "rank": str(result.rank[i]),
                "model": panel.arms[i].key[0],
                "name": panel.arms[i].name,
                "prompter": panel.arms[i].key[1],
                "dsc": f"{result.mean[i]:.3f}",
                "interval": f"{result.low[i]:.3f} to {result.high[i]:.3f}" if known else "one subject",
                "seconds": "" if spent is None else f"{spent:.2g}",
                "n_interactions": "" if asked is None else f"{asked:g}",
            }
        )
    return found


def _doubted_rows(gathered: Gathered) -> list[dict[str, str]]:
    found = []
    for arm in gathered.arms:
        if arm.doubt:
            spent = [s for o in arm.outcomes if o.status == "done" and (s := total_seconds(o)) is not None]
            mean, asked = arm.mean(gathered.primary, arm.values), words.median_interactions(arm)
            found.append(
                {
                    "rank": "not ranked",
                    "model": arm.key[0],
                    "name": arm.name,
                    "prompter": arm.key[1],
                    "dsc": "" if mean is None else f"{mean:.3f}",
                    "interval": words.DOUBT[arm.doubt],
                    "seconds": f"{median(spent):.2g}" if spent else "",
                    "n_interactions": "" if asked is None else f"{asked:g}",
                }
            )
    return found


def plan_of(value: Any) -> Plan | None:
    """A plan from its JSON, None if there is none; fields of other versions are passed over."""
    if not isinstance(value, Mapping):
        return None
    known = {field.name for field in dataclasses.fields(Plan)}
    fields: dict[str, Any] = {
        key: tuple(item) if isinstance(item, list) else item for key, item in value.items() if key in known
    }
    fields["persons"] = tuple(tuple(one) for one in fields.get("persons", ()) if isinstance(one, list | tuple))
    fields.pop("study", None)  # what was trained is told by the models' cards
    fields["groups"] = tuple((str(name), tuple(own)) for name, own in fields.get("groups", ()))
    fields["pairs"] = tuple(Pair(**item) for item in fields.get("pairs", ()))
    fields["cases"] = tuple(
        Choice(case=item["case"], targets=tuple(item.get("targets", ()))) for item in fields.get("cases", ())
    )
    return Plan(**{"name": "", **fields})


def _sections(
    gathered: Gathered,
    ranked: Sequence[Ranked],
    place: dict[str, int],
    *,
    plan: Plan | None,
    crops: Crops,
    meta: Mapping[str, Any],
) -> list[tuple[str, str, str]]:
    """(anchor, title, HTML) of each section, empty ones included."""
    first = ranked[0] if ranked else None
    order: list[Arm] = list(dict.fromkeys(arm for one in ranked for arm in one.arms))
    not_ranked = breakdown.unranked(gathered, ranked, place)
    return [
        ("ranking", "Ranking", ranking.blocks(gathered, ranked) + not_ranked),
        ("decidable", "What these data can decide", decidable.section(ranked, gathered.primary)),
        ("floor", "Against the floor", families.section(gathered)),
        ("labels", "Labelled subjects", labels.section(gathered)),
        ("trained", "What was trained", trained.section(gathered)),
        ("generated", "Generated data", generated.section(gathered)),
        ("prompts", "What is said", prompts.section(gathered)),
        ("text-or-box", "Named or boxed", human_time.section(gathered)),
        ("unanswered", "What is left unanswered", unanswered.section(gathered, meta)),
        ("transfer", "From data set to data set", transfer.section(gathered)),
        ("groups", "Groups of targets", groups.section(gathered, plan.groups if plan else ())),
        ("dimension", "Slices or volumes", dimension.section(gathered)),
        ("shapes", "Shapes", shapes.section(gathered)),
        ("scaling", "Compute at inference", scaling.section(gathered)),
        ("targets", "Targets", structures.by_target(gathered, order, place) if order else ""),
        ("subsets", "By kind of case", breakdown.by_subsets(gathered, ranked)),
        ("effort", "Interactions", breakdown.effort(gathered, first) if first else ""),
        ("cost", "Seconds and memory", _cost(gathered, first, place)),
        ("spread", "All single results", _spread(gathered, first) if first else ""),
        ("slices", "Slice by slice", by_slice(gathered, place, crops)),
        ("failures", "How they fail", failures(gathered, place, crops)),
        ("worst", "Worst results", worst(gathered, ranked, crops)),
        ("published", "Published figures", published.section(gathered)),
        ("missing", "Not counted", about.not_counted(gathered, place)),
        ("models", "Models", about.models(gathered, place)),
        ("methods", "Method", about.methods(gathered, ranked)),
        ("repeat", "Repeat it", about.repeat(gathered, plan, meta)),
    ]


def _spread(gathered: Gathered, first: Ranked) -> str:
    return breakdown.distribution(gathered, first) + breakdown.by_seed(gathered, first)


def _cost(gathered: Gathered, first: Ranked | None, place: dict[str, int]) -> str:
    if first is None:
        return breakdown.stages(gathered.arms, place)
    beside = [arm for arm in gathered.arms if arm not in first.panel.arms]
    more = breakdown.stages(beside, place)
    return breakdown.cost(gathered, first) + (details("Arms outside this comparison", more) if more else "")


def _answer(gathered: Gathered, ranked: Sequence[Ranked], plan: Plan | None, name: str, cut: str) -> str:
    if ranked:
        head, text = words.verdict(ranked[0].panel, ranked[0].result, gathered.primary)
        decided = len(ranked[0].result.top) == 1 and len(ranked[0].panel.arms) > 1
    else:
        head, text = words.nothing_to_rank(gathered)
        decided = False
    paragraphs = [text, families.answer(ranked)]
    for one in ranked[1:]:
        short = words.in_short(one.panel, one.result)
        paragraphs.append(f"On the {count(len(one.panel.items), 'target')} that {_names(one)} share: {short}.")
    question = f"<p>{e(plan.question)}</p>" if plan and plan.question else ""
    box = shell.answer(head, paragraphs, decided=decided, scope=words.scope(ranked[0].panel) if ranked else "")
    return (
        f"<h1>Segwise report · {e(name)} · {about.sizes(gathered)}</h1>{question}{box}"
        f"{''.join(note(text, kind='warn') for text in [cut, *_warnings(gathered)] if text)}"
    )


def _names(one: Ranked) -> str:
    labels = [e(arm.label) for arm in one.arms]
    return listing(labels) if len(labels) <= 4 else f"{len(labels)} arms"


def _warnings(gathered: Gathered) -> list[str]:
    found = [words.not_scored(gathered), words.reference_note(gathered.outcomes)]
    found += words.doubts(gathered.arms)
    datasets = words.datasets_of(gathered.outcomes)
    seen = sorted(
        {e(arm.key[0]) for arm in gathered.arms if "<b>overlap" in words.leakage(arm.card, datasets, arm.people)}
    )
    if seen:
        found.append(f"{listing(seen)} was <b>trained on this data set</b>: its scores here flatter it.")
    notes = sorted({(o.last.case, str(n)) for o in gathered.outcomes for n in _list(o.last.provenance.get("notes"))})
    if notes:
        body = "<ul>" + "".join(f"<li><i>{e(case)}</i>: {e(text)}</li>" for case, text in notes[:60]) + "</ul>"
        found.append(details(f"Notes on the cases ({len(notes)})", body))
    return [text for text in found if text]


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else ([value] if value else [])
