"""The decision: the gate's verdict, unless people who judged the answers blindly say otherwise."""

from trainer.decision.blocks import Tone, Verdict
from trainer.proof.document import Report, VerdictWord

_WORDS: dict[VerdictWord, tuple[str, Tone]] = {
    VerdictWord.PROMOTE: ("PROMOTE", "good"),
    VerdictWord.DO_NOT_DEPLOY: ("DO NOT DEPLOY", "bad"),
    VerdictWord.NOT_ENOUGH_ITEMS: ("NOT ENOUGH ITEMS", "unsure"),
}


def decided(report: Report) -> Report:
    """The report with the verdict that counts: what the figures allow, people can refuse."""
    gate = report.gate
    if gate.verdict is not VerdictWord.PROMOTE or not people_object(report):
        return report
    said = f"The figures would allow it, people do not: {(report.human or {}).get('sentence', '')}"
    changed = gate.model_copy(update={"verdict": VerdictWord.DO_NOT_DEPLOY, "summary": said})
    return report.model_copy(update={"gate": changed})


def outcome(report: Report) -> Verdict:
    """What to do, in big words, and why."""
    gate = decided(report).gate
    if gate.verdict is None or not report.complete:
        return Verdict("NO VERDICT", gate.summary or "The comparison is not complete.", "unsure")
    words, tone = _WORDS[gate.verdict]
    return Verdict(words, gate.summary, tone)


def people_object(report: Report) -> bool:
    """Whether blind judgement of the very two arms of the gate prefers the other one, beyond chance."""
    human, gate = report.human or {}, report.gate
    preference = human.get("preference") or {}
    is_about = (human.get("arm"), human.get("against")) == (gate.arm, gate.against)
    return bool(is_about and preference.get("of") and preference["interval_95"][1] < 1 / 2)
