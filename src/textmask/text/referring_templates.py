"""The wordings of generated prompts: for training, and paraphrases that training never has."""

from __future__ import annotations

# kind of program -> (wordings for training, unseen paraphrases); the slots are phrases without an article
TEMPLATES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "name": (
        ("{a}", "the {a}", "outline the {a}", "segment the {a}", "Where is the {a}?"),
        ("please delineate the {a}", "Draw a contour of the {a}.", "I need a mask of the {a}"),
    ),
    "patient_side": (
        ("the {a} on the patient's {side} side", "the patient's {side} {a}"),
        ("outline the {a} of the patient's {side} side", "the {a} on the {side} of the patient"),
    ),
    "image_side": (
        ("the {a} on the {side} side of the image", "the {a} on the {side} of the image"),
        ("the {a} in the {side} half of the picture", "find the {a} at the {side} of the picture"),
    ),
    "nth": (
        ("the {nth} {a} from the {start}", "{nth} {a} from the {start}"),
        ("mark the {nth} {a}, counted from the {start}", "the {a} that is {nth} from the {start}"),
    ),
    "border": (
        ("the {most} {a}", "segment the {most} {a}"),
        ("please outline the {most} one of the {a}", "show me the {most} {a}"),
    ),
    "range": (
        ("{a} to {b}", "from {a} to {b}"),
        ("all of {a} through {b}", "please mark {a} down to {b}"),
    ),
    "relation": (
        ("the {a} {relation} the {b}", "outline the {a} {relation} the {b}"),
        ("the {a} that lies {relation} the {b}", "Mark the {a} located {relation} the {b}."),
    ),
    "inside": (
        ("what lies inside the {b}", "the structure inside the {b}"),
        ("whatever is enclosed by the {b}", "mark what is surrounded by the {b}"),
    ),
    "compared": (
        ("the {more} of the two {plural}", "the {a} with the {more} cross-section"),
        ("whichever {a} is {more}", "outline the {a} with the {more} area"),
    ),
    "instance": (
        ("the {more} {a}", "segment the {more} {a}"),
        ("please outline the {more} piece of the {a}", "show me the {more} {a}"),
    ),
    "both": (
        ("both {plural}", "the {plural}", "outline both {plural}"),
        ("left and right {a}", "please mark the {plural} of both sides"),
    ),
    "group": (("all {plural}", "every {a}", "the {plural}"), ("mark each {a}", "I want all of the {plural}")),
    "union": (
        ("the {a} and the {b}", "the {a} with the {b}", "outline the {a} and the {b}"),
        ("the {a} together with the {b}", "show the {a} as well as the {b}"),
    ),
    "all_but": (
        ("every structure except the {a}", "all but the {a}"),
        ("everything other than the {a}", "outline all structures apart from the {a}"),
    ),
    "group_but": (
        ("all {plural} except the {b}", "every {a} but the {b}"),
        ("the {plural} without the {b}", "mark each {a} other than the {b}"),
    ),
    "distractor": (
        ("The {b} is unremarkable. Show only the {a}.", "The {b} is normal. Outline the {a}."),
        ("Show the {a}, the {b} is intact.", "An unremarkable {b}. Please delineate the {a}."),
    ),
    "negation": (
        ("not the {b} but the {a}", "the {a}, not the {b}"),
        ("segment the {a} rather than the {b}", "the {a} instead of the {b}"),
    ),
    "negated_finding": (
        ("No {a} is to be marked.", "Do not outline the {a}."),
        ("Never segment the {a}.", "There is no {a} to be shown."),
    ),
    "contradictory": (
        ("the left right {a}", "the right left {a}"),
        ("outline the right {a} on the left side", "the left {a} on the right side"),
    ),
    "report": (
        ("Outline the {a}. Mark the {b}.", "There is the {a}. The {c} is normal. There is the {b}."),
        ("Segment the {a}; then show the {b}.", "Delineate the {a}. Find the {b} too."),
    ),
}  # fmt: skip
