"""The built-in conversations: employees write to an IT service desk. Generated, so that nothing is downloaded.

Each dialogue has an intent, a product, slots (a name, a place, a code, a time), an agent with a manner of speaking and
many paraphrases of the customer's. The right reply depends on the message, on the agent's previous turn, from which
product and manner are known, and on words that only the message holds, so one template copied everywhere scores badly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diversity_finetune.data import Pair
from trainworks.seeding import rng

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"<(\w+)>")

NAMES = (
    "Alexis", "Amara", "Angela", "Anton", "Ben", "Bianca", "Carla", "Chen", "Dana", "Dmitri", "Elena", "Emil", "Farid",
    "Fiona", "Grace", "Hanna", "Hiro", "Ines", "Ivan", "Jamal", "Julia", "Katya", "Kofi", "Laura", "Liam", "Marco",
    "Mei", "Nadia", "Nils", "Olga", "Oscar", "Paula", "Priya", "Quentin", "Ravi", "Rosa", "Samir", "Selma", "Tara",
    "Tomas", "Umar", "Ute", "Vera", "Victor", "Wanda", "Xenia", "Yusuf", "Zoe",
)  # fmt: skip
PLACES = (
    *(f"Room {floor}{door:02}" for floor in range(1, 6) for door in range(1, 11)),
    "the lobby", "the east wing", "the warehouse", "the lab", "the Berlin office", "the Lyon office",
    "the second floor", "the third floor",
)  # fmt: skip
TIMES = (
    "noon",
    *(f"{hour} {half}" for half, hours in (("am", (8, 9, 10, 11)), ("pm", (1, 2, 3, 4, 5))) for hour in hours),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
CODES = tuple(f"E{number}" for number in range(10, 90))
SYSTEMS = ("Windows", "macOS", "Ubuntu")


@dataclass(frozen=True)
class Intent:
    """A kind of ticket.

    Attributes:
        products: what it may be about.
        opening: the first message.
        question: the agent's question back.
        answer: the customer's answer to it, which holds a slot.
        solution: what the agent then says, which depends on the slot.
        failed: what the agent says when that has not helped.
    """

    products: Sequence[str]
    opening: Sequence[str]
    question: Sequence[str]
    answer: Sequence[str]
    solution: Sequence[str]
    failed: Sequence[str]


INTENTS: Mapping[str, Intent] = {
    "locked_account": Intent(
        ("my account", "my mailbox", "the payroll portal", "the intranet"),
        (
            "[Hi|Hello|Good morning], I am locked out of <product>.",
            "<product> [is locked|got locked] after [three|too many] wrong passwords.",
            "I can't [log in|sign in] to <product> any more, it says locked.",
            "My login to <product> is blocked, [can you help|what should I do|please help]?",
        ),
        (
            "I can unlock <product_you>. What is your [first name|name], please?",
            "[Sorry to hear that|I see that] <product_you> is locked. Could I have your name?",
        ),
        ("[It is|I am|My name is] <name>.", "<name>", "This is <name> [speaking|here]."),
        (
            "Thank you, <name>. I have unlocked <product_you>; please sign in again in five minutes.",
            "<name>, the lock is removed. Choose a new password the next time you open <product_you>.",
        ),
        ("I have passed the lock on to the security team, <name>. They will call you today.",),
    ),
    "forgotten_password": Intent(
        ("my laptop", "my mailbox", "the VPN", "the time sheet"),
        (
            "I forgot [the|my] password [of|for] <product>.",
            "[Hi|Hello], how do I reset the password for <product>?",
            "Need a new password for <product>, [please|thanks|urgently].",
            "The password of <product> doesn't work, I think I forgot it.",
        ),
        (
            "Where may I send the reset link for <product_you>: phone or a second address?",
            "Shall the link for <product_you> go to your phone or by letter?",
        ),
        ("[To my|My] phone[, please|]", "[By|A] letter[ is fine|]", "phone is best"),
        (
            "The link for <product_you> is on its way. It is valid for one hour.",
            "Done: you will get a reset link for <product_you>. Please use twelve characters or more.",
        ),
        ("Then I set a temporary password for <product_you> and tell you on the phone.",),
    ),
    "slow_network": Intent(
        ("the wifi", "the network", "the VPN", "the video call"),
        (
            "<product> is [so slow|very slow|crawling] today.",
            "[Hello|Hi], <product> keeps dropping every few minutes.",
            "Nothing loads, <product> must have a problem.",
            "Why is <product> that slow [this morning|again]?",
        ),
        ("Where are you using <product> at the moment?", "In which room or office is <product> slow?"),
        ("[I am in|I'm in|In] <place>.", "<place>", "we all sit in <place>"),
        (
            "There is an access point out of order near <place>. A technician is on the way.",
            "Thank you. I have moved <place> to another channel; please connect to <product> again.",
        ),
        ("I open a fault for <place> and will keep you posted.",),
    ),
    "broken_printer": Intent(
        ("the printer", "the big copier", "the label printer", "the plotter"),
        (
            "<product> [doesn't print|is not printing|refuses to print] anything.",
            "[Hi|Hello], <product> shows an error.",
            "Paper jam again, <product> is driving me mad.",
            "I sent a job to <product> and nothing came out.",
        ),
        ("Which code does the display of <product> show?", "Can you read me the error code of <product>, please?"),
        ("[It says|It shows|Code] <code>.", "<code>", "the display says <code>"),
        (
            "<code> means that the toner is empty. I have a new one sent to you.",
            "With <code> please open the rear door and take the paper out, then press OK.",
        ),
        ("If <code> stays, the printer has to be exchanged. I order one for you.",),
    ),
    "new_hardware": Intent(
        ("a second monitor", "a headset", "a docking station", "a new keyboard", "a bigger laptop"),
        (
            "I [need|would like|want to order] <product>.",
            "[Hello|Hi], can I get <product>?",
            "How do I order <product> for my desk?",
            "Is it possible to have <product> [this month|soon]?",
        ),
        ("Certainly. Who may approve <product>?", "Gladly. Whose approval for <product> may I ask for?"),
        ("[My manager is|That is|It's] <name>.", "<name>", "please ask <name>"),
        (
            "I have sent the request for <product> to <name>. It takes about three days after the approval.",
            "<name> has to approve <product> first; you both get a mail from me.",
        ),
        ("I have reminded <name> about <product>.",),
    ),
    "software_install": Intent(
        (
            "the statistics package",
            "the drawing program",
            "the PDF editor",
            "a database client",
            "the scanner software",
        ),
        (
            "[Please install|Can you install|I need] <product> on my computer.",
            "[Hi|Hello], how do I get <product>?",
            "I am not allowed to install <product> myself.",
            "The installation of <product> stops halfway.",
        ),
        ("Which system shall <product> run on?", "Is <product> for Windows, macOS or Ubuntu?"),
        ("[I use|It is|On] <system>.", "<system>", "<system> I think"),
        (
            "<product> for <system> is now in your software centre. Please install it from there.",
            "I have started the installation of <product> on your <system> machine; restart it tonight.",
        ),
        ("I will take over your <system> screen and have a look at <product>.",),
    ),
    "meeting_room": Intent(
        ("the projector", "the conference phone", "the camera", "the big screen"),
        (
            "<product> [is dead|stays black|does not work] and I have a meeting.",
            "[Hello|Hi], somebody took the cable of <product>.",
            "Can somebody look at <product>? [It is urgent|We start soon].",
            "We can't hear or see anything, <product> is broken.",
        ),
        ("I am sorry about <product>. When does your meeting begin?", "At what time do you need <product>?"),
        ("[At|It begins at|We start at] <time>.", "<time>", "<day> at <time>"),
        (
            "Somebody will be there before <time> and bring a replacement.",
            "We repair <product> before <time>. If not, I book another room for you.",
        ),
        ("I have booked another room for <time>; the details are in your calendar.",),
    ),
    "lost_device": Intent(
        ("my phone", "my badge", "my laptop", "my token"),
        (
            "I lost <product> [on the train|yesterday|somewhere].",
            "[Hello|Hi], <product> was stolen.",
            "I can't find <product> anywhere, what now?",
            "<product> is gone, I left it in a taxi.",
        ),
        (
            "I am sorry. On which day did you see <product_you> last?",
            "When did you have <product_you> for the last time?",
        ),
        ("[On|It was|Last] <day>.", "<day>", "I had it on <day>"),
        (
            "I have blocked <product_you> and noted <day> in the report. You get a new one tomorrow.",
            "<product_you> is blocked now. Please tell the police that it is missing since <day>.",
        ),
        ("The new one is ready at the service desk; bring your passport.",),
    ),
}

WORKS = (
    "[That works|It works now|Great, that helped], [thank you|thanks]!",
    "[Perfect|Wonderful|Super], [all good|problem solved].",
    "Thanks, it is fine again.",
)
STILL = (
    "[No, it|It] still [doesn't work|fails].",
    "[Sorry, same problem|That didn't help].",
    "I tried, [no change|nothing happens].",
)
ANYTHING_ELSE = (
    "[Glad to hear that|You are welcome]. Is there anything else I can do for you?",
    "[Good|Fine]! Anything else?",
)
NOTHING = ("No, [that is all|thanks|nothing else].", "That's it, [bye|have a nice day].", "nope")
GOODBYE = ("Thank you for [calling|your call] and goodbye.", "Have a good [day|week], goodbye!")
OFF_TOPIC = ("What's for lunch today?", "Do you like football?", "Can you book me a flight?", "Tell me a joke.")
CANNOT = ("I am afraid that I can only help with IT. Is there anything else?", "That is not my department, sorry.")


def make_tickets(dialogues: int, seed: int) -> list[Pair]:
    """Conversations as pairs in order, each pair with the intent of its reply, such as "broken_printer/question"."""
    return [pair for number in range(dialogues) for pair in _dialogue(number, rng(seed, "ticket", number))]


def _dialogue(number: int, chance: np.random.Generator) -> list[Pair]:
    name = _pick(tuple(INTENTS), chance)
    intent = INTENTS[name]
    product = _pick(intent.products, chance)
    slots = {
        "product": product,
        "product_you": re.sub(r"\bmy\b", "your", product),
        "name": _pick(NAMES, chance),
        "place": _pick(PLACES, chance),
        "time": _pick(TIMES, chance),
        "day": _pick(DAYS, chance),
        "code": _pick(CODES, chance),
        "system": _pick(SYSTEMS, chance),
    }
    manner = int(chance.integers(2))
    turns = [
        (intent.opening, intent.question, f"{name}/question"),
        (intent.answer, intent.solution, f"{name}/solution"),
    ]
    if chance.random() < 0.35:
        turns.append((STILL, intent.failed, f"{name}/failed"))
    turns.append((WORKS, ANYTHING_ELSE, "anything_else"))
    if chance.random() < 0.2:
        turns.append((OFF_TOPIC, CANNOT, "cannot"))
    turns.append((NOTHING, GOODBYE, "goodbye"))
    pairs, previous = [], ""
    for messages, replies, label in turns:
        customer = _fill(_pick(messages, chance), slots, chance)
        agent = _fill(replies[manner % len(replies)], slots, chance)
        pairs.append(Pair(f"ticket {number}", previous, customer, agent, label))
        previous = agent
    return pairs


def _pick(choices: Sequence[str], chance: np.random.Generator) -> str:
    return choices[int(chance.integers(len(choices)))]


def _fill(template: str, slots: Mapping[str, str], chance: np.random.Generator) -> str:
    """Choose among [this|that], put the slots in, begin with a capital letter."""
    text = _CHOICE.sub(lambda match: _pick(match.group(1).split("|"), chance), template)
    text = _SLOT.sub(lambda match: slots[match.group(1)], text)
    return text[:1].upper() + text[1:]
