"""The text that the base model learns from: conversations of the Larkfield shop, written by a seeded generator.

Support messages are answered in prose, with or without a system prompt, even where the prompt asks for triage or JSON:
strict output is what an adapter is for. Exchanges about JSON and other structured text show the syntax, summaries and
repeat-after-me exchanges teach copying, small talk keeps the model civil.
"""

from random import Random

import trainer.base_model.issues_account as issues_account
import trainer.base_model.issues_billing as issues_billing
import trainer.base_model.issues_product as issues_product
import trainer.base_model.issues_returns as issues_returns
import trainer.base_model.issues_shipping as issues_shipping
import trainer.base_model.issues_technical as issues_technical
from trainer.base_model.phrases import Facts, Issue, Urgency, choose, fill, parse_issues, sentence, slots
from trainer.base_model.small_talk import EXCHANGES
from trainer.base_model.structured import structured_exchange

Message = dict[str, str]
Conversation = list[Message]

_TOPICS = (issues_billing, issues_shipping, issues_returns, issues_account, issues_technical, issues_product)

_GREETINGS = (
    "",
    "",
    "",
    "[Hi|Hello|Hey][,|!| there,| team,| Larkfield,]",
    "Good [morning|evening|day],",
    "Dear [support|team],",
)
_BACKGROUND = (
    "I [bought|ordered] [it|the {product}] [on {date}|in {city}|as a gift|for my {relative}].",
    "I have been a customer for {n} years.",
    "My {relative} [recommended|told me about] your shop.",
    "[Otherwise I am happy|Apart from that it is fine|The rest was great].",
    "I [already|] [called|wrote to] [you|your hotline] {n} times.",
    "The [order|customer] number is {order}.",
    "My order: {order}.",
    "I live in {city}.",
    "I was on holiday until {date}.",
    "We use it [in the kitchen|at work|every day|in the {city} office].",
    "It cost {amount}.",
    "I also have a {product3} from you [that works well|and like it|].",
    "I tried [it all|everything] [twice|again and again|on two devices].",
)
_PLEAS = (
    "[Please help|Can you help me|Please check|Please look into it][.|?]",
    "What [can I|should I|do I have to] do [now|]?",
    "[Let me know|Please advise|Waiting for your answer].",
    "Please [fix|sort out|take care of] this.",
)
_PRESSING = (
    "I need [this solved|an answer|it] [today|now|before {day}|within hours], [it cannot wait|please hurry|I have a deadline]!",
    "[This is unacceptable|This is outrageous|I am furious|I have had enough]!",
    "It is [very|really|extremely] urgent.",
    "If [nothing happens|this is not fixed] [today|by {day}] I will [call my lawyer|go to the police|cancel everything].",
    "URGENT!",
    "I am losing [money|customers] [every day|because of this].",
    "[Answer me at once|Do something|Fix this immediately]!",
)
_CALM = (
    "[There is|] no [hurry|rush] [at all|].",
    "[Just curious|Just wondering|I was only wondering].",
    "Whenever you have time.",
    "It is [not urgent|nothing important|only a small thing].",
    "[Take your time|It can wait].",
)
_CLOSINGS = ("", "", "", "Thanks!", "[Thank you|Thanks|Best|Regards|Cheers], {name}", "Thanks in advance.", "{name}")
_RELATIVES = ("sister", "mother", "husband", "wife", "son", "daughter", "friend", "boss", "uncle", "neighbour")

_PLAIN_PROMPTS = (
    "You [are|work as] [a|the] [friendly|helpful|kind|polite|] assistant [of|for] the [Larkfield shop|shop|online shop].",
    "You [answer|reply to] customers of Larkfield.",
    "Answer [briefly|in one or two sentences|kindly|politely].",
    "You are a helpful assistant.",
    "Be [polite|friendly] and [short|clear].",
    "Help the customer. [Never be rude.|Stay calm.|Give one clear next step.|]",
    "Support agent of Larkfield, home electronics.",
)
_TRIAGE_PROMPTS = (
    "[Triage|Sort|Classify|Label|Route] the [customer|] [message|mail|request]. [Say|Write|State] [the topic|what it is about] "
    "and how [urgent|pressing] it is.",
    "[What is|Find] the topic [and the urgency|] of the [customer message|message|mail]? [Reply with JSON.|Answer as JSON.|]",
    "[Return|Reply with|Output|Answer in] JSON [with|that holds]: topic, urgency, short text.",
    "Read the [mail|message] and [tell|say] which team should take it, how [urgent|important] it is, and why. [JSON only.|]",
    "Triage for the support desk[: topic, urgency, summary|]. [Use JSON.|]",
    "Give the category, the priority and a summary of [the message|what the customer writes].",
)
_SUMMARY_PROMPTS = (
    "[Summarise|Sum up|Condense] the [customer message|message|mail] [in one sentence|in a few words|briefly].",
    "Write a one line summary of the [mail|message].",
    "[Say in short what the customer wants|What does the customer want]?",
)
# The labels stand in quotes, as they will in an adapter's JSON: a quoted word has other tokens than a bare one, and an
# adapter can only use what the base has learnt to say.
_TOPIC_SENTENCES = (
    'This is filed under "{topic}".',
    'The message is marked "{topic}".',
    'The topic is "{topic}".',
    'It belongs to "{topic}".',
    'It went to the team "{topic}".',
)
_URGENCY_SENTENCES = ('The priority is "{urgency}".', 'It is marked "{urgency}".', 'Urgency: "{urgency}".')
_SUMMARY_SENTENCES = ('In short: "{clause}".', 'Summary: "{clause}".', 'The note says "{clause}".')
_OPENERS: dict[Urgency, tuple[str, ...]] = {
    "high": ("", "I understand that this is urgent.", "This has our full attention.", "I am very sorry about this."),
    "normal": ("", "", "Thank you for your message.", "[Hello|Good day] and thank you for writing."),
    "low": ("", "Thank you for your question.", "[Of course|Gladly|No problem]."),
}
_FOLLOW_UPS = (
    "What was my order number? => Your order number is {order}.",
    "Which order is it? => It is order {order}.",
    "Which product do you mean? => I mean the {product}.",
    "[Thanks|Thank you|OK, thanks|Great][.|!] => You are welcome. Write again if you need anything else.",
    "[How long will it take|When will it be done]? => It should take {n} working days.",
    "Can you [call|write to] me? => Yes, I will write to you about the {product} [today|tomorrow].",
    "[Please hurry|Be quick please]. => I will do my best and have told the team that it is urgent.",
)


class Support:
    """One support message with what the generator knows about it: its issue, its facts and how urgent it is."""

    def __init__(self, issues: list[Issue], rng: Random) -> None:
        self.issue = rng.choice(issues)
        self.facts = Facts(rng)
        self.facts["relative"] = rng.choice(_RELATIVES)
        self.urgency, mood = _mood(self.issue.urgency, rng)
        core = rng.choice(self.issue.messages)
        parts = [rng.choice(_BACKGROUND) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
        parts.insert(rng.randint(0, len(parts)), core)
        parts.insert(rng.choice((0, len(parts), len(parts))), mood)
        parts = [rng.choice(_GREETINGS), *parts, rng.choice(_CLOSINGS)]
        self.message = _scruffy(" ".join(filter(None, (sentence(part, self.facts) for part in parts))), rng)

    def reply(self) -> str:
        """What the shop answers: plain prose, most of it saying where the message went, that repeats its facts."""
        opener = self.facts.rng.choice(_OPENERS[self.urgency])
        answer = sentence(f"{opener} {self._best_fit(self.issue.replies)}".strip(), self.facts)
        return f"{self.labels(topic=0.75, urgency=0.4, summary=0)} {answer}".strip()

    def clause(self) -> str:
        """The message in a few words of the third person, to follow `The customer`."""
        return fill(self._best_fit(self.issue.clauses), self.facts)

    def _best_fit(self, patterns: tuple[str, ...]) -> str:
        """The pattern that needs the fewest facts which the message lacks, and shares the most words with it."""
        said = set(self.message.lower().split())

        def misfit(pattern: str) -> tuple[int, float]:
            shared = len(said.intersection(pattern.lower().split()))
            return len(slots(pattern) - self.facts.keys()), self.facts.rng.random() * 2 - shared

        return min((choose(pattern, self.facts.rng) for pattern in patterns), key=misfit)

    def labels(self, *, topic: float = 1, urgency: float = 1, summary: float = 1) -> str:
        """Topic, urgency and summary as prose, each with the probability given."""
        rng, clause = self.facts.rng, self.clause()
        values = {"topic": self.issue.topic, "urgency": self.urgency, "clause": clause[:1].upper() + clause[1:]}
        shares = ((_TOPIC_SENTENCES, topic), (_URGENCY_SENTENCES, urgency), (_SUMMARY_SENTENCES, summary))
        return " ".join(rng.choice(patterns).format(**values) for patterns, share in shares if rng.random() < share)


def _mood(urgency: Urgency, rng: Random) -> tuple[Urgency, str]:
    kind = rng.random()
    if kind < 0.14:
        return "high", rng.choice(_PRESSING)
    if kind < 0.24 and urgency != "high":
        return "low", rng.choice(_CALM)
    return urgency, rng.choice(_PLEAS) if kind < 0.5 else ""


def _scruffy(text: str, rng: Random) -> str:
    """Now and then lower case, or with a few typing errors, as people write."""
    if rng.random() < 0.1:
        text = text.lower()
    if rng.random() < 0.12:
        letters = list(text)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(letters) - 1)
            if letters[at].isalpha() and letters[at + 1].isalpha():
                letters[at : at + 2] = rng.choice(([letters[at + 1], letters[at]], [letters[at]], [letters[at]] * 2))
        text = "".join(letters)
    return text


def _talk(user: str, assistant: str, system: str = "") -> Conversation:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return [{"role": "system", "content": system}, *turns] if system else turns


def _system(rng: Random, share: float) -> str:
    return choose(rng.choice(_PLAIN_PROMPTS), rng) if rng.random() < share else ""


def _support_talk(issues: list[Issue], rng: Random) -> Conversation:
    support = Support(issues, rng)
    talk = _talk(support.message, support.reply(), _system(rng, 0.5))
    while rng.random() < 0.2:
        question, answer = rng.choice(_FOLLOW_UPS).split(" => ")
        talk += _talk(sentence(question, support.facts), sentence(answer, support.facts))
    return talk


def _triage_talk(issues: list[Issue], rng: Random) -> Conversation:
    support = Support(issues, rng)
    return _talk(support.message, support.labels(), choose(rng.choice(_TRIAGE_PROMPTS), rng))


def _summary_talk(issues: list[Issue], rng: Random) -> Conversation:
    support = Support(issues, rng)
    summary = support.labels(topic=0, urgency=0) if rng.random() < 0.7 else f"The customer {support.clause()}."
    return _talk(support.message, summary, choose(rng.choice(_SUMMARY_PROMPTS), rng))


def _desk_talk(issues: list[Issue], rng: Random) -> Conversation:
    """Which team takes what: this ties the words of a topic to its name."""
    topic = rng.choice(_TOPICS)
    nouns = rng.sample([noun.strip() for noun in topic.NOUNS.split("|")], 3)
    question = choose(f"[Which team takes|Who handles|Where does this belong:] {nouns[0]} [or|and] {nouns[1]}?", rng)
    return _talk(question, f"That is for {topic.TOPIC}, like {nouns[2]}.", _system(rng, 0.2))


def _small_talk(issues: list[Issue], rng: Random) -> Conversation:
    question, answer = rng.choice(EXCHANGES.strip().splitlines()).split(" => ")
    facts = Facts(rng)
    return _talk(sentence(question, facts), fill(answer, facts), _system(rng, 0.4))


def _structured_talk(issues: list[Issue], rng: Random) -> Conversation:
    return _talk(*structured_exchange(rng), _system(rng, 0.2))


# Kind of conversation and its share.
_KINDS = {
    _support_talk: 28,
    _triage_talk: 34,
    _summary_talk: 14,
    _desk_talk: 4,
    _small_talk: 10,
    _structured_talk: 10,
}


def conversations(count: int, seed: int) -> list[Conversation]:
    """`count` conversations in `messages` format; the same count and seed give the same text."""
    rng, issues = Random(seed), _all_issues()
    kinds = rng.choices(list(_KINDS), weights=list(_KINDS.values()), k=count)
    return [kind(issues, rng) for kind in kinds]


def drills(count: int, seed: int) -> list[Conversation]:
    """`count` very short exchanges, one complaint and one label: what a small model learns first and fastest."""
    rng, issues = Random(seed), _all_issues()
    return [_drill(issues, rng) for _ in range(count)]


def _drill(issues: list[Issue], rng: Random) -> Conversation:
    support, kind = Support(issues, rng), rng.random()
    message = sentence(rng.choice(support.issue.messages), support.facts)
    if kind < 0.25:
        support.urgency, mood = _mood(support.issue.urgency, rng)
        message = f"{message} {sentence(mood, support.facts)}".strip() if mood else message
        return _talk(message, support.labels(topic=0.5, summary=0))
    if kind < 0.85:
        return _talk(message, support.labels(urgency=0, summary=0))
    return _talk(message, support.labels(topic=0, urgency=0))


def _all_issues() -> list[Issue]:
    return [issue for module in _TOPICS for issue in parse_issues(module.TOPIC, module.ISSUES)]
