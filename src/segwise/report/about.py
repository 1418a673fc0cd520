"""What stands behind the numbers: what did not run, the models, how it was measured, and how to repeat it."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from segwise.records.types import Plan
from segwise.report import words
from segwise.report.gather import Arm, Gathered
from segwise.report.markup import DASH, count, details, e, listing, n_bytes, note, table
from segwise.report.outcome import Item
from segwise.report.ranking import Ranked, arm_name, shortened
from segwise.report.statistics import ALPHA, N_BOOT

_ROWS = 300


def not_counted(gathered: Gathered, place: dict[str, int]) -> str:
    """Skipped, failed and undefined outcomes by arm and reason."""
    found: dict[tuple[str, str, str], list[Item]] = defaultdict(list)
    arms = {arm.label: arm for arm in gathered.arms}
    for arm in gathered.arms:
        for outcome in arm.outcomes:
            if outcome.status == "done":
                continue
            reason = outcome.last.reason
            if outcome.status == "undefined":
                missing = "not scored yet" if gathered.primary not in outcome.values else "no reason recorded"
                reason = outcome.reasons.get(gathered.primary, missing)
            found[arm.label, outcome.status, reason or "no reason recorded"].append(outcome.item)
    if not found:
        return "<p>Nothing was skipped, nothing failed, and every score is defined.</p>"
    kinds = {"failed": "bad", "skipped": "mild", "undefined": "mild"}
    rows = [
        [
            arm_name(arms[label], place),
            f'<span class="tag {kinds.get(status, "mild")}">{e(status)}</span>',
            f'<td class="w">{e(shortened(reason)[:400])}</td>',
            _times(where),
            f'<td class="w small">{e(_examples(where))}</td>',
        ]
        for (label, status, reason), where in sorted(found.items(), key=lambda kv: (kv[0][1], -len(kv[1]), kv[0]))
    ]
    text = (
        "<b>Skipped</b>: could not be asked, known before any compute. <b>Failed</b>: broke while running. "
        "<b>Undefined</b>: ran, but the measure has no value. They enter no mean, and nothing is hidden."
    )
    more = f"<p>{len(rows) - _ROWS} more rows are in <code>segwise export</code>.</p>" if len(rows) > _ROWS else ""
    return (
        note(text)
        + table(
            ["Arm", "What", "Reason", "Targets", '<th scope="col" class="w">Where</th>'],
            rows[:_ROWS],
            name="Not counted",
            left=3,
        )
        + more
    )


def _times(where: Sequence[Item]) -> str:
    """Targets; the draws of one are told beside it."""
    n = len(set(where))
    return f"{n}" if n == len(where) else f"{n}<br><small>{len(where)} with all draws</small>"


def _examples(where: Sequence[Item]) -> str:
    names = sorted({" ".join(filter(None, item[1:])) for item in where} - {""})
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def models(gathered: Gathered, place: dict[str, int]) -> str:
    """What the models declare of themselves, and whether they may have seen these data."""
    datasets = sorted(words.datasets_of(gathered.outcomes))
    rows = [_model_row(arms, datasets, place) for arms in _by_model(gathered.arms).values()]
    head = ["Model", "What it is", "Weights", "Licence of the weights", "Trained on these data?", "Peak memory"]
    return table(head, rows, name="Models", left=5)


def _by_model(arms: Sequence[Arm]) -> dict[tuple[str, str], list[Arm]]:
    """Arms of one model with one set of weights, whatever its lift and prompter."""
    found: dict[tuple[str, str], list[Arm]] = defaultdict(list)
    weights = {arm.key[0]: _digest(arm.provenance.get("weights")) for arm in arms if arm.provenance.get("weights")}
    for arm in arms:
        name = arm.key[0].split("(", 1)[0] if arm.key[0] in weights else arm.key[0]
        found[name, weights.get(arm.key[0], "")].append(arm)
    return found


def _model_row(arms: Sequence[Arm], datasets: Sequence[str], place: dict[str, int]) -> list[str]:
    arm = max(arms, key=lambda a: len(a.card))
    card = arm.card
    what = f"{e(card.get('title', arm.key[0]))}, {e(card.get('family', 'family not recorded'))}"
    what += f'<br><span class="small">{e(card.get("summary", ""))}</span>' if card.get("summary") else ""
    weights = _digest(arm.provenance.get("weights"))
    for doubt in sorted({a.doubt for a in arms if a.doubt}):
        weights += f' <span class="tag bad">{words.DOUBT[doubt]}: not ranked</span>'
    licence = e(card.get("licence_weights") or "") or DASH
    if card.get("non_commercial"):
        licence += ' <span class="tag mild">non-commercial</span>'
    peak = max((o.last.peak_bytes for a in arms for o in a.outcomes), default=0)
    parameters = f"<br><small>{card['parameters_m']:g} M parameters</small>" if card.get("parameters_m") else ""
    seen = (
        e(arm.remark)
        if all(a.remark for a in arms)
        else words.leakage(card, datasets, {person for arm in arms for person in arm.people})
    )
    cells = [what + parameters, weights or DASH, licence, seen]
    first, *others = cells
    shown = [f'<td class="w wide">{first}</td>', *(f'<td class="w">{cell}</td>' for cell in others)]
    names = "<br>".join(
        f'<b title="{e(spec)}">{e(shortened(spec))}</b>' for spec in dict.fromkeys(a.key[0] for a in arms)
    )
    return [names, *shown, n_bytes(peak)]


def _digest(value: Any) -> str:
    """Digests as recorded, each shortened; what they are called stands beside them."""
    if isinstance(value, Mapping):
        return "<br>".join(f"{e(name)} {_digest(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return "<br>".join(map(_digest, value))
    digest = str(value or "").removeprefix("unknown:")
    return f"<code>{e(digest[:16])}</code>" if digest else ""


def methods(gathered: Gathered, ranked: Sequence[Ranked]) -> str:
    """What was measured and how, in sentences."""
    metrics = "; ".join(f"{e(m)}: <code>{e(', '.join(specs))}</code>" for m, specs in gathered.metrics.items())
    seeds = sorted({o.last.seed for o in gathered.outcomes})
    needed = f" Here {ranked[0].result.n_needed} subjects are the fewest that can decide anything." if ranked else ""
    parts = [
        "<b>Arm</b>: a model with a prompter (a simulated user, or the target's name). <b>Target</b>: a structure in "
        "a case. Arms are compared only on targets that all of them answered; seeds are averaged first. The value of a "
        "target is that of its <b>last round</b>, never the best of several.",
        "<b>Subjects</b>: cases, targets and seeds of one person are not independent, so they are averaged to one "
        f"value a subject. Intervals: percentile bootstrap over subjects, paired over arms, {N_BOOT:,} draws, seed 0, "
        "95 %. Rank interval: 2.5 to 97.5 percentile of the rank over the same draws.",
        "<b>Decided</b>: two-sided Wilcoxon signed-rank test over subjects (exact up to 30, zeros dropped), corrected "
        f"by Holm over all pairs, p &lt; {ALPHA}, and the interval of the mean difference excludes 0.{needed} "
        "<b>Generalist or specialist</b> is one question, so the best of either are compared by flipping the signs of "
        "subjects, the greatest difference over all pairs of a generalist and a specialist taken each time (Westfall "
        "and Young 1993).",
        "An arm is ranked if it has a value for at least half of what it was asked. Random and unknown weights are "
        "never ranked (unknown: a file whose SHA-256 stands on no card, not trained here, for which nobody vouched). "
        f"Seeds: {e(listing([str(s) for s in seeds]))}.",
        f"<b>Measures</b> as computed: {metrics}." if metrics else "",
        "<b>DSC</b> is 2|R∩P|/(|R|+|P|); <b>NSD</b> the share of both surfaces within the stated tolerance of the "
        "other; <b>HD95</b> the larger of the two directed 95th percentiles in mm. An undefined value is left out "
        "and counted.",
        "<b>Seconds</b> are wall-clock on the machine of this run after warm-up, all rounds of a target together; "
        "what several targets share (reading, encoding) is divided among them. <b>Interactions</b>: what a person "
        "would have done for one target; a name that belongs to the question costs none.",
    ]
    return "<ul>" + "".join(f"<li>{part}</li>" for part in parts if part) + "</ul>"


def repeat(gathered: Gathered, plan: Plan | None, meta: Mapping[str, Any]) -> str:
    """The exact command and versions, and digests of what was scored."""
    command = meta.get("command")
    typed = list(map(str, command)) if isinstance(command, list | tuple) else []
    typed = typed if typed[:1] in ([], ["segwise"]) else ["segwise", *typed]
    text = shlex.join(typed) or str(command or "")
    body = f"<pre>{e(text)}</pre>" if text else "<p>The command was not recorded.</p>"
    rows = [[e(name), f'<td class="w">{e(_flat(value))}</td>'] for name, value in _versions(gathered, meta).items()]
    body += table(["What", "Version or digest"], rows, name="Versions", left=2) if rows else ""
    if plan is not None:
        shown = json.dumps(_plan_of(plan), indent=1, ensure_ascii=False)
        body += details("The plan", f"<pre>{e(shown)}</pre>")
    return body


def _versions(gathered: Gathered, meta: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    recorded = [o.last.provenance for o in gathered.outcomes]
    for source in ({"versions": meta.get("versions"), "git": meta.get("git")}, *recorded):
        versions = source.get("versions")
        for name, value in (versions if isinstance(versions, Mapping) else {}).items():
            _note(found, str(name), value)
        _note(found, "git revision", source.get("git"))
    for arm in gathered.arms:
        for name in ("segmenter", "weights"):
            _note(found, f"{name} of {arm.key[0]}", _flat(arm.provenance.get(name)))
    return {name: " and ".join(sorted(values)) for name, values in found.items()}


def _note(found: dict[str, Any], name: str, value: Any) -> None:
    if value:
        found.setdefault(name, set()).add(_flat(value))


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_flat, value))
    return "" if value is None else str(value)


def _plan_of(plan: Plan) -> dict[str, Any]:
    """Fields that say something."""
    shown = {name: value for name, value in vars(plan).items() if value not in ("", (), None)}
    for name in ("pairs", "cases"):
        if name in shown:
            shown[name] = [vars(item) for item in shown[name]]
    return shown


def sizes(gathered: Gathered) -> str:
    """How much was run: "3 arms, 2 subjects, ..."."""
    outcomes = [o for o in gathered.outcomes if o.last.case]
    parts = [
        count(len(gathered.arms), "arm"),
        count(len({o.person for o in outcomes}), "subject"),
        count(len({o.item[:2] for o in outcomes}), "case"),
        count(len({o.item for o in outcomes if o.last.target}), "target"),
    ]
    return listing(parts)
