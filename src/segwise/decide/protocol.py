"""The draft of a study that tests whether people understand the sheet, with its sample size computed."""

from __future__ import annotations

from segwise.decide.reading import TARGET, Reading
from segwise.decide.sample_size import size
from segwise.report.markup import e, note, table

LEAST, HOPED = 0.7, 0.85  # shares of readers who understand: too few, and expected
PASS_SHARE = 0.8  # of the questions
ALPHA, POWER, DROPOUT = 0.025, 0.9, 0.1
OPEN = "to be filled in by the applicant"


def protocol(found: Reading, n_questions: int) -> str:
    """HTML of the draft.

    Args:
        found: how easy the sheet is to read.
        n_questions: of the questionnaire.
    """
    study = size(LEAST, HOPED, alpha=ALPHA, power=POWER, dropout=DROPOUT)
    right = round(PASS_SHARE * n_questions)
    fields = (
        ("Title", "Do people understand the sheet about an outline program? A test in one group of readers"),
        ("Applicant, place, funding, interests", OPEN),
        ("Background", "People can only consent to what they understand; limits of models are hard to tell"),
        ("Question", f"Do at least {LEAST:.0%} of readers understand the sheet?"),
        ("Design", "One group, one visit: read the sheet, then answer the questionnaire with the sheet at hand"),
        ("Who takes part", "Adults who are invited to a CT or MR scan, or matched volunteers; able to consent"),
        ("Who does not", "People who helped to write the sheet; people who cannot read its language"),
        ("How they are found", OPEN),
        ("Main outcome", f"A reader understands with {right} or more of {n_questions} right answers"),
        ("Other outcomes", "Each question; minutes of reading; what was unclear, in the reader's words"),
        (
            "Sample size",
            f"{study.n} answers. Exact one-sample binomial test: of {LEAST:.0%} against an expected {HOPED:.0%}, "
            f"one-sided error {ALPHA:.3g} (reached: {study.size:.3f}), power {POWER:.0%} (reached: {study.power:.1%}). "
            f"The sheet passes with {study.pass_from} or more readers who understand. With {DROPOUT:.0%} lost, "
            f"{study.invited} are invited",
        ),
        (
            "Analysis",
            "Share with its exact 95 % interval (Clopper-Pearson); missing answers are wrong; no look before the end",
        ),
        ("If it does not pass", "The sheet is rewritten where questions failed, and is tested again on others"),
        ("Reading level", f"Flesch reading ease {found.ease:.0f}, target {TARGET:.0f} or more, computed by rule"),
        ("Risks and burdens", "About a quarter of an hour; the sheet may worry some: a person to talk to is named"),
        ("Benefit", "None for the reader"),
        ("Data", "Answers, age group, first language, years of school; no name; kept where and how long: " + OPEN),
        ("Consent to this study", OPEN),
        ("Right to stop", "At any time, without a reason, until the answers are pooled"),
        ("Versions", "Of the sheet, the questionnaire, this protocol; every change goes to the board"),
        ("Registration, insurance, contact for complaints", OPEN),
        ("Attached", "Sheet, questionnaire, answer key, trace of the numbers, model facts"),
    )  # fmt: skip
    rows = [[e(name), f'<td class="w">{e(text)}</td>'] for name, text in fields]
    chosen = f"{LEAST:.0%}, {HOPED:.0%} and {PASS_SHARE:.0%}"
    lead = note(f"The shares {chosen} are this draft's choice: the board may ask for others.")
    return lead + table(["Field", '<th scope="col" class="w">Draft</th>'], rows, name="Protocol", left=2)
