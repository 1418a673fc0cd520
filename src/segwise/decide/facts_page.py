"""A page of facts about one model: for what, from what, how well, where it fails, and what was never tested."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np

from segwise import catalog
from segwise.decide.checklist import checklist
from segwise.decide.facts import Fact, Facts, Known, read
from segwise.decide.shares import exact_interval, percents
from segwise.report import about, breakdown, overlay, ranking, shell, structures, words
from segwise.report.markup import DASH, details, e, interval, listing, note, number, table
from segwise.report.outcome import Item
from segwise.report.statistics import interval_of_mean, subject_means
from segwise.report.worst import worst

DRAFT = (
    "<b>Draft.</b> Written by Segwise from the records of one run and the model's card. Not a declaration of "
    "conformity, not a medical device, not for clinical decisions."
)
_RATES = (0.0, 0.5, 0.7)


def page(run_dir: Path | str, model: str) -> str:
    """The facts of a model of a run.

    Raises:
        RunError: not a run, or nothing of the model is scored. SpecError: the model is not in the run.
    """
    known = completed(read(run_dir, model))
    facts, sub = known.facts, known.gathered
    ranked = ranking.rank(sub)
    place = ranked[0].place if ranked else {}
    order = [arm for one in ranked for arm in one.arms]
    title = f"Model facts · {facts['model'].text}"
    mean = f"mean {facts.shown('measure')} {facts.shown('mean')}"
    interval = f" ({facts.shown('mean_interval')})" if "mean_interval" in facts else " (one subject: no interval)"
    poor = f"{facts.shown('poor')}" + (f" ({facts.shown('poor_interval')})" if "poor_interval" in facts else "")
    lines = [
        f"{facts.shown('summary')}",
        f"Measured: {mean}{interval} on {facts.shown('n_targets')} targets of {facts.shown('n_subjects')} subjects, "
        f"with {facts.shown('prompter')}; {poor} of them poor (below {facts.shown('poor_limit')}).",
    ]
    head = shell.answer(facts.shown("title"), lines, decided=False, scope=f"Version of these facts: {facts.digest}")
    warn = note(DRAFT, kind="warn") + _doubt(facts)
    parts = [
        ("use", "For what, and from what", _identity(facts)),
        ("accuracy", "How well, by kind of case", _accuracy(known, ranked)),
        ("targets", "By structure", structures.by_target(sub, order, place) if order else ""),
        ("failures", "Where it fails", _rates(known) + worst(sub, ranked, overlay.folder(known.run.crops))),
        ("never", "What it was never tested on", _never(known)),
        ("checklist", "Checklist of regulation", checklist(facts)),
        ("missing", "Not counted", about.not_counted(sub, place)),
    ]
    return shell.whole(title, f"<h1>{e(title)}</h1>{head}{warn}", parts, foot=DRAFT)


def completed(known: Known) -> Known:
    """With the facts that are conclusions from others, for the checklist."""
    facts = list(known.facts.values())
    kinds = _kinds(known)
    if kinds:
        source = "records: modality, size, spacing, scanner and anatomy of the cases"
        facts.append(Fact(key="subgroups", text=listing(kinds), value=kinds, source=source))
    leak = known.facts["leakage"]
    if leak.text.startswith("no overlap:") or leak.text == "nothing was learned":
        facts.append(Fact(key="independent", text=leak.text, value=True, source=leak.source))
    if known.facts["references"].value == ["gold"] and "n_generated" not in known.facts:
        facts.append(Fact(key="gold", text="gold", value=True, source=known.facts["references"].source))
    never = untested(known)
    facts.append(Fact(key="never", text=listing(never), value=never, source="card against records"))
    return Known(**{**vars(known), "facts": Facts(facts)})


def untested(known: Known) -> list[str]:
    """What the card or good sense asks for and no record has."""
    card, facts = known.arm.card, known.facts
    tested = {o.last.modality for o in known.arm.outcomes if o.status == "done"}
    found = [f"{name} scans" for name in card.get("modalities") or () if name not in tested]
    if "n_generated" in facts:
        n, of = facts["n_generated"].value, facts["n_subjects"].value
        found.insert(0, "real scans of people: all subjects were generated" if n == of else _real(n, of))
    labels = card.get("labels")
    if isinstance(labels, dict):
        variant = str(known.arm.outcomes[0].last.resolved.get("variant", ""))
        own = labels.get(variant) or (next(iter(labels.values())) if len(labels) == 1 else ())
        asked = {item[2] for item in known.arm.values}
        left = [name for name in own if name not in asked]
        if left:
            found.append(f"{len(left)} of the {len(own)} structures that it names ({listing(left[:6])} …)")
    told = {str((o.last.provenance.get("facts") or {}).get("anatomy") or "") for o in known.arm.outcomes}
    if not told - {"", "usual"}:
        found.append("rare anatomy (after surgery, missing or doubled organs, implants), as far as the records tell")
    if not any((o.last.provenance.get("facts") or {}).get("scanner") for o in known.arm.outcomes):
        found.append("different scanners: the records do not name them")
    if facts["n_datasets"].value < 2:
        found.append("data of a second place: all cases are of one data set")
    found.append("age and sex of the patients: not in the records")
    found.append("use by real readers: the prompts were simulated")
    return found


def _real(n: int, of: int) -> str:
    return f"real scans of more than {of - n} of the {of} subjects: the others were generated"


def _kinds(known: Known) -> list[str]:
    ranked = ranking.rank(known.gathered)
    body = breakdown.by_subset(known.gathered, ranked[0]) if ranked else ""
    kinds = ("modality", "reference", "data set", "size", "spacing", "scanner", "anatomy")
    told = ("CT<", " reference<", "data set ", " ml<", " mm<", "scanner ", "anatomy")
    return [kind for kind, word in zip(kinds, told, strict=True) if word in body]


def _doubt(facts: Facts) -> str:
    if "doubt" not in facts:
        return ""
    return note(f"<b>{facts.shown('doubt')}</b>: {words.DOUBT_MEANS[facts['doubt'].value]}.", kind="warn")


def _identity(facts: Facts) -> str:
    asked = (
        ("Model", "model"), ("What it is for", "summary"), ("Kind", "family"),
        ("Modalities it was made for", "modalities"),
        ("Input", "input"), ("Asked by", "takes"), ("Training sets", "training_sets"),
        ("What is not known of the training", "training_note"), ("Trained on these data?", "leakage"),
        ("Licence of the weights", "licence_weights"), ("Restriction", "commercial"),
        ("Licence of the code", "licence_code"),
        ("Parameters", "parameters"), ("Peak memory, measured", "peak"), ("Seconds a target, median", "seconds"),
        ("Interactions a target, median", "interactions"), ("References were", "references"),
        ("Differs from the original", "deviations"), ("Paper", "paper"), ("Build", "build"), ("Versions", "versions"),
    )  # fmt: skip
    rows = [
        [e(name), f'<td class="w">{facts.shown(key)}</td>', f'<td class="w small">{e(facts[key].source)}</td>']
        if key in facts
        else [e(name), f'<td class="w">{facts.shown(key)}</td>', f'<td class="w small">{DASH}</td>']
        for name, key in asked
        if key in facts or key not in ("commercial", "deviations")
    ]
    head = ["What", '<th scope="col" class="w">Told</th>', '<th scope="col" class="w">Where from</th>']
    return table(head, rows, name="Identity", left=3)


def _accuracy(known: Known, ranked: list[ranking.Ranked]) -> str:
    if not ranked:
        return note("Results of random or unknown weights: shown nowhere as accuracy.")
    one = ranked[0]
    text = (
        "Mean over subjects with the 95 % bootstrap interval over subjects; the last round counts, never the best. A "
        "subgroup of few subjects says little."
    )
    by = breakdown.by_subset(known.gathered, one) or "<p>All cases are of one kind as far as the records tell.</p>"
    whole = ranking.blocks(known.gathered, ranked[:1]) if len(one.arms) > 1 else _measures(known)
    return note(text) + whole + "<h3>By kind of case</h3>" + by


def _measures(known: Known) -> str:
    """All measures of the one arm that there is: with nothing beside it a rank would say nothing."""
    items = sorted(known.arm.values)
    person = {o.item: o.person for o in known.arm.outcomes}
    rows = []
    meanings = _meanings()
    for measure in known.gathered.measures:
        drawn: dict[Item, list[float]] = defaultdict(list)
        for o in known.arm.outcomes:
            if (v := o.values.get(measure)) is not None:
                drawn[o.item].append(v)
        values = {item: fmean(found) for item, found in drawn.items()}
        there = [item for item in items if item in values]
        if there:
            column, persons = np.array([[values[item]] for item in there]), [person[item] for item in there]
            low, high = (float(side[0]) for side in interval_of_mean(column, persons))
            mean = float(subject_means(column, persons).mean())
            word = meanings.get(measure) or meanings.get(measure.partition(" ")[0], "")
            said = f'<td class="w small">{e(word) or DASH}</td>'
            count = [str(len(there)), str(len(set(persons)))]
            rows.append([e(measure), said, number(mean), interval(low, high) or DASH, *count])
    head = ["Measure", '<th scope="col" class="w">What it is</th>', "Mean over subjects", "95 % interval"]
    return table([*head, "Targets", "Subjects"], rows, name="Measures", left=2)


def _meanings() -> dict[str, str]:
    """Measure -> in words."""
    cards = [catalog.member("metrics", name).card for name in catalog.names("metrics")]
    found = {measure: one.meaning for card in cards for measure, one in card.measures.items()}
    return found | {
        "agreement_seeds": "agreement (DSC) with other draws of the prompt, without the reference",
        "agreement_models": "agreement (DSC) with other models, without the reference",
    }


def _rates(known: Known) -> str:
    """How often an arm answers with nothing that can be used."""
    rows = []
    for arm in known.gathered.arms:
        items = sorted(arm.values)
        if not items:
            continue
        person = {o.item: o.person for o in arm.outcomes}
        persons = [person[item] for item in items]
        cells = []
        for limit in _RATES:
            bad = [[float(arm.values[i] <= limit if limit == 0 else arm.values[i] < limit)] for i in items]
            share = float(subject_means(np.array(bad), persons).mean())
            least, most = percents(*exact_interval(share, len(set(persons))))
            cells.append(f'{share:.0%}<br><span class="ci">[{least}%, {most}%]</span>')
        rows.append([e(arm.label), str(len(items)), str(arm.n_targets("failed")), *cells])
    head = ["Arm", "Targets", "Broke"]
    head += [f"{e(known.gathered.primary)} = 0" if v == 0 else f"below {number(v, 1)}" for v in _RATES]
    text = "Mean over subjects; in brackets the exact 95 % interval of so many subjects (Clopper-Pearson)."
    return note(text) + table(head, rows, name="Failure rates")


def _never(known: Known) -> str:
    found = "".join(f"<li>{e(text)}</li>" for text in untested(known))
    note_ = "An empty line of this list is no promise: it only holds what can be read from card and records."
    return f"<ul>{found}</ul>" + details("What this list can know", f"<p>{note_}</p>")
